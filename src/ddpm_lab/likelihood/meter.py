"""The base of the meters: data come in batches, and tallies add up over batches and processes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import Network
from ddpm_lab.core.types import Data

Itself = TypeVar("Itself", bound="Tally")
Lists = TypeVar("Lists", bound=tuple[Tensor, ...])


@runtime_checkable
class Tally(Protocol):
    """A measurement of some data."""

    def plus(self: Itself, other: Itself) -> Itself:
        """The measurement of both."""
        ...


class Meter(ABC):
    """Measures data batch by batch. Draws for datum i depend on (seed, i) alone."""

    tally: Any
    """A `Tally`: tallies of parts of the data add up by `plus`."""
    differentiates = False
    """Whether the measurement needs gradients."""

    def add(self, net: Network, x0: Data, first: int) -> None:
        """Measure x0, whose data have the indices first, first + 1, …"""
        for start, stop in self._spans(first, first + len(x0)):
            part = x0[start - first : stop - first]
            with torch.inference_mode(not self.differentiates), torch.set_grad_enabled(self.differentiates):
                self.tally = self.tally.plus(self._part(net, part, start, stop))

    def _spans(self, first: int, stop: int) -> Iterable[tuple[int, int]]:
        """Indices that are measured together."""
        return rng.parts(first, stop)

    @abstractmethod
    def _part(self, net: Network, x0: Data, start: int, stop: int) -> Tally:
        """Measure x0, whose data have the indices start..stop−1."""

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


def concatenated(a: Lists, b: Lists) -> Lists:
    """Tuples of one kind whose fields are lists of data, joined field by field."""
    return type(a)(*(torch.cat(pair) for pair in zip(a, b, strict=True)))
