"""The scores as `torchmetrics.Metric`s, for any LightningModule or MetricCollection: float64 sums or kept features, gathered
over processes; the formulas are those of frechet, fd_infinity, kid, precision_recall and inception_score.

    metrics = MetricCollection({"fd": FrechetDistance(64, Pixels()), "kid": KernelDistance(Pixels(), size=100)})
    metrics.update(samples)
    metrics.update(data, real=True)
    metrics.compute()

`extractor` maps a batch to features N×dim; None takes batches as features. `compute()` returns float64 tensors, `score()` the
same values with their standard errors. A score of few samples is undefined or biased: use `update` per batch and `compute` at
the end, not the value of each batch that `forward` returns. torchmetrics takes seconds to import, so nothing else of the
package imports this module.
"""

import itertools
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from ddpm_lab.metrics import features
from ddpm_lab.metrics.extractors import Classifying
from ddpm_lab.metrics.fd_infinity import fd_infinity
from ddpm_lab.metrics.frechet import FeatureStats, Moments, frechet_distance
from ddpm_lab.metrics.inception_score import ClassSums, inception_score
from ddpm_lab.metrics.kid import kid
from ddpm_lab.metrics.precision_recall import PrecisionRecallScores, precision_recall
from ddpm_lab.metrics.score import Score

Extract = Callable[[Tensor], Tensor]


class _Float64(Metric):
    """States keep their precision: `.to(device)` moves them, `.half()`, `.to(dtype)` and a module's precision do not round."""

    is_differentiable = False
    full_state_update = False

    def __init__(self, extractor: Extract | None, **settings: Any) -> None:
        super().__init__(**settings)
        self.extractor = extractor

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Any:
        def moved(x: Tensor) -> Tensor:
            there = fn(x)
            return there if there.dtype == x.dtype else x.to(there.device)

        return super()._apply(moved, exclude_state)

    def _features(self, x: Tensor) -> Tensor:
        return x if self.extractor is None else self.extractor(x)

    def _add_sums(self, side: str, dim: int) -> None:
        self.add_state(f"{side}_n", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state(f"{side}_sum", torch.zeros(dim, dtype=torch.float64), "sum")
        self.add_state(f"{side}_outer", torch.zeros(dim, dim, dtype=torch.float64), "sum")

    def _sums(self, side: str) -> FeatureStats:
        n, *sums = (getattr(self, f"{side}_{name}").cpu() for name in ("n", "sum", "outer"))
        return FeatureStats.of(int(n), *sums)

    def _update_sums(self, side: str, rows: Tensor) -> None:
        total, outer = getattr(self, f"{side}_sum"), getattr(self, f"{side}_outer")
        stats = FeatureStats.of(0, total, outer).add(rows)
        setattr(self, f"{side}_n", getattr(self, f"{side}_n") + stats.n)

    @abstractmethod
    def _score(self) -> Any: ...

    def score(self) -> Any:
        """The value with its standard error, gathered over processes as in `compute`."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._score()

    def compute(self) -> Any:
        return _value(self._score())


def _value(score: Score) -> Tensor:
    return torch.tensor(score.value, dtype=torch.float64)


class FrechetDistance(_Float64):
    """Fréchet distance of samples to real data, or to `reference` moments: sums of `dim` features and of their products."""

    higher_is_better = False

    def __init__(self, dim: int, extractor: Extract | None = None, reference: Moments | None = None, **settings: Any) -> None:
        super().__init__(extractor, **settings)
        self.reference = reference
        self._add_sums("samples", dim)
        if reference is None:
            self._add_sums("real", dim)

    def update(self, x: Tensor, real: bool = False) -> None:
        """Raises ValueError for real data beside a `reference`."""
        _check_side(real, self.reference)
        self._update_sums("real" if real else "samples", self._features(x))

    def _score(self) -> Score:
        return Score(frechet_distance(self._sums("samples"), self.reference or self._sums("real")), None)


def _check_side(real: bool, reference: Moments | None) -> None:
    if real and reference is not None:
        raise ValueError("real=True: this metric was given reference moments, so it takes samples alone.")


class _Kept(_Float64):
    """Every feature, as float32. With `folder`, batches beyond `in_memory` bytes lie in files there, mapped, so that memory is
    flat in n within one process; the folder is the caller's to remove. A gather over processes takes place in memory."""

    def __init__(self, extractor: Extract | None, folder: Path | str | None, in_memory: int, **settings: Any) -> None:
        super().__init__(extractor, **settings)
        self.folder, self.in_memory = None if folder is None else Path(folder), in_memory

    def _add_features(self, side: str) -> None:
        self.add_state(side, [], "cat")

    def _keep(self, side: str, rows: Tensor) -> None:
        rows = rows.detach().float()
        if self.folder is not None and self._bytes() + rows.nbytes > self.in_memory:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = next(path for path in self._paths(side) if not path.exists())
            np.save(path, rows.cpu().numpy())
            rows = features.read(path)
        getattr(self, side).append(rows)

    def _paths(self, side: str) -> Iterator[Path]:
        assert self.folder is not None
        return (self.folder / f"{side}_{os.getpid()}_{i}.npy" for i in itertools.count(len(getattr(self, side))))

    def _bytes(self) -> int:
        lists = (getattr(self, name) for name in self._defaults)
        return sum(rows.nbytes for rows in itertools.chain(*(rows for rows in lists if isinstance(rows, list))))

    def _all(self, side: str) -> Tensor:
        """N×dim, on the CPU."""
        rows = getattr(self, side)
        parts = [rows] if isinstance(rows, Tensor) else rows  # gathered from processes, or of this one
        if self.folder is None:
            return torch.cat([part.cpu() for part in parts])
        return features.joined(parts, self.folder, f"{side}_{os.getpid()}_all", self.in_memory)


class KernelDistance(_Kept):
    """KID in the features of Inception: `subsets` pairs of subsets of `size` features."""

    higher_is_better = False

    def __init__(
        self,
        extractor: Extract | None = None,
        subsets: int = 100,
        size: int = 1000,
        seed: int = 0,
        folder: Path | str | None = None,
        in_memory: int = features.IN_MEMORY,
        **settings: Any,
    ) -> None:
        super().__init__(extractor, folder, in_memory, **settings)
        self.subsets, self.size, self.seed = subsets, size, seed
        self._add_features("samples")
        self._add_features("real")

    def update(self, x: Tensor, real: bool = False) -> None:
        self._keep("real" if real else "samples", self._features(x))

    def _score(self) -> Score:
        return kid(self._all("samples"), self._all("real"), self.subsets, self.size, self.seed)


class PrecisionRecall(_Kept):
    """Improved precision and recall by the `k`-th neighbour; `compute()` returns both by name."""

    higher_is_better = True

    def __init__(
        self,
        extractor: Extract | None = None,
        k: int = 3,
        folder: Path | str | None = None,
        in_memory: int = features.IN_MEMORY,
        **settings: Any,
    ) -> None:
        super().__init__(extractor, folder, in_memory, **settings)
        self.k = k
        self._add_features("samples")
        self._add_features("real")

    def update(self, x: Tensor, real: bool = False) -> None:
        self._keep("real" if real else "samples", self._features(x))

    def _score(self) -> PrecisionRecallScores:
        return precision_recall(self._all("samples"), self._all("real"), self.k)

    def compute(self) -> dict[str, Tensor]:
        return {name: _value(score) for name, score in self._score()._asdict().items()}


class FrechetDistanceAtInfinity(_Kept):
    """The Fréchet distance extrapolated to infinitely many samples; of real data only sums are kept."""

    higher_is_better = False

    def __init__(
        self,
        dim: int,
        extractor: Extract | None = None,
        reference: Moments | None = None,
        points: int = 15,
        seed: int = 0,
        folder: Path | str | None = None,
        in_memory: int = features.IN_MEMORY,
        **settings: Any,
    ) -> None:
        super().__init__(extractor, folder, in_memory, **settings)
        self.reference, self.points, self.seed = reference, points, seed
        self._add_features("samples")
        if reference is None:
            self._add_sums("real", dim)

    def update(self, x: Tensor, real: bool = False) -> None:
        """Raises ValueError for real data beside a `reference`."""
        _check_side(real, self.reference)
        rows = self._features(x)
        if real:
            self._update_sums("real", rows)
        else:
            self._keep("samples", rows)

    def _score(self) -> Score:
        return fd_infinity(self._all("samples"), self.reference or self._sums("real"), self.points, seed=self.seed)


class InceptionScore(_Float64):
    """From logits of `classes`: those of a `Classifying` extractor, or what another returns. Real data are not scored."""

    higher_is_better = True

    def __init__(self, classes: int, extractor: Extract | None = None, splits: int = 10, **settings: Any) -> None:
        super().__init__(extractor, **settings)
        for name, zeros in ClassSums.empty(classes, splits)._asdict().items():
            self.add_state(name, zeros, "sum")
        self.add_state("seen", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, x: Tensor, real: bool = False, first: int | None = None) -> None:
        """`first`: the index of the first sample, which determines the splits; None counts on from the samples before."""
        if real:
            return
        logits = self.extractor.features_and_logits(x)[1] if isinstance(self.extractor, Classifying) else self._features(x)
        sums = self._class_sums().add(logits, int(self.seen) if first is None else first)
        for name, value in sums._asdict().items():
            setattr(self, name, value)
        self.seen = self.seen + len(logits)

    def _class_sums(self) -> ClassSums:
        return ClassSums(*(getattr(self, name) for name in ClassSums._fields))

    def _score(self) -> Score:
        return inception_score(self._class_sums())
