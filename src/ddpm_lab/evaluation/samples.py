"""Samples of a trained network and real data, as the features of an extractor."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.core import rng
from ddpm_lab.core.grey import scale, to_levels
from ddpm_lab.evaluation.store import Piece, Pieces, Store
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.metrics import cache
from ddpm_lab.metrics.classifier import Classifier
from ddpm_lab.metrics.extractors import Extractor, extract
from ddpm_lab.metrics.features import FeatureStore
from ddpm_lab.metrics.frechet import FeatureStats
from ddpm_lab.pictures import DIVERGED, not_finite

log = logging.getLogger("ddpm_lab")
PIECE = 256


class Seen(NamedTuple):
    """What an extractor makes of n data: moments, the features themselves, and logits where it has them."""

    n: int
    stats: FeatureStats
    features: Tensor
    logits: Tensor | None
    recognised: Tensor | None
    """Which of them a classifier of the data's own classes is sure of."""


def drawn(subject: Subject, choice: Choice, n: int) -> Pieces:
    """n samples as grey levels (uint8), or as they are where the data have none, and of each piece how many are not finite.
    Sample i depends on (seed, i) alone."""
    diffusion = choice.diffusion(subject.run.diffusion)
    about = subject.identity | choice.about_samples(subject.run.diffusion) | {"levels": diffusion.levels}
    about.pop("data")
    like = next(subject.run.net.parameters())

    def batch(start: int, stop: int) -> tuple[Tensor, int]:
        def noise(t: int) -> Tensor:
            return rng.normal(subject.run.model.shape, subject.seed, "sampling", t, start, stop).to(like)

        for state in choice.sampler(diffusion, subject.run.net, noise(0), noise):  # t = 0 is free for x_T: no step starts there
            x = state.x
        return to_levels(x, diffusion.levels).cpu(), not_finite(x)

    def work(start: int, stop: int) -> Piece:
        batches = [batch(first, min(first + subject.batch, stop)) for first in range(start, stop, subject.batch)]
        return {"x": torch.cat([x for x, _ in batches]), "not_finite": torch.tensor(sum(broken for _, broken in batches))}

    told = f"{n} samples, {len(choice.chain(diffusion))} steps"
    return subject.store.pieces("samples", about, n, PIECE, work, told)


def of_samples(subject: Subject, choice: Choice, n: int, extractor: Extractor, scratch: Path) -> Seen | None:
    """n samples, in the extractor's eyes; features of a slow one are kept beside them. None where not all are finite."""
    samples, levels = drawn(subject, choice, n), subject.run.diffusion.levels
    if broken := sum(int(piece["not_finite"]) for piece in samples):
        if ranks.rank() == 0:
            log.warning(DIVERGED, broken, n)
        return None

    def x(start: int, stop: int) -> Tensor:
        return scale(samples[start // PIECE]["x"], levels).to(subject.device)

    about = subject.identity | choice.about_samples(subject.run.diffusion)
    return _seen(n, x, extractor, subject.store, about, scratch / "samples")


def of_data(subject: Subject, split: str, n: int, extractor: Extractor, scratch: Path) -> Seen:
    """The first n data of a split, without flips; features of a slow extractor are kept for every run with these data."""
    about = {"data": subject.data.fingerprint(), "levels": subject.data.levels, "split": split}
    kept = Store(cache.root() / "features")
    return _seen(n, lambda a, b: subject.x0(split, a, b).float(), extractor, kept, about, scratch / split)


def _seen(
    n: int, x: Callable[[int, int], Tensor], extractor: Extractor, store: Store, about: dict[str, Any], scratch: Path
) -> Seen:
    def work(start: int, stop: int) -> Piece:
        return _look(extractor, x(start, stop))

    def found() -> Iterable[Piece]:
        if extractor.slow:
            whole = about | {"extractor": extractor.name} | extractor.record
            return store.pieces("features", whole, n, PIECE, work, f"features of {n} by {extractor.name}")
        return (work(start, min(start + PIECE, n)) for start in range(0, n, PIECE))

    stats, rows, told = None, FeatureStore(n, scratch), []
    for piece in found():
        stats = (stats or FeatureStats(piece["features"].shape[1])).add(piece["features"])
        rows.add(piece.pop("features"))
        told.append(piece)
    assert stats is not None
    logits, recognised = (
        torch.cat([piece[name].cpu() for piece in told]) if name in told[0] else None for name in ("logits", "recognised")
    )
    return Seen(n, stats, rows.features(), logits, recognised)


def _look(extractor: Extractor, x: Tensor) -> Piece:
    if isinstance(extractor, Classifier):
        return extractor.judged(x)._asdict()
    features, logits = extract(extractor, x)
    return {"features": features} if logits is None else {"features": features, "logits": logits}
