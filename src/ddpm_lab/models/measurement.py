"""What evaluation measures of a trained model: measurements over data that are made piece by piece, kept on disk, and reported.
A model offers them (`Model.measurements`); evaluation knows no more of the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from annotated_types import Ge
from torch import Tensor

from ddpm_lab.domains import NonNegativeInt, PositiveFloat, PositiveInt
from ddpm_lab.models.readings import Reading, ReadingMeter

if TYPE_CHECKING:
    from ddpm_lab.models.contract import Model

Plain = str | int | float | bool | None
SPLITS = {"train": "training", "val": "held-out"}
"""Splits in words."""
PIECE = 32
"""Data of one piece of a bound."""
AUTO_TERMS, AUTO_STEPS = 10, 50
"""nll.terms=auto estimates the bound from so many terms per datum on chains of more than so many steps."""
TRAIN_STRIDE = 10
"""Of training data, where the bound of held-out data is measured in full and no nll.train_stride is given."""


class Likelihood(NamedTuple):
    """Which likelihoods are measured: the keys of `nll` in conf/evaluate/config.yaml."""

    split: Literal["val", "train"] = "val"
    n: Annotated[int, Ge(2)] | None = None
    chain: Literal["full", "sampler", "both", "continuous"] = "both"
    stride: PositiveInt = 1
    terms: PositiveInt | Literal["auto"] | None = "auto"
    clip: bool | None = None
    train_stride: NonNegativeInt | None = None
    ode_n: NonNegativeInt = 0
    ode_probes: PositiveInt | None = 1
    ode_tolerance: PositiveFloat = 1e-5

    def terms_on(self, steps: int) -> int | None:
        """Divergences per datum from which the bound on a chain of so many steps is estimated; None for all of them."""
        if self.terms != "auto":
            return self.terms
        return AUTO_TERMS if self.stride == 1 and steps > AUTO_STEPS else None


class Conditions(NamedTuple):
    """How a model is measured. `sizes`: data in each split; `parts`: the configuration of each group that was chosen for
    evaluation, which numbers depend on."""

    likelihood: Likelihood
    seed: int
    batch: int
    sizes: Mapping[str, int]
    parts: Mapping[str, Any]

    @property
    def n(self) -> int:
        """Data whose likelihood is measured."""
        size = self.sizes[self.likelihood.split]
        return min(self.likelihood.n or size, size)


class Part(NamedTuple):
    """A likelihood in bits/dim, or a summand of one. `level`: how deep it stands below the number that it is a part of."""

    key: str
    label: str
    value: float
    se: float | None
    level: int = 1


class PerDatum(NamedTuple):
    """The values of each datum, with the names of vlb_terms.npz: two choices can be paired over them."""

    per_datum_bpd: Tensor
    """The sum of the datum's measured terms."""
    per_datum_prior_bpd: Tensor
    """Its L_T; 0 for a likelihood without one."""
    index: Tensor
    stride: int
    """Data whose indices agree modulo this share their terms; 1 where each datum has all of them."""
    shared_se: float = 0.0
    """Standard error of what every datum's bits/dim have in common."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """One likelihood of the first n data of a split."""

    kind: str
    """Folder of its pieces."""
    key: str
    split: str
    n: int
    identity: Mapping[str, Any]
    """All that the values depend on besides checkpoint, weights, seed and data."""
    title: str
    """For a progress bar."""
    meter: Callable[..., Any]
    """Makes a meter without data (`add`, `state`, `merge` and `result` of `contract.Meter`), given the meters of `requires`."""
    numbers: Callable[..., list[Part]]
    """Of the meter and those of `requires`: the value, then what it is made of. Raises ValueError for fewer data than a
    standard error needs."""
    fields: Callable[[Any], Mapping[str, Plain]]
    """Of the meter: what is particular to these numbers in their records."""
    per_datum: Callable[[Any], PerDatum] | None = None
    """Of the meter."""
    is_bound: bool = False
    """Whether the meter's result is a `Bound`, whose terms are plotted and tabulated."""
    of_samples: bool = False
    """Whether this is the likelihood of the chain on which samples are drawn."""
    piece: int = PIECE
    """Data of one piece."""
    requires: Sequence["Measurement"] = ()
    """Measurements whose meters this one needs."""


def of_any_model(model: "Model", conditions: Conditions) -> list[Measurement]:
    """The likelihood that `Model.bound_meter` measures, where there is one, and the model's readings. Raises ValueError for
    settings that are those of a diffusion model."""
    likelihood = conditions.likelihood
    for name, default in (("terms", "auto"), ("clip", None)):
        if (value := getattr(likelihood, name)) not in (default, None):
            raise ValueError(f"nll.{name}={value}: {type(model).__name__} has no such setting")
    if likelihood.ode_n:
        raise ValueError(f"nll.ode_n={likelihood.ode_n}: {type(model).__name__} has no probability flow")

    readings = [_reading(key, reading, conditions) for key, reading in model.readings(conditions.seed).items()]
    return readings if model.no_likelihood else [_bound(model, conditions), *readings]


def _bound(model: "Model", conditions: Conditions) -> Measurement:
    likelihood, split, n = conditions.likelihood, conditions.likelihood.split, conditions.n

    def numbers(meter: Any) -> list[Part]:
        result, label = meter.result(), f"bits/dim, {model.given}{meter.label} ({n} {SPLITS[split]} data)"
        parts = [part._replace(key=f"bound_{part.key}") for part in meter.parts()]
        return [Part("bound", label, result.total_bpd, result.total_se, 0), *parts]

    def per_datum(meter: Any) -> PerDatum:
        arrays = meter.arrays()
        return PerDatum(**{name: arrays[name] for name in PerDatum._fields if name in arrays})

    return Measurement(
        kind="bound",
        key="bound",
        split=split,
        n=n,
        identity={"split": split, "stride": likelihood.stride, "parts": dict(conditions.parts)},
        title=f"likelihood of {n} {split} data",
        meter=lambda: model.bound_meter(likelihood.stride, conditions.seed),
        numbers=numbers,
        fields=lambda meter: {"unit": "bits/dim", **meter.record(), **model.bound_record()},
        per_datum=per_datum,
        of_samples=True,
    )


def _reading(key: str, reading: Reading, conditions: Conditions) -> Measurement:
    split, n = conditions.likelihood.split, conditions.n
    title = f"{reading.label} ({n} {SPLITS[split]} data)"
    return Measurement(
        kind=f"reading_{key}",
        key=key,
        split=split,
        n=n,
        identity={"split": split, "parts": dict(conditions.parts)},
        title=f"{reading.label} of {n} {split} data",
        meter=lambda: ReadingMeter(reading),
        numbers=lambda meter: [Part(key, title, *meter.result(), level=0)],
        fields=lambda meter: {"unit": reading.unit, **reading.how},
    )
