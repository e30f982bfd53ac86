"""What evaluation measures of a trained model: measurements over data that are made piece by piece, kept on disk, and reported.
A model offers them (`Model.measurements`); evaluation knows no more of the model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from annotated_types import Ge
from torch import Tensor

from ddpm_lab.domains import NonNegativeInt, PositiveFloat, PositiveInt
from ddpm_lab.likelihood.bound import Bound

if TYPE_CHECKING:
    from ddpm_lab.models.contract import Model

Plain = str | int | float | bool | None
SPLITS = {"train": "training", "val": "held-out"}
"""Splits in words."""
PIECE = 32
"""Data of one piece of a bound."""


class Likelihood(NamedTuple):
    """Which likelihoods are measured: the keys of `nll` in conf/evaluate/config.yaml."""

    split: Literal["val", "train"] = "val"
    n: Annotated[int, Ge(2)] | None = None
    chain: Literal["full", "sampler", "both"] = "both"
    stride: PositiveInt = 1
    terms: PositiveInt | None = None
    clip: bool | None = None
    train_stride: NonNegativeInt = 10
    ode_n: NonNegativeInt = 0
    ode_probes: PositiveInt | None = 1
    ode_tolerance: PositiveFloat = 1e-5


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


class Number(NamedTuple):
    """A measured value. `level`: depth below the number that it is a part of; `fields`: its own fields of the record."""

    key: str
    label: str
    value: float
    se: float | None
    level: int = 0
    fields: Mapping[str, Plain] = {}


class PerDatum(NamedTuple):
    """The values of each datum, with the names of vlb_terms.npz: two choices can be paired over them."""

    per_datum_bpd: Tensor
    """The sum of the datum's measured terms."""
    per_datum_prior_bpd: Tensor
    """Its L_T; 0 for a likelihood without one."""
    index: Tensor
    stride: int
    """Data whose indices agree modulo this share their terms; 1 where each datum has all of them."""


class PieceMeter(Protocol):
    """Measures data in pieces whose states add up."""

    def add(self, x0: Tensor, first: int) -> None:
        """Data in [−1, 1] with the indices first, first + 1, …"""
        ...

    def state(self) -> dict[str, Tensor]:
        """The sums and lists so far."""
        ...

    def merge(self, state: dict[str, Tensor]) -> None:
        """Add those of a later piece."""
        ...

    def result(self) -> Any: ...


class Measurement(ABC):
    """One likelihood of the first n data of a split."""

    kind: ClassVar[str]
    """Folder of its pieces."""
    piece: ClassVar[int] = PIECE
    """Data of one piece."""
    key: str
    split: str
    n: int
    requires: Sequence["Measurement"] = ()
    """Measurements whose meters this one needs."""
    of_samples: bool = False
    """Whether this is the likelihood of the chain on which samples are drawn."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that the values depend on besides checkpoint, weights, seed and data."""

    @property
    @abstractmethod
    def title(self) -> str:
        """For a progress bar."""

    @abstractmethod
    def meter(self, *required: Any) -> Any:
        """A `PieceMeter` without data, given the meters of `requires`."""

    @abstractmethod
    def numbers(self, meter: Any, *required: Any) -> list[Number]:
        """The value, then what it is made of. Raises ValueError for fewer data than a standard error needs."""

    def per_datum(self, meter: Any) -> PerDatum | None:
        return None

    def bound(self, meter: Any) -> Bound | None:
        """The terms along a chain, where there are such."""
        return None


class ModelBound(Measurement):
    """The likelihood that `Model.bound_meter` measures."""

    kind, key, of_samples = "bound", "bound", True

    def __init__(self, model: "Model", conditions: Conditions) -> None:
        self.model, self.conditions = model, conditions
        self.split, self.n = conditions.likelihood.split, conditions.n

    @property
    def identity(self) -> dict[str, Any]:
        return {"split": self.split, "stride": self.conditions.likelihood.stride, "parts": dict(self.conditions.parts)}

    @property
    def title(self) -> str:
        return f"likelihood of {self.n} {self.split} data"

    def meter(self, *required: Any) -> Any:
        return self.model.bound_meter(self.conditions.likelihood.stride, self.conditions.seed)

    def numbers(self, meter: Any, *required: Any) -> list[Number]:
        result, fields = meter.result(), {"unit": "bits/dim", "stride": self.conditions.likelihood.stride}
        fields |= self.model.bound_record()
        label = f"bits/dim, {meter.label} ({self.n} {SPLITS[self.split]} data)"
        parts = [Number(f"bound_{part.key}", part.label, part.value, part.se, 1, fields) for part in meter.parts()]
        return [Number("bound", label, result.total_bpd, result.total_se, 0, fields), *parts]

    def per_datum(self, meter: Any) -> PerDatum | None:
        arrays = meter.arrays()
        return PerDatum(*(arrays[name] for name in PerDatum._fields))


def of_any_model(model: "Model", conditions: Conditions) -> list[Measurement]:
    """Its bound. Raises ValueError for settings that are those of a diffusion model."""
    likelihood = conditions.likelihood
    for name in ("terms", "clip"):
        if getattr(likelihood, name) is not None:
            raise ValueError(f"nll.{name}={getattr(likelihood, name)}: {type(model).__name__} has no such setting")
    if likelihood.ode_n:
        raise ValueError(f"nll.ode_n={likelihood.ode_n}: {type(model).__name__} has no probability flow")
    return [ModelBound(model, conditions)]
