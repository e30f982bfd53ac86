"""What evaluation measures of a diffusion model: the bound on its chains, in full or estimated, its gap to training data, the
likelihood by the probability flow. Everything in bits/dim."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ddpm_lab.core.path import Chain
from ddpm_lab.likelihood.bound import Bound, BoundMeter
from ddpm_lab.likelihood.estimate import BoundEstimator, Estimate, pilot
from ddpm_lab.models.continuous_measurements import flow, in_continuous_time
from ddpm_lab.models.measurement import PIECE, SPLITS, TRAIN_STRIDE, Conditions, Measurement, Part, Plain
from ddpm_lab.models.optimal import times_record
from ddpm_lab.models.tallied import Tallied, in_order

if TYPE_CHECKING:
    from ddpm_lab.models.diffusion import Diffusion

PILOT = 128
"""Training data from which an estimate learns where the terms are large."""


def bound_parts(bound: Bound) -> list[Part]:
    """What the bound adds up from, DDPM Eq. 5; and of the divergences the share that the variances alone cost."""
    return [
        Part("prior", "L_T, prior", bound.prior_bpd, None),
        Part("kl", f"L_1 .. L_{len(bound.times) - 1}, divergences", bound.kl_bpd, None),
        Part("mismatch", "of these, the cost of the variances", bound.mismatch_bpd, None, level=2),
        Part("decoder", "L_0, decoder", bound.decoder_bpd, float(bound.terms_se[0])),
    ]


def estimate_parts(estimate: Estimate, steps: int) -> list[Part]:
    """The same of an estimate."""
    return [
        Part("prior", "L_T, prior", estimate.prior_bpd, None),
        Part("kl", f"L_1 .. L_{steps - 1}, divergences", estimate.kl_bpd, estimate.kl_se),
        Part("decoder", "L_0, decoder", estimate.decoder_bpd, estimate.decoder_se),
    ]


def gap_quarters(held_out: Bound | Estimate, train: Bound | Estimate, steps: int) -> list[Part]:
    """Of the divergences' part of the gap what lies in each quarter of t; standard errors where both are estimates. None of
    chains whose first quarter has no divergence."""
    if steps < 8:
        return []
    parts, ends = [], [steps * quarter // 4 for quarter in range(5)]
    for i, value in enumerate((held_out.quarters_bpd - train.quarters_bpd).tolist()):
        error = None
        if isinstance(held_out, Estimate) and isinstance(train, Estimate):
            error = float(torch.hypot(held_out.quarters_se[i], train.quarters_se[i]))
        label = f"of it, divergences at t = {max(ends[i] + 1, 2)} .. {ends[i + 1]}"
        parts.append(Part(f"bound_gap_q{i + 1}", label, value, error, level=2))
    return parts


def of_diffusion(model: "Diffusion", conditions: Conditions) -> list[Measurement]:
    """Every likelihood that the conditions ask for. Raises ValueError for a stride beyond the chains or the data."""
    asked, sizes = conditions.likelihood, conditions.sizes
    if asked.chain == "continuous":
        return [in_continuous_time(model, conditions)] + ([flow(model, conditions)] if asked.ode_n else [])
    full, sampled = model.diffusion.chain, model.sampler.chain(model.diffusion.schedule)
    chains = {"full": full, "sampler": sampled}
    if asked.chain != "both":
        chains = {asked.chain: chains[asked.chain]}
    elif sampled.times == full.times:  # measured once
        del chains["sampler"]
    if asked.stride > (longest := max(map(len, chains.values()))):
        raise ValueError(f"nll.stride={asked.stride}: a chain of {longest} steps allows 1 to {longest}")
    measurements: list[Measurement] = []
    for name, chain in chains.items():
        key = f"bound_{len(chain)}" if name == "sampler" else "bound"
        place = OnChain(model, conditions, chain, asked.split, conditions.n)
        terms, stride = asked.terms_on(len(chain)), min(asked.stride, len(chain))
        bound = replace(place, stride=stride).bound(key) if terms is None else place.estimate(f"{key}_estimate", terms)
        measurements.append(bound)
        if name == "full" and asked.split == "val" and asked.train_stride != 0:
            measurements += gaps(bound, replace(place, split="train", n=min(conditions.n, sizes["train"])), terms)
    return measurements + ([flow(model, conditions)] if asked.ode_n else [])


def gaps(held_out: Measurement, train: "OnChain", terms: int | None) -> list[Measurement]:
    """The bound of training data, and its gap: estimated from as many `terms` as that of held-out data, or at every
    train_stride-th time. None where the stride leaves fewer than two data at a time."""
    asked = train.conditions.likelihood.train_stride
    if terms is not None and asked is None:
        return [train.gap(held_out, terms)]
    stride = min(asked or TRAIN_STRIDE, len(train.chain))
    return [replace(train, stride=stride).gap(held_out, None)] if train.n >= 2 * stride else []


@dataclass(frozen=True)
class OnChain:
    """The first n data of a split on a chain, each datum at every stride-th time."""

    model: "Diffusion"
    conditions: Conditions
    chain: Chain
    split: str
    n: int
    stride: int = 1

    @property
    def clip(self) -> bool:
        return self.model.diffusion.clips_x0(self.conditions.likelihood.clip)

    @property
    def identity(self) -> dict[str, Any]:
        times = self.chain.times
        return {
            "split": self.split,
            "stride": self.stride,
            "clip": self.clip,
            "variance": self.conditions.parts["variance"],
            "times": list(times) if len(times) < self.chain.schedule.T else "all",
        }

    @property
    def fields(self) -> dict[str, Plain]:
        """Their part of the record."""
        whole = len(self.chain) == self.chain.schedule.T
        return {
            **self.model.bound_record(),
            **self.model.variance_record(),
            "unit": "bits/dim",
            "steps": len(self.chain),
            "spacing": None if whole else self.model.sampler.spacing,
            **({} if whole else times_record(self.model.sampler, self.chain.schedule.T)),
            "clip": self.clip,
            "stride": self.stride,
        }

    def measurement(self, kind: str, key: str, by: str, **more: Any) -> Measurement:
        """What the bound and an estimate of it share."""
        of_samples = self.chain.times == self.model.sampler.chain(self.model.diffusion.schedule).times
        title = f"bound of {self.n} {self.split} data{by}, {len(self.chain)} steps"
        return Measurement(kind=kind, key=key, split=self.split, n=self.n, title=title, of_samples=of_samples, **more)

    def label(self, by: str = "") -> str:
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        kind = f"bits/dim, {self.model.given}variational bound"
        return f"{kind}, {len(self.chain)} steps{by} ({self.n} {SPLITS[self.split]} data{stride})"

    def bound(self, key: str) -> Measurement:
        """The bound, term by term. Raises ValueError for fewer than two data at a time."""
        seed, batch, stride = self.conditions.seed, self.conditions.batch, self.stride
        if self.n < 2 * stride:
            raise ValueError(
                f"nll.stride={stride} needs at least {2 * stride} data, and there are {self.n}: use a smaller stride"
            )

        def meter() -> Tallied:
            return Tallied(BoundMeter(self.model.diffusion, self.chain, stride, seed, self.clip, batch), self.model.network)

        def numbers(meter: Tallied) -> list[Part]:
            bound = meter.result()
            parts = [part._replace(key=f"{key}_{part.key}") for part in bound_parts(bound)]
            return [Part(key, self.label(), bound.total_bpd, bound.total_se, 0), *parts]

        return self.measurement(
            "bound",
            key,
            by="",
            identity=self.identity,
            meter=meter,
            numbers=numbers,
            fields=lambda meter: self.fields,
            per_datum=lambda meter: in_order(meter.tally.per_datum, meter.tally.priors, meter.tally.index, stride),
            is_bound=True,
        )

    def gap(self, held_out: Measurement, terms: int | None) -> Measurement:
        """The bound of training data, in full or from `terms` divergences, and how far that of held-out data lies above it:
        what the network has memorised."""
        alone = self.bound("bound_gap") if terms is None else self.estimate("bound_gap", terms)
        how = f"stride {self.stride}" if terms is None else f"from {terms} terms each"

        def numbers(meter: Tallied, *required: Tallied) -> list[Part]:
            train, held_out = meter.result(), required[-1].result()
            error = (held_out.total_se**2 + train.total_se**2) ** 0.5
            return [
                Part("bound_train", f"bound of {train.n} training data, {how}", train.total_bpd, train.total_se),
                Part("bound_gap", "held-out above training data", held_out.total_bpd - train.total_bpd, error),
                *gap_quarters(held_out, train, len(self.chain)),
            ]

        return replace(
            alone,
            meter=lambda *required: alone.meter(*required[:-1]),
            numbers=numbers,
            requires=[*alone.requires, held_out],
            per_datum=None,
            is_bound=False,
        )

    def estimate(self, key: str, terms: int) -> Measurement:
        """The bound from `terms` divergences per datum, drawn where a pilot on training data has large terms."""
        train = self.conditions.sizes["train"]
        stride = max(1, min(len(self.chain) // 50, PILOT // 2, train // 2))
        pilot_on = replace(self, split="train", n=min(PILOT, train), stride=stride)

        def meter(of_pilot: Tallied) -> Tallied:
            p, seed, batch = pilot(of_pilot.result()), self.conditions.seed, self.conditions.batch
            return Tallied(
                BoundEstimator(self.model.diffusion, self.chain, p, terms, seed, self.clip, batch), self.model.network
            )

        def numbers(meter: Tallied, _: Tallied) -> list[Part]:
            estimate = meter.result()
            whole = Part(
                key, self.label(f", estimated by {estimate.calls} calls each"), estimate.total_bpd, estimate.total_se, 0
            )
            parts = estimate_parts(estimate, len(self.chain))
            return [whole, *(part._replace(key=f"{key}_{part.key}") for part in parts)]

        def fields(meter: Tallied) -> Mapping[str, Plain]:
            calls, error = meter.result().calls, meter.result().cost_variance
            return self.fields | {"stride": None, "terms": terms, "calls": calls, "squared_error_per_call": error}

        of_pilot = {name: getattr(pilot_on, name) for name in ("split", "n", "stride", "clip")}
        return self.measurement(
            "estimate",
            key,
            by=f" by {terms} terms",
            identity=self.identity | {"terms": terms, "pilot": of_pilot, "quarters": 4},
            meter=meter,
            numbers=numbers,
            fields=fields,
            per_datum=lambda meter: in_order(meter.tally.decoder + meter.tally.kl, meter.tally.priors, meter.tally.index),
            piece=8 * PIECE,
            requires=[pilot_on.bound("pilot")],
        )
