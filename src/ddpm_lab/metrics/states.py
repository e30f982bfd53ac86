"""The scores as `torchmetrics.Metric`s, for any LightningModule or MetricCollection: float64 sums or kept features, gathered
over processes; the formulas are those of `frechet` and `scores`.

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
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ddpm_lab.metrics.extractors import Classifying
from ddpm_lab.metrics.features import IN_MEMORY, FeatureStore
from ddpm_lab.metrics.frechet import FeatureStats, Moments, frechet_distance
from ddpm_lab.metrics.scores import (
    ClassSums,
    PrecisionRecallScores,
    Score,
    fd_infinity,
    inception_score,
    kid,
    precision_recall,
    subset,
)
from ddpm_lab.metrics.sliced import mind

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


class _Compared(_Float64):
    """Of samples and of real data, sums of features and of their products. `reference` moments take the place of real data."""

    reference: Moments | None = None

    def update(self, x: Tensor, real: bool = False) -> None:
        """Raises ValueError for real data beside a `reference`."""
        if real and self.reference is not None:
            raise ValueError("real=True: this metric was given reference moments, so it takes samples alone.")
        self._add("real" if real else "samples", self._features(x))

    def _add_sums(self, side: str, dim: int) -> None:
        self.add_state(f"{side}_n", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state(f"{side}_sum", torch.zeros(dim, dtype=torch.float64), "sum")
        self.add_state(f"{side}_outer", torch.zeros(dim, dim, dtype=torch.float64), "sum")

    def _add(self, side: str, rows: Tensor) -> None:
        stats = FeatureStats.of(0, getattr(self, f"{side}_sum"), getattr(self, f"{side}_outer")).add(rows)
        setattr(self, f"{side}_n", getattr(self, f"{side}_n") + stats.n)

    def _sums(self, side: str) -> FeatureStats:
        n, *sums = (getattr(self, f"{side}_{name}").cpu() for name in ("n", "sum", "outer"))
        return FeatureStats.of(int(n), *sums)


class FrechetDistance(_Compared):
    """Fréchet distance of samples to real data, or to `reference` moments: sums of `dim` features and of their products."""

    higher_is_better = False

    def __init__(self, dim: int, extractor: Extract | None = None, reference: Moments | None = None, **settings: Any) -> None:
        super().__init__(extractor, **settings)
        self.reference = reference
        for side in ("samples",) if reference else ("samples", "real"):
            self._add_sums(side, dim)

    def _score(self) -> Score:
        return Score(frechet_distance(self._sums("samples"), self.reference or self._sums("real")), None)


class _Kept(_Compared):
    """Every feature, as float32. With `folder`, batches beyond `in_memory` bytes lie in files there, mapped, so that memory is
    flat in n within one process; the folder is the caller's to remove. A gather over processes takes place in memory."""

    def __init__(
        self, extractor: Extract | None, folder: Path | str | None = None, in_memory: int = IN_MEMORY, **settings: Any
    ) -> None:
        super().__init__(extractor, **settings)
        self.folder, self.in_memory = None if folder is None else Path(folder), in_memory

    def _add_features(self, *sides: str) -> None:
        for side in sides:
            self.add_state(side, [], "cat")

    def _add(self, side: str, rows: Tensor) -> None:
        if side not in self._defaults:
            return super()._add(side, rows)
        rows = rows.detach().float()
        if self.folder is not None and self._bytes() + rows.nbytes > self.in_memory:
            self.folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.folder, prefix=f"{side}_", suffix=".npy", delete=False) as file:
                np.save(file, rows.cpu().numpy())
            rows = torch.from_numpy(np.load(file.name, mmap_mode="c"))  # "c": torch warns of read-only memory
        getattr(self, side).append(rows)

    def _bytes(self) -> int:
        kept = (getattr(self, side) for side, default in self._defaults.items() if isinstance(default, list))
        return sum(rows.nbytes for rows in itertools.chain(*kept))

    def _all(self, side: str) -> Tensor:
        """N×dim, on the CPU."""
        rows = getattr(self, side)  # batches of this process, or one tensor gathered from all
        if self.folder is None:
            return dim_zero_cat(rows).cpu()
        pieces = [piece for batch in ([rows] if isinstance(rows, Tensor) else rows) for piece in batch.split(4096)]
        store = FeatureStore(sum(map(len, pieces)), self.folder, f"{side}_{os.getpid()}_all", self.in_memory)
        for piece in pieces:
            store.add(piece)
        return store.features()


class KernelDistance(_Kept):
    """KID in the features of Inception: `subsets` pairs of subsets of `size` features. `folder` and `in_memory` say where
    features are kept, as in `PrecisionRecall` and `FrechetDistanceAtInfinity`."""

    higher_is_better = False

    def __init__(
        self, extractor: Extract | None = None, subsets: int = 100, size: int = 1000, seed: int = 0, **settings: Any
    ) -> None:
        super().__init__(extractor, **settings)
        self.subsets, self.size, self.seed = subsets, size, seed
        self._add_features("samples", "real")

    def _score(self) -> Score:
        return kid(self._all("samples"), self._all("real"), self.subsets, self.size, self.seed)


class SlicedWasserstein(_Kept):
    """MIND, of as many samples as real data: of more samples the first ones, of more data a random subset."""

    higher_is_better = False

    def __init__(self, extractor: Extract | None = None, projections: int = 1000, seed: int = 0, **settings: Any) -> None:
        super().__init__(extractor, **settings)
        self.projections, self.seed = projections, seed
        self._add_features("samples", "real")

    def _score(self) -> Score:
        samples, real = self._all("samples"), self._all("real")
        n = min(len(samples), len(real))
        return mind(samples[:n], subset(real, n), self.projections, self.seed)


class PrecisionRecall(_Kept):
    """Improved precision and recall by the `k`-th neighbour; `compute()` returns both by name."""

    higher_is_better = True

    def __init__(self, extractor: Extract | None = None, k: int = 3, **settings: Any) -> None:
        super().__init__(extractor, **settings)
        self.k = k
        self._add_features("samples", "real")

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
        **settings: Any,
    ) -> None:
        super().__init__(extractor, **settings)
        self.reference, self.points, self.seed = reference, points, seed
        self._add_features("samples")
        if reference is None:
            self._add_sums("real", dim)

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
