"""What is measured at each time, over all data: times that are on disk are not measured again."""

from pathlib import Path
from typing import Any

import torch

from ddpm_lab import ranks
from ddpm_lab.evaluation.store import Piece, is_whole, make, read
from ddpm_lab.evaluation.subject import Subject
from ddpm_lab.models.at_times import AtTimes

GROUP = 64
"""Times of one file."""


def measured(subject: Subject, wanted: AtTimes) -> Any:
    """Its result, from the sums at all its times."""
    place = subject.store.place(wanted.kind, subject.identity | {"n": wanted.n, "split": "train"})
    known = ranks.agreed({int(t) for piece in _whole(place) for t in piece["times"]})
    missing = [t for t in wanted.times if t not in known]
    groups = [missing[i : i + GROUP] for i in range(0, len(missing), GROUP)]
    data = subject.x0("train", 0, wanted.n), *subject.condition("train", 0, wanted.n)
    paths = [place / f"t{group[0]:05d}-{group[-1]:05d}-{len(group)}.pt" for group in groups]
    works = [lambda group=group: {"times": torch.tensor(group), "sums": wanted.sums(group, *data)} for group in groups]
    make(paths, works, f"{wanted.kind} of {wanted.n} training data", list(map(len, groups)))
    column = {int(t): sums for piece in _whole(place) for t, sums in zip(piece["times"], piece["sums"].T, strict=True)}
    return wanted.result(torch.stack([column[t] for t in wanted.times], 1))


def _whole(place: Path) -> list[Piece]:
    """The files that were not cut short."""
    return [read(path) for path in sorted(place.glob("t*.pt")) if is_whole(path)]
