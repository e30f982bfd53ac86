"""Γ for the analytic variance, measured once for each checkpoint and time, and kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ddpm_lab import ranks
from ddpm_lab.core.analytic import Gamma
from ddpm_lab.evaluation.store import Piece, is_whole, make, read
from ddpm_lab.evaluation.subject import Subject
from ddpm_lab.likelihood.gamma import GammaMeter, GammaTally

PIECE = 64
"""Training data of one file."""


def measured(subject: Subject, times: Sequence[int], n: int) -> Gamma:
    """Γ at the times, over the first n training data, by the weights that sample (Bao et al. 2022 section 3.1)."""
    place = subject.store.place("gamma", about(subject, n))
    known = ranks.agreed({int(t) for piece in _whole(place) for t in piece["times"]})
    wanted = sorted(set(times) - known)
    groups = [wanted[i : i + PIECE] for i in range(0, len(wanted), PIECE)]
    x0 = subject.x0("train", 0, n)

    def work(group: list[int]) -> Piece:
        meter = GammaMeter(subject.run.diffusion, tuple(group), subject.seed, subject.batch)
        meter.add(subject.run.net, x0, 0)
        return {"times": torch.tensor(group), "sums": meter.tally.sums}

    paths = [place / f"t{group[0]:05d}-{group[-1]:05d}-{len(group)}.pt" for group in groups]
    make(paths, [lambda group=group: work(group) for group in groups], f"Γ of {n} training data", list(map(len, groups)))
    column = {int(t): sums for piece in _whole(place) for t, sums in zip(piece["times"], piece["sums"].T, strict=True)}
    whole = GammaMeter(subject.run.diffusion, tuple(times), subject.seed, subject.batch)
    whole.tally = GammaTally(torch.stack([column[t] for t in times], 1), n)
    return whole.result()


def _whole(place: Path) -> list[Piece]:
    """What is there; not what was cut short."""
    return [read(path) for path in sorted(place.glob("t*.pt")) if is_whole(path)]


def about(subject: Subject, n: int) -> dict[str, Any]:
    """What Γ depends on: the schedule and the prediction are the checkpoint's own."""
    return subject.identity | {"n": n, "split": "train"}
