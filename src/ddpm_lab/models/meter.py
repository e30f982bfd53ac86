"""Meters of a likelihood: what training and evaluation ask of one, and one for all models that give each datum a number."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ddpm_lab.models.measurement import Part, Plain
from ddpm_lab.models.readings import Columns, mean_and_error


class Measured(Protocol):
    """A likelihood over n data, in bits/dim. The standard error is over data."""

    @property
    def total_bpd(self) -> float: ...
    @property
    def total_se(self) -> float: ...
    @property
    def n(self) -> int: ...


class Meter(ABC):
    """Measures a bound on the likelihood, or the likelihood itself, over data that come in batches and over processes."""

    label: str = "variational bound"

    @abstractmethod
    def add(self, x0: Tensor, first: int, *condition: Tensor) -> None:
        """Measure data in [−1, 1], whose indices are first, first + 1, … `condition`: of conditional data their labels."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Sums and lists of what was measured, which add up over parts of the data."""

    @abstractmethod
    def merge(self, state: dict[str, Tensor]) -> None:
        """Add the state of a later part."""

    @abstractmethod
    def gather(self) -> None:
        """Take in what every process has measured."""

    @abstractmethod
    def result(self) -> Measured:
        """Raises ValueError for fewer data than a standard error needs."""

    @abstractmethod
    def parts(self) -> list[Part]:
        """What the result adds up from; may be empty."""

    @abstractmethod
    def record(self) -> dict[str, Plain]:
        """How terms were chosen: fields of the record of the result."""

    @abstractmethod
    def arrays(self) -> dict[str, Any]:
        """For vlb_terms.npz. `times`, `terms_bpd`, `terms_se`, `terms_n`: the terms along the model's axis; `prior_bpd`, `n`,
        `stride`; `per_datum_bpd`, `per_datum_prior_bpd`, `index`: what was measured of each datum, to pair runs over. Where
        an estimate is in every datum's bits/dim, `shared_se`: its standard error."""


class Likelihood(NamedTuple):
    """Bits/dim over n data. The standard error is over data and, where there is one, over what all data share."""

    total_bpd: float
    total_se: float
    n: int


class Shared(NamedTuple):
    """A summand of every datum's bits/dim that is estimated once, as a partition function is."""

    key: str
    label: str
    bpd: float
    se: float


class PerDatum(Meter):
    """Of a model that gives each datum bits/dim as named summands: an exact likelihood, or a bound in its parts.

    `bits` gives them for data in [−1, 1] and their indices, by key; `labels` names them, in order. `shared`: makes what all
    data have in common, once it is needed. `how`: fields of the record, as {"likelihood": "exact"}; a true bound has none.
    """

    def __init__(
        self,
        label: str,
        bits: Callable[[Tensor, Tensor], Mapping[str, Tensor]],
        labels: Mapping[str, str],
        shared: Callable[[], Shared] | None = None,
        how: Mapping[str, Plain] | None = None,
    ) -> None:
        self.label, self.bits, self.labels = label, bits, labels
        self._shared, self.how = shared, dict(how or {})
        self._columns = Columns(labels)

    @torch.inference_mode()
    def add(self, x0: Tensor, first: int, *condition: Tensor) -> None:
        index = torch.arange(first, first + len(x0))
        self._columns.add(index, self.bits(x0, index))

    def state(self) -> dict[str, Tensor]:
        return self._columns.state()

    def merge(self, state: dict[str, Tensor]) -> None:
        self._columns.merge(state)

    def gather(self) -> None:
        self._columns.gather()

    @cached_property
    def shared(self) -> Shared | None:
        return None if self._shared is None else self._shared()

    @property
    def _per_datum(self) -> Tensor:
        return torch.stack(list(self._columns.values.values())).sum(0) + (self.shared.bpd if self.shared else 0.0)

    def result(self) -> Likelihood:
        mean, error = mean_and_error(self._per_datum)
        return Likelihood(mean, math.hypot(error, self.shared.se if self.shared else 0.0), len(self._columns.index))

    def parts(self) -> list[Part]:
        """None where the likelihood is one number."""
        parts = [Part(f"{key}_bpd", self.labels[key], *mean_and_error(values)) for key, values in self._columns.values.items()]
        parts += [Part(f"{self.shared.key}_bpd", *self.shared[1:])] if self.shared else []
        return parts if len(parts) > 1 else []

    def record(self) -> dict[str, Plain]:
        return {"stride": 1, **self.how}

    def arrays(self) -> dict[str, Any]:
        result, order = self.result(), self._columns.index.argsort()
        along = {"times": [1], "terms_bpd": [result.total_bpd], "terms_se": [result.total_se], "terms_n": [result.n]}
        per_datum = {"index": self._columns.index[order], "per_datum_bpd": self._per_datum[order]}
        per_datum["per_datum_prior_bpd"] = torch.zeros(result.n, dtype=torch.float64)
        shared_se = self.shared.se if self.shared else 0.0
        return along | per_datum | {"shared_se": shared_se, "prior_bpd": 0.0, "n": result.n, "stride": 1}
