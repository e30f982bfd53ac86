"""Measurements that come in columns, such as Γ at each time, each over all data: columns on disk are not measured again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.evaluation.store import Piece, is_whole, make, read
from ddpm_lab.evaluation.subject import Subject

GROUP = 64
"""Columns of one file."""


class Columns(Protocol):
    """K sums for each of some times, over the first n data of a split."""

    kind: str
    split: str
    n: int
    times: Sequence[int]

    @property
    def identity(self) -> dict[str, Any]: ...

    @property
    def title(self) -> str: ...

    def sums(self, times: Sequence[int], x0: Tensor) -> Tensor:
        """K×len(times)."""
        ...

    def result(self, sums: Tensor) -> Any:
        """From K×len(self.times)."""
        ...


def measured(subject: Subject, columns: Columns) -> Any:
    """The result over all times."""
    place = subject.store.place(columns.kind, subject.identity | columns.identity)
    known = ranks.agreed({int(t) for piece in _whole(place) for t in piece["times"]})
    missing = [t for t in columns.times if t not in known]
    groups = [missing[i : i + GROUP] for i in range(0, len(missing), GROUP)]
    x0 = subject.x0(columns.split, 0, columns.n)
    paths = [place / f"t{group[0]:05d}-{group[-1]:05d}-{len(group)}.pt" for group in groups]
    works = [lambda group=group: {"times": torch.tensor(group), "sums": columns.sums(group, x0)} for group in groups]
    make(paths, works, columns.title, list(map(len, groups)))
    column = {int(t): sums for piece in _whole(place) for t, sums in zip(piece["times"], piece["sums"].T, strict=True)}
    return columns.result(torch.stack([column[t] for t in columns.times], 1))


def _whole(place: Path) -> list[Piece]:
    """The files that were not cut short."""
    return [read(path) for path in sorted(place.glob("t*.pt")) if is_whole(path)]
