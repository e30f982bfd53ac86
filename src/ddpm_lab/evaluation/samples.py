"""Samples of a trained model and real data, as the features of an extractor."""

import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.core.grey import scale, to_levels
from ddpm_lab.evaluation.cost import timed
from ddpm_lab.evaluation.store import Piece, Pieces, Store
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.files import cache_root
from ddpm_lab.metrics.classifier import Classifier
from ddpm_lab.metrics.extractors import Extractor, extract
from ddpm_lab.metrics.features import FeatureStore
from ddpm_lab.metrics.frechet import FeatureStats
from ddpm_lab.pictures import diverged, not_finite

log = logging.getLogger("ddpm_lab")
PIECE = 256


class Features(NamedTuple):
    """Features of n data: moments, the features themselves, and logits where the extractor classifies."""

    n: int
    stats: FeatureStats
    rows: Tensor
    logits: Tensor | None
    recognised: Tensor | None
    """Which of them a classifier of the data's own classes recognises."""


def drawn(subject: Subject, choice: Choice, n: int, exact: bool = False) -> Pieces:
    """n samples as grey levels (uint8), or unchanged where `exact` or for data without levels; of each piece how many are not
    finite, and what `timed` says. Sample i depends on (seed, i) alone."""
    model, levels = choice.model, None if exact else choice.model.levels
    kind, identity = "exact_samples" if exact else "samples", {**subject.of_network, **choice.of_samples}

    def batch(start: int, stop: int) -> tuple[Tensor, int]:
        for state in model.sample_states(start, stop, subject.seed):
            x = state.x
        return to_levels(x, levels).cpu(), not_finite(x)

    def all_batches(start: int, stop: int) -> Piece:
        batches = [batch(first, min(first + subject.batch, stop)) for first in range(start, stop, subject.batch)]
        return {"x": torch.cat([x for x, _ in batches]), "not_finite": torch.tensor(sum(broken for _, broken in batches))}

    def work(start: int, stop: int) -> Piece:
        warm_up(min(stop - start, subject.batch))
        return timed(lambda: all_batches(start, stop), subject)

    @cache
    def warm_up(rows: int) -> None:
        """A step that is forgotten: a GPU chooses its algorithms at the first call of so many rows, and a compiled network is
        compiled."""
        if subject.device.type == "cuda" or model.compiled:
            next(iter(model.sample_states(0, rows, subject.seed))).x.cpu()

    return subject.store.pieces(kind, identity, n, PIECE, work, f"{n} samples, {choice.steps} steps")


def finite(subject: Subject, choice: Choice, n: int, which: str = "") -> bool:
    """Whether n samples are finite; `which` stands before the line that says that they are not."""
    broken = sum(int(piece["not_finite"]) for piece in drawn(subject, choice, n))
    if broken and ranks.rank() == 0:
        log.warning("%s%s", which, diverged(broken, n, choice.model.levels))
    return not broken


def of_samples(subject: Subject, choice: Choice, n: int, extractor: Extractor, scratch: Path) -> Features:
    """Features of n finite samples; those of a slow extractor are kept."""
    samples, levels = drawn(subject, choice, n), choice.model.levels

    def x(start: int, stop: int) -> Tensor:
        return scale(samples[start // PIECE]["x"], levels).to(subject.device)

    identity = {**subject.identity, **choice.of_samples}
    return _features(n, x, extractor, subject.store, identity, scratch / "samples")


def of_data(subject: Subject, split: str, n: int, extractor: Extractor, scratch: Path) -> Features:
    """Features of the first n data of a split, without flips; those of a slow extractor are kept for all runs on these data."""
    identity = {"data": subject.data.fingerprint(), "levels": subject.data.levels, "split": split}
    kept = Store(cache_root() / "features")
    return _features(n, lambda a, b: subject.x0(split, a, b).float(), extractor, kept, identity, scratch / split)


def _features(
    n: int, x: Callable[[int, int], Tensor], extractor: Extractor, store: Store, identity: dict[str, Any], scratch: Path
) -> Features:
    def work(start: int, stop: int) -> Piece:
        return _extracted(extractor, x(start, stop))

    def pieces() -> Iterable[Piece]:
        if extractor.slow:
            whole = identity | {"extractor": extractor.name} | extractor.record
            return store.pieces("features", whole, n, PIECE, work, f"features of {n} by {extractor.name}")
        return (work(start, min(start + PIECE, n)) for start in range(0, n, PIECE))

    stats, rows, others = None, FeatureStore(n, scratch), []
    for piece in pieces():
        stats = (stats or FeatureStats(piece["features"].shape[1])).add(piece["features"])
        rows.add(piece.pop("features"))
        others.append(piece)
    assert stats is not None
    logits, recognised = (
        torch.cat([piece[name].cpu() for piece in others]) if name in others[0] else None for name in ("logits", "recognised")
    )
    return Features(n, stats, rows.features(), logits, recognised)


def _extracted(extractor: Extractor, x: Tensor) -> Piece:
    if isinstance(extractor, Classifier):
        return extractor.judged(x)._asdict()
    features, logits = extract(extractor, x)
    return {"features": features} if logits is None else {"features": features, "logits": logits}
