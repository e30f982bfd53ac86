"""Fréchet distance between Gaussians fitted to features (Dowson & Landau 1982; Heusel et al. 2017 Eq. 6)."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor


class Moments(Protocol):
    """Mean and covariance of a Gaussian: measured here (`FeatureStats`) or published (`published.PublishedStats`)."""

    @property
    def mean(self) -> Float64[Tensor, " dim"]: ...

    @property
    def cov(self) -> Float64[Tensor, "dim dim"]: ...


class FeatureStats:
    """Mean and covariance of features that come in batches: memory is flat in n. Sums in float64, on the device of the sums."""

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.sum = torch.zeros(dim, dtype=torch.float64)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64)

    @classmethod
    def of(cls, n: int, sum: Tensor, outer: Tensor) -> "FeatureStats":
        """From Σx and Σxxᵀ over n features."""
        stats = cls(0)
        stats.n, stats.sum, stats.outer = n, sum, outer
        return stats

    def add(self, features: Tensor) -> "FeatureStats":
        """Features N×dim; returns itself."""
        features = features.detach().to(self.sum)
        self.n += len(features)
        self.sum += features.sum(0)
        self.outer += features.T @ features
        return self

    def plus(self, other: "FeatureStats") -> "FeatureStats":
        """The statistics of both sets together."""
        return FeatureStats.of(self.n + other.n, self.sum + other.sum, self.outer + other.outer)

    @property
    def mean(self) -> Float64[Tensor, " dim"]:
        return self.sum / self.n

    @property
    def cov(self) -> Float64[Tensor, "dim dim"]:
        """Unbiased (n − 1), as in published FIDs."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 features, and there are {self.n}.")
        return (self.outer - self.n * torch.outer(self.mean, self.mean)) / (self.n - 1)

    def state(self) -> dict[str, Any]:
        """The argument of `from_state`."""
        return {"n": np.array(self.n), "sum": self.sum.numpy(), "outer": self.outer.numpy()}

    @staticmethod
    def from_state(state: dict[str, Any]) -> "FeatureStats":
        """Raises KeyError or ValueError for a state that is malformed."""
        dim = len(state["sum"])
        if state["outer"].shape != (dim, dim) or state["outer"].dtype != np.float64 or not np.isfinite(state["outer"]).all():
            raise ValueError("not the state of feature statistics")
        return FeatureStats.of(int(state["n"]), torch.from_numpy(state["sum"]), torch.from_numpy(state["outer"]))


def stats_of(batches: Iterable[Tensor]) -> FeatureStats:
    """The statistics of one or more batches of features, N×dim each."""
    stats: FeatureStats | None = None
    for features in batches:
        stats = (stats or FeatureStats(features.shape[1])).add(features)
    if stats is None:
        raise ValueError("no features")
    return stats


def symmetric_sqrt(matrix: Tensor) -> Tensor:
    """Square root of a positive semidefinite matrix; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def frechet_distance(a: Moments, b: Moments, root_a: Float64[Tensor, "dim dim"] | None = None) -> float:
    """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), the squared distance that the literature calls FID for Inception.

    tr (Σ_a Σ_b)^½ is taken from the eigenvalues of Σ_a^½ Σ_b Σ_a^½: symmetric, so exact for singular covariances too. `root_a`
    is Σ_a^½ where it is known.
    """
    cov_a, cov_b = a.cov, b.cov
    root = symmetric_sqrt(cov_a) if root_a is None else root_a
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    total = float(((a.mean - b.mean) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * cross)
    return max(total, 0.0)  # equal covariances that are singular give some 1e-7 of their trace below 0
