"""A meter of likelihood/ as evaluation asks one."""

import functools
from typing import Any

from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.core.guidance import conditioned
from ddpm_lab.models.measurement import PerDatum


class Tallied:
    """A meter of likelihood/ with the network that it measures."""

    def __init__(self, meter: Any, net: Any) -> None:
        self._meter, self._net = meter, net

    def add(self, x0: Tensor, first: int, labels: Tensor | None = None) -> None:
        self._meter.add(conditioned(self._net, labels), x0, first)

    @property
    def tally(self) -> Any:
        return self._meter.tally

    def state(self) -> dict[str, Tensor]:
        return self.tally._asdict()

    def merge(self, state: dict[str, Tensor]) -> None:
        self._meter.tally = self.tally.plus(type(self.tally)(**state))

    def gather(self) -> None:
        self._meter.tally = functools.reduce(type(self.tally).plus, ranks.gather(self.tally))

    def result(self) -> Any:
        return self._meter.result()


def in_order(sums: Tensor, priors: Tensor, index: Tensor, stride: int = 1) -> PerDatum:
    """By the indices of the data."""
    order = index.argsort()
    return PerDatum(sums[order], priors[order], index[order], stride)
