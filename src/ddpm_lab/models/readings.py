"""What a kind of model is looked at by, besides its likelihood and its samples: numbers of held-out data, and pictures."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lab import ranks


class Reading(NamedTuple):
    """A number of each datum that is no likelihood; its mean is reported with the standard error."""

    label: str
    unit: str
    of: Callable[[Tensor, Tensor], Tensor]
    """From data in [−1, 1], B × shape, and their indices, B int64 on the CPU, by which all draws are addressed: B numbers."""
    how: Mapping[str, str | int | float | bool | None] = {}
    """Further fields of the record."""


class Picture(NamedTuple):
    """Images side by side, in rows: each column is B × C H W in [−1, 1] with a label above."""

    columns: Sequence[Tensor]
    labels: Sequence[str]


class Columns:
    """Numbers of each datum, by key, that come in batches, in pieces and over processes."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.index = torch.empty(0, dtype=torch.long)
        self.values = {key: torch.empty(0, dtype=torch.float64) for key in keys}

    def add(self, index: Tensor, values: Mapping[str, Tensor]) -> None:
        """Of data with these indices."""
        self.merge({"index": index} | {key: values[key].double().cpu() for key in self.values})

    def state(self) -> dict[str, Tensor]:
        return {"index": self.index} | self.values

    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.index = torch.cat([self.index, state["index"]])
        self.values = {key: torch.cat([values, state[key]]) for key, values in self.values.items()}

    def gather(self) -> None:
        """Take in what every process has."""
        self.index = torch.cat(ranks.gather(self.index))
        self.values = {key: torch.cat(ranks.gather(values)) for key, values in self.values.items()}


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean over data, and its standard error. Raises ValueError for fewer than two."""
    if len(values) < 2:
        raise ValueError("a standard error needs at least 2 data")
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


class ReadingMeter:
    """One reading over data."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self._columns = reading, Columns(["value"])
        self.state, self.merge, self.gather = self._columns.state, self._columns.merge, self._columns.gather

    @torch.inference_mode()
    def add(self, x0: Tensor, first: int, *condition: Tensor) -> None:
        index = torch.arange(first, first + len(x0))
        self._columns.add(index, {"value": self.reading.of(x0, index)})

    def result(self) -> tuple[float, float]:
        """Mean and standard error."""
        return mean_and_error(self._columns.values["value"])
