"""The base of the meters: data come in batches, and tallies add up over batches and processes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.guidance import Network, of_rows
from ddpm_lab.core.types import Data

Tally = TypeVar("Tally", bound=tuple[Any, ...])
NO_DATA, NO_INDEX = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
"""Lists of no data."""


def plus(tally: Tally, other: Tally) -> Tally:
    """The measurement of the data of both. Fields with one dimension are lists of data and are joined; all others add up."""
    pairs = zip(tally, other, strict=True)
    return type(tally)(*(torch.cat([a, b]) if isinstance(a, Tensor) and a.ndim == 1 else a + b for a, b in pairs))


class Meter(ABC):
    """Measures data batch by batch. Draws for datum i depend on (seed, i) alone.

    The numbers of a batch are taken in once the next is launched, so that the device does not stand still between them.
    """

    _tally: Any
    _launched: Callable[[], Any] | None = None
    """Gives the tally of the last batch."""
    differentiates = False
    """Whether gradients flow through what is measured."""

    def add(self, net: Network, x0: Data, first: int) -> None:
        """Measure x0, whose data have the indices first, first + 1, …"""
        for start, stop in self._spans(first, first + len(x0)):
            rows = slice(start - first, stop - first)
            part, its_net = x0[rows], of_rows(net, rows)
            with torch.inference_mode(False), torch.set_grad_enabled(self.differentiates):
                launched = self._part(its_net, part, start, stop)
            self._take_in()
            self._launched = launched

    @property
    def tally(self) -> Any:
        """The measurement of the data so far: a named tuple, whose `plus` is the function above."""
        self._take_in()
        return self._tally

    @tally.setter
    def tally(self, tally: Any) -> None:
        self._tally, self._launched = tally, None

    def _take_in(self) -> None:
        if self._launched is not None:
            self._tally, self._launched = plus(self._tally, self._launched()), None

    def _spans(self, first: int, stop: int) -> Iterable[tuple[int, int]]:
        """Indices that are measured together."""
        return rng.parts(first, stop)

    @abstractmethod
    def _part(self, net: Network, x0: Data, start: int, stop: int) -> Callable[[], Any]:
        """Launches the measurement of x0, whose data have the indices start..stop−1; what it returns waits for the tally."""

    @abstractmethod
    def result(self) -> Any:
        """The result so far. Raises ValueError for fewer data than a standard error needs."""


class Summary(NamedTuple):
    """Mean and standard error over data."""

    mean: float
    se: float


def summary(values: Tensor) -> Summary:
    """Raises ValueError for fewer than two data."""
    if len(values) < 2:
        raise ValueError(f"a standard error needs at least 2 data, and there are {len(values)}")
    return Summary(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def quarters(times: tuple[int, ...]) -> Int[Tensor, " N"]:
    """The quarter of (0, T] in which each time of a chain to T lies: 0 to 3."""
    return (4 * torch.tensor(times) - 1) // times[-1]


def standard_error(mean: Tensor, square: Tensor, n: Tensor | int) -> Tensor:
    """Of a mean over n data, by the mean of their squares."""
    return ((square - mean**2).clamp(min=0) / (n - 1)).sqrt()
