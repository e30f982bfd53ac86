"""Likelihoods of a diffusion model in continuous time: of no chain, and under no reverse variance. In bits/dim."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from ddpm_lab.core import rng
from ddpm_lab.likelihood.continuous import ContinuousMeter
from ddpm_lab.likelihood.flow import FlowMeter
from ddpm_lab.models.measurement import AUTO_TERMS, PIECE, SPLITS, Conditions, Measurement, Part, Plain
from ddpm_lab.models.tallied import Tallied, in_order

if TYPE_CHECKING:
    from ddpm_lab.models.diffusion import Diffusion


def in_continuous_time(model: "Diffusion", conditions: Conditions) -> Measurement:
    """The variational bound as T → ∞. Raises ValueError for terms that cannot all be measured."""
    asked, split, n, key = conditions.likelihood, conditions.likelihood.split, conditions.n, "bound_continuous"
    if asked.terms is None:
        raise ValueError("nll.terms=null: continuous time has no last term; allowed is auto, or network calls per datum")
    calls = AUTO_TERMS if asked.terms == "auto" else asked.terms
    ContinuousMeter(model.diffusion, calls)

    def numbers(meter: Tallied) -> list[Part]:
        found = meter.result()
        label = f"bits/dim, {model.given}variational bound, continuous time, estimated by {calls} calls each"
        return [
            Part(key, f"{label} ({n} {SPLITS[split]} data)", found.total_bpd, found.total_se, 0),
            Part(f"{key}_prior", "prior, at γ(1)", found.prior_bpd, None),
            Part(f"{key}_kl", "diffusion", found.kl_bpd, found.kl_se),
            Part(f"{key}_decoder", "decoder, at γ(0)", found.decoder_bpd, found.decoder_se),
        ]

    def fields(meter: Tallied) -> Mapping[str, Plain]:
        how: dict[str, Plain] = {"unit": "bits/dim", "time": "continuous", "T": model.diffusion.schedule.T, "clip": False}
        how |= {} if model.classes is None else {"given": "class"}
        return how | {"calls": calls, "squared_error_per_call": meter.result().cost_variance}

    return Measurement(
        kind="continuous",
        key=key,
        split=split,
        n=n,
        identity={"split": split, "calls": calls},
        title=f"bound in continuous time of {n} {split} data",
        meter=lambda: Tallied(ContinuousMeter(model.diffusion, calls, conditions.seed, conditions.batch), model.network),
        numbers=numbers,
        fields=fields,
        per_datum=lambda meter: in_order(meter.tally.decoder + meter.tally.kl, meter.tally.priors, meter.tally.index),
        piece=8 * PIECE,
    )


def flow(model: "Diffusion", conditions: Conditions) -> Measurement:
    """The likelihood by the probability flow. It has no reverse variance, so it is that of another model."""
    asked, split, n = conditions.likelihood, conditions.likelihood.split, conditions.likelihood.ode_n
    probes, tolerance = asked.ode_probes, asked.ode_tolerance

    def numbers(meter: Tallied) -> list[Part]:
        flow, label = meter.result(), f"bits/dim, {model.given}probability flow: another model ({n} {SPLITS[split]} data)"
        return [Part("flow_bpd", label, flow.total_bpd, flow.total_se, 0)]

    def fields(meter: Tallied) -> Mapping[str, Plain]:
        how: dict[str, Plain] = {"unit": "bits/dim", "model": "probability flow", "solver": "scipy RK45"}
        how |= {} if model.classes is None else {"given": "class"}
        return how | {"tolerance": tolerance, "probes": probes, "calls": meter.result().calls}

    return Measurement(
        kind="flow",
        key="flow_bpd",
        split=split,
        n=n,
        identity={"split": split, "probes": probes, "tolerance": tolerance},
        title=f"probability flow of {n} {split} data",
        meter=lambda: Tallied(FlowMeter(model.diffusion, probes, tolerance, tolerance, conditions.seed), model.network),
        numbers=numbers,
        fields=fields,
        per_datum=lambda meter: in_order(meter.tally.bpd, torch.zeros_like(meter.tally.bpd), meter.tally.index),
        piece=rng.BLOCK,
    )
