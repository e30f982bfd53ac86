"""What evaluation measures of a diffusion model: the bound on its chains, in full or estimated, its gap to training data, the
likelihood by the probability flow. Everything in bits/dim."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.path import Chain
from ddpm_lab.likelihood.bound import Bound, BoundMeter
from ddpm_lab.likelihood.estimate import BoundEstimator, pilot
from ddpm_lab.likelihood.flow import FlowMeter
from ddpm_lab.models.gamma import variance_record
from ddpm_lab.models.measurement import PIECE, SPLITS, Conditions, Measurement, Number, PerDatum, Plain

if TYPE_CHECKING:
    from ddpm_lab.models.diffusion import Diffusion

PILOT = 128
"""Training data from which an estimate learns where the terms are large."""


class Tallied:
    """A meter of likelihood/ with the network that it measures."""

    def __init__(self, meter: Any, net: Any) -> None:
        self._meter, self._net = meter, net

    def add(self, x0: Tensor, first: int) -> None:
        self._meter.add(self._net, x0, first)

    @property
    def tally(self) -> Any:
        return self._meter.tally

    def state(self) -> dict[str, Tensor]:
        return self.tally._asdict()

    def merge(self, state: dict[str, Tensor]) -> None:
        self._meter.tally = self.tally.plus(type(self.tally)(**state))

    def result(self) -> Any:
        return self._meter.result()


def chains(full: Chain, sampler: Chain, choice: str) -> dict[str, Chain]:
    """The chains to measure by name; where both have the same times, the one is measured under one name."""
    both = {"full": full} if sampler.times == full.times else {"full": full, "sampler": sampler}
    return both if choice == "both" else {choice: full if choice == "full" else sampler}


def of_diffusion(model: "Diffusion", conditions: Conditions) -> list[Measurement]:
    """Every likelihood that the conditions ask for. Raises ValueError for a stride beyond the chains or the data."""
    likelihood, sizes = conditions.likelihood, conditions.sizes
    full, sampled = model.diffusion.chain, model.sampler.chain(model.diffusion.schedule)
    measurements: list[Measurement] = []
    measured = chains(full, sampled, likelihood.chain)
    if likelihood.stride > (longest := max(map(len, measured.values()))):
        raise ValueError(f"nll.stride={likelihood.stride}: a chain of {longest} steps allows 1 to {longest}")
    for name, chain in measured.items():
        key = f"bound_{len(chain)}" if name == "sampler" else "bound"
        place = (model, conditions, chain, key, likelihood.split, conditions.n)
        if likelihood.terms is not None:
            measurements.append(ChainEstimate(*place, likelihood.terms))
            continue
        bound = ChainBound(*place, min(likelihood.stride, len(chain)))
        measurements.append(bound)
        n, stride = min(conditions.n, sizes["train"]), min(likelihood.train_stride, len(chain))
        if name == "full" and likelihood.split == "val" and stride and n >= 2 * stride:
            measurements.append(Gap(model, conditions, chain, "bound_gap", "train", n, stride, requires=[bound]))
    for measurement in measurements:
        measurement.of_samples = isinstance(measurement, OnChain) and measurement.chain.times == sampled.times
    return measurements + ([FlowLikelihood(model, conditions)] if likelihood.ode_n else [])


class OnChain(Measurement):
    """A measurement of the bound on one chain."""

    def __init__(
        self, model: "Diffusion", conditions: Conditions, chain: Chain, key: str, split: str, n: int, stride: int
    ) -> None:
        self.model, self.conditions, self.chain, self.key = model, conditions, chain, key
        self.split, self.n, self.stride = split, n, stride
        self.clip = model.diffusion.clips_x0(conditions.likelihood.clip)

    @property
    def identity(self) -> dict[str, Any]:
        times = list(self.chain.times)
        return {
            "split": self.split,
            "stride": self.stride,
            "clip": self.clip,
            "variance": self.conditions.parts["variance"],
            "times": times if len(times) < self.chain.schedule.T else "all",
        }

    @property
    def fields(self) -> dict[str, Plain]:
        """Their part of the record."""
        whole = len(self.chain) == self.chain.schedule.T
        return (
            self.model.bound_record()
            | variance_record(self.model.diffusion.variance)
            | {
                "unit": "bits/dim",
                "steps": len(self.chain),
                "spacing": None if whole else self.model.sampler.spacing,
                "clip": self.clip,
                "stride": self.stride,
            }
        )

    @property
    def size(self) -> str:
        return f"({self.n} {SPLITS[self.split]} data)"


class ChainBound(OnChain):
    """The bound, term by term."""

    kind = "bound"

    def __init__(self, *place: Any, requires: Sequence[Measurement] = ()) -> None:
        super().__init__(*place)
        self.requires = requires
        if self.n < 2 * self.stride:
            raise ValueError(
                f"nll.stride={self.stride} needs at least {2 * self.stride} data, and there are {self.n}: use a smaller stride"
            )

    @property
    def title(self) -> str:
        return f"bound of {self.n} {self.split} data, {len(self.chain)} steps"

    def meter(self, *required: Tallied) -> Tallied:
        seed, batch = self.conditions.seed, self.conditions.batch
        return Tallied(BoundMeter(self.model.diffusion, self.chain, self.stride, seed, self.clip, batch), self.model.net)

    def numbers(self, meter: Tallied, *required: Tallied) -> list[Number]:
        bound, fields, key = meter.result(), self.fields, self.key
        label = f"bits/dim, variational bound, {len(self.chain)} steps {self.size}"
        divergences = f"L_1 .. L_{len(bound.times) - 1}, divergences"
        return [
            Number(key, label, bound.total_bpd, bound.total_se, 0, fields),
            Number(f"{key}_prior", "L_T, prior", bound.prior_bpd, None, 1, fields),
            Number(f"{key}_kl", divergences, bound.kl_bpd, None, 1, fields),
            Number(f"{key}_mismatch", "of it, the cost of the variances alone", bound.mismatch_bpd, None, 2, fields),
            Number(f"{key}_decoder", "L_0, decoder", bound.decoder_bpd, float(bound.terms_se[0]), 1, fields),
        ]

    def per_datum(self, meter: Tallied) -> PerDatum | None:
        _, sums, index, priors = meter.tally
        return _per_datum(sums, priors, index, self.stride)

    def bound(self, meter: Tallied) -> Bound | None:
        return meter.result()


class Gap(ChainBound):
    """The bound of training data, and how far that of held-out data lies above it: what the network has memorised."""

    def numbers(self, meter: Tallied, *required: Tallied) -> list[Number]:
        train, held_out = meter.result(), required[0].result()
        error, fields = (held_out.total_se**2 + train.total_se**2) ** 0.5, self.fields
        label = f"bound of {train.n} training data, each at every {train.stride}th t"
        return [
            Number("bound_train", label, train.total_bpd, train.total_se, 1, fields),
            Number("bound_gap", "held-out above training data", held_out.total_bpd - train.total_bpd, error, 1, fields),
        ]

    def per_datum(self, meter: Tallied) -> PerDatum | None:
        return None

    def bound(self, meter: Tallied) -> Bound | None:
        return None


class ChainEstimate(OnChain):
    """The bound from `terms` divergences per datum, drawn where a pilot on training data has large terms."""

    kind, piece = "estimate", 8 * PIECE

    def __init__(
        self, model: "Diffusion", conditions: Conditions, chain: Chain, key: str, split: str, n: int, terms: int
    ) -> None:
        super().__init__(model, conditions, chain, f"{key}_estimate", split, n, 1)
        train = conditions.sizes["train"]
        stride = max(1, min(len(chain) // 50, PILOT // 2, train // 2))
        self.terms = terms
        self.pilot = ChainBound(model, conditions, chain, "pilot", "train", min(PILOT, train), stride)
        self.requires = [self.pilot]

    @property
    def identity(self) -> dict[str, Any]:
        of_pilot = {name: getattr(self.pilot, name) for name in ("split", "n", "stride", "clip")}
        return super().identity | {"terms": self.terms, "pilot": of_pilot}

    @property
    def title(self) -> str:
        return f"bound of {self.n} {self.split} data by {self.terms} terms, {len(self.chain)} steps"

    def meter(self, *required: Tallied) -> Tallied:
        p, conditions, model = pilot(required[0].result()), self.conditions, self.model
        return Tallied(
            BoundEstimator(model.diffusion, self.chain, p, self.terms, conditions.seed, self.clip, conditions.batch), model.net
        )

    def numbers(self, meter: Tallied, *required: Tallied) -> list[Number]:
        estimate, key = meter.result(), self.key
        label = f"bits/dim, variational bound, {len(self.chain)} steps, estimated by {estimate.calls} calls each {self.size}"
        fields = self.fields | {"stride": None, "terms": self.terms, "calls": estimate.calls}
        fields |= {"squared_error_per_call": estimate.cost_variance}
        return [
            Number(key, label, estimate.total_bpd, estimate.total_se, 0, fields),
            Number(f"{key}_prior", "L_T, prior", estimate.prior_bpd, None, 1, fields),
            Number(f"{key}_kl", "divergences", estimate.kl_bpd, estimate.kl_se, 1, fields),
            Number(f"{key}_decoder", "L_0, decoder", estimate.decoder_bpd, estimate.decoder_se, 1, fields),
        ]

    def per_datum(self, meter: Tallied) -> PerDatum | None:
        index, priors, decoder, kl = meter.tally
        return _per_datum(decoder + kl, priors, index)


class FlowLikelihood(Measurement):
    """The likelihood by the probability flow. It has no reverse variance, so it is that of another model."""

    kind, key, piece = "flow", "flow_bpd", rng.BLOCK

    def __init__(self, model: "Diffusion", conditions: Conditions) -> None:
        self.model, self.conditions, self.likelihood = model, conditions, conditions.likelihood
        self.split, self.n = self.likelihood.split, self.likelihood.ode_n

    @property
    def identity(self) -> dict[str, Any]:
        return {"split": self.split, "probes": self.likelihood.ode_probes, "tolerance": self.likelihood.ode_tolerance}

    @property
    def title(self) -> str:
        return f"probability flow of {self.n} {self.split} data"

    def meter(self, *required: Tallied) -> Tallied:
        probes, tolerance = self.likelihood.ode_probes, self.likelihood.ode_tolerance
        return Tallied(FlowMeter(self.model.diffusion, probes, tolerance, tolerance, self.conditions.seed), self.model.net)

    def numbers(self, meter: Tallied, *required: Tallied) -> list[Number]:
        flow = meter.result()
        fields: dict[str, Plain] = {
            "unit": "bits/dim",
            "model": "probability flow",
            "solver": "scipy RK45",
            "tolerance": self.likelihood.ode_tolerance,
            "probes": flow.probes,
            "calls": flow.calls,
        }
        label = f"bits/dim, probability flow: another model ({flow.n} {SPLITS[self.split]} data)"
        return [Number(self.key, label, flow.total_bpd, flow.total_se, 0, fields)]

    def per_datum(self, meter: Tallied) -> PerDatum | None:
        index, bpd, _ = meter.tally
        return _per_datum(bpd, bpd.new_zeros(len(bpd)), index)


def _per_datum(sums: Tensor, priors: Tensor, index: Tensor, stride: int = 1) -> PerDatum:
    order = index.argsort()
    return PerDatum(sums[order], priors[order], index[order], stride)
