"""Covariances as operators: what colours the noise of a reverse step, and what its divergence costs.

The reverse step is a Gaussian p_θ(x_s | x_t) = N(μ, Σ). The best Σ for the means of a network is, for any s < t (law of total
variance; Bao et al. 2022, Theorem 1),

    Σ = λ² I + c² Cov(x_0 | x_t),

λ² = β̃ and c the share of x_0 in the posterior mean for DDPM, and another pair for DDIM. So what a reverse variance knows of
Cov(x_0 | x_t), a `DataCovariance`, becomes a `Covariance` once a sampler or a meter says λ² and c.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm_lab.core.gaussian import Normal, kl_shift_nats, kl_spread_nats, log_density_nats
from ddpm_lab.core.types import Coefficient, Data


class Divergence(NamedTuple):
    """KL(q ‖ p) in nats, B rows each. Means over a row are nats per dimension of the data."""

    shift: Tensor
    """The share due to the means."""
    spread: Tensor
    """The share due to the covariances."""


class Covariance(ABC):
    """Σ of N(μ, Σ), one for each example."""

    @abstractmethod
    def colour(self, z: Data, max_std: float = math.inf) -> Data:
        """Noise of this covariance from z ~ N(0, I), in no direction with a standard deviation above `max_std`."""

    @abstractmethod
    def quadratic(self, r: Data) -> Tensor:
        """½ rᵀ Σ⁻¹ r, as B rows whose means are per dimension."""

    @abstractmethod
    def trace(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """tr f(log Σ) in the same form; f acts on the logs of the eigenvalues, with one row per example."""

    def divergence(self, q: Normal, mean: Data) -> Divergence:
        """KL(q ‖ N(mean, Σ)) for q with one variance per example: ½ (rᵀ Σ⁻¹ r + tr (σ_q² Σ⁻¹ − 1 + log Σ/σ_q²))."""

        def spread(logs: Tensor) -> Tensor:
            q_logs = q.log_var.reshape(-1, *[1] * (logs.ndim - 1)).to(logs)
            return kl_spread_nats(Normal(logs, q_logs), Normal(logs, logs))

        return Divergence(self.quadratic(q.mean - mean), self.trace(spread))

    def log_density(self, x: Data, mean: Data) -> Tensor:
        """log N(x; mean, Σ) in nats, in the same form."""
        return -self.quadratic(x - mean) - self.trace(lambda logs: 0.5 * (math.log(2 * math.pi) + logs))

    @abstractmethod
    def log_var(self) -> Tensor:
        """log of the diagonal of Σ, which broadcasts with the data: for a decoder, whose dimensions are independent."""

    def harmless(self, where: Tensor, log_var: Tensor) -> "Covariance":
        """The same, but isotropic with `log_var` in examples `where` its numbers are not used. Two kinds need it: one that is
        trained through, as an overflow would reach a gradient, and one that is costly, which may then take no products."""
        return self


class DataCovariance(ABC):
    """What is known of Cov(x_0 | x_t), one for each example."""

    @abstractmethod
    def scaled(self, c: Coefficient, noise: Coefficient, nothing: Coefficient | float = -math.inf) -> Covariance:
        """c² Cov(x_0 | x_t) + noise · I. `nothing`: the log variance in directions where no variance is left."""


def log_of(var: Tensor, nothing: Coefficient | float) -> Tensor:
    """log var, or `nothing` where var ≤ 0."""
    return torch.where(var <= 0, nothing, var.log())  # nan stays


@dataclass(frozen=True, eq=False)
class Diagonal(Covariance):
    """A variance for each dimension, or one for all: `logs`, log σ², broadcasts with the data."""

    logs: Tensor

    def colour(self, z: Data, max_std: float = math.inf) -> Data:
        return torch.exp(0.5 * self.logs).clamp(max=max_std) * z

    def quadratic(self, r: Data) -> Tensor:
        zero = torch.zeros_like(r)
        return kl_shift_nats(Normal(r, zero), Normal(zero, self.logs))

    def trace(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        return f(self.logs)

    def log_density(self, x: Data, mean: Data) -> Tensor:
        return log_density_nats(x, Normal(mean, self.logs))

    def log_var(self) -> Tensor:
        return self.logs

    def harmless(self, where: Tensor, log_var: Tensor) -> Covariance:
        return Diagonal(torch.where(where, log_var, self.logs))


def limited_var(var: Data, clip: bool) -> Data:
    """Estimates of Var(x_0 | x_t) limited to [0, 1], which data in [−1, 1] cannot leave; else to no less than 0."""
    return var.clamp(0, 1) if clip else var.clamp(min=0)


@dataclass(frozen=True, eq=False)
class DiagonalOfData(DataCovariance):
    """Var(x_0 | x_t) of each dimension, or their mean."""

    var: Tensor

    def scaled(self, c: Coefficient, noise: Coefficient, nothing: Coefficient | float = -math.inf) -> Covariance:
        return Diagonal(log_of(noise + c**2 * self.var, nothing))


@dataclass(frozen=True, eq=False)
class Spectral(Covariance):
    """A whole matrix by its eigenvectors, the columns of `vectors`, and their variances."""

    var: Float[Tensor, "B d"]
    vectors: Float[Tensor, "B d d"]
    shape: torch.Size
    nothing: Tensor | float = -math.inf
    """As in `DataCovariance.scaled`."""

    @property
    def logs(self) -> Float[Tensor, "B d"]:
        """Of the variances: what an inverse or a density needs, in every direction."""
        return log_of(self.var, self.nothing)

    def _coordinates(self, x: Data) -> Float[Tensor, "B d"]:
        return torch.einsum("bij,bi->bj", self.vectors, x.flatten(1).to(self.vectors))

    def colour(self, z: Data, max_std: float = math.inf) -> Data:
        along = torch.exp(0.5 * self.logs).clamp(max=max_std) * self._coordinates(z)
        return torch.einsum("bij,bj->bi", self.vectors, along).reshape(z.shape).to(z)

    def quadratic(self, r: Data) -> Tensor:
        return Diagonal(self.logs).quadratic(self._coordinates(r))

    def trace(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        return f(self.logs)

    def log_var(self) -> Tensor:
        """A dimension takes its variance from all directions: those that have none add none."""
        diagonal = torch.einsum("bij,bj->bi", self.vectors**2, self.var)
        return log_of(diagonal, self.nothing).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class MatrixOfData(DataCovariance):
    """Cov(x_0 | x_t) as a matrix, as an autograd engine gives it: its symmetric part, with eigenvalues limited to 0..`largest`,
    since the Jacobian of a learned network is not quite symmetric, nor positive."""

    matrix: Float[Tensor, "B d d"]
    shape: torch.Size
    largest: float = math.inf

    def scaled(self, c: Coefficient, noise: Coefficient, nothing: Coefficient | float = -math.inf) -> Spectral:
        values, vectors = symmetric_eigen(self.matrix)
        var = row(noise, values) + row(c, values) ** 2 * values.clamp(0, self.largest)
        return Spectral(var, vectors, self.shape, row(nothing, values))

    def variances(self) -> Tensor:
        """Of each dimension."""
        return self.scaled(torch.ones(()), torch.zeros(())).log_var().exp()


def symmetric_eigen(matrix: Float[Tensor, "B d d"]) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B d d"]]:
    """Eigenvalues and eigenvectors of the symmetric part; the values are nan for an example that is not finite."""
    finite = matrix.isfinite().all(2).all(1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], (matrix + matrix.mT) / 2, 0.0))
    return torch.where(finite[:, None], values, math.nan), vectors


def row(coefficient: Coefficient | float, like: Float[Tensor, "B m"]) -> Tensor:
    """A coefficient of each example, or of all, as a column beside B × m numbers."""
    value = torch.as_tensor(coefficient).to(like)
    return value.reshape(-1, 1) if value.ndim else value


class Ritz(NamedTuple):
    """A start vector x in its Krylov space: x = Σ_i coordinates_i · basis_i, basis the Ritz vectors of Cov(x_0 | x_t)."""

    values: Float[Tensor, "B m"]
    coordinates: Float[Tensor, "B m"]
    basis: Float[Tensor, "B m d"]


@dataclass(frozen=True, eq=False)
class ProductsOfData(DataCovariance):
    """Cov(x_0 | x_t) known by its products with vectors, as in Krylov spaces of `steps` dimensions (Lanczos).

    `product` need not be quite symmetric: every basis is orthogonalised in full (Arnoldi), so that the projected matrix's
    symmetric part is the projection of the symmetric part. Its eigenvalues are limited to 0..`largest`. `probes`: P × B × …
    vectors of ±1 for traces (Hutchinson 1990); `diagonal` gives variances ≥ 0. None where none are asked for.
    """

    product: Callable[[Data], Data]
    steps: int
    largest: float = math.inf
    probes: Tensor | None = None
    diagonal: Callable[[], Data] | None = None

    def scaled(self, c: Coefficient, noise: Coefficient, nothing: Coefficient | float = -math.inf) -> Covariance:
        return Krylov(self, c, noise, nothing)

    def ritz(self, x: Data) -> Ritz:
        """The Krylov space that x begins. Once it is exhausted, further directions are zero and have no share of x."""
        tiny = torch.finfo(torch.float64).tiny
        norm = x.double().flatten(1).norm(dim=1, keepdim=True)
        basis, products = [x.double().flatten(1) / norm.clamp(min=tiny)], []
        for j in range(self.steps):
            products.append(self.product(basis[-1].reshape(x.shape).to(x)).flatten(1).double())
            if j + 1 < self.steps:
                basis.append(_orthogonal(products[-1], torch.stack(basis, 1)))
        rows, images = torch.stack(basis, 1), torch.stack(products, 1)
        values, vectors = symmetric_eigen(rows @ images.mT)
        return Ritz(values.clamp(0, self.largest), norm * vectors[:, 0], vectors.mT @ rows)


def _orthogonal(w: Float[Tensor, "B d"], basis: Float[Tensor, "B m d"]) -> Float[Tensor, "B d"]:
    """The direction of w that is new, of length 1; zero where there is none. Gram-Schmidt twice is enough (Kahan)."""
    size = w.norm(dim=1, keepdim=True)
    for _ in range(2):
        w = w - torch.einsum("bmd,bm->bd", basis, torch.einsum("bmd,bd->bm", basis, w))
    left = w.norm(dim=1, keepdim=True)
    return torch.where(left > 1e-7 * size, w / left.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


@dataclass(frozen=True, eq=False)
class Krylov(Covariance):
    """c² Cov(x_0 | x_t) + noise · I by Lanczos: a function f of Σ acts on x as f of the Ritz values on x's coordinates."""

    data: ProductsOfData
    c: Coefficient
    noise: Coefficient
    nothing: Coefficient | float

    def _logs(self, values: Float[Tensor, "B m"]) -> Float[Tensor, "B m"]:
        return log_of(row(self.noise, values) + row(self.c, values) ** 2 * values, row(self.nothing, values))

    def colour(self, z: Data, max_std: float = math.inf) -> Data:
        """Σ^½ z."""
        ritz = self.data.ritz(z)
        along = torch.exp(0.5 * self._logs(ritz.values)).clamp(max=max_std) * ritz.coordinates
        return torch.einsum("bm,bmd->bd", along, ritz.basis).reshape(z.shape).to(z)

    def quadratic(self, r: Data) -> Tensor:
        ritz = self.data.ritz(r)
        return Diagonal(self._logs(ritz.values)).quadratic(ritz.coordinates).sum(1, keepdim=True) / r[0].numel()

    def trace(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """By stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017): the mean over probes v of vᵀ f(log Σ) v."""
        spectra = [self.data.ritz(probe) for probe in self._probes]
        traces = [(ritz.coordinates**2 * f(self._logs(ritz.values))).sum(1, keepdim=True) for ritz in spectra]
        return torch.stack(traces).mean(0) / self._probes[0, 0].numel()

    @property
    def _probes(self) -> Tensor:
        assert self.data.probes is not None, "a meter draws as many as the variance names"
        return self.data.probes

    def log_var(self) -> Tensor:
        assert self.data.diagonal is not None, "a variance that has a decoder gives it"
        return log_of(self.noise + self.c**2 * self.data.diagonal(), self.nothing)

    def harmless(self, where: Tensor, log_var: Tensor) -> Covariance:
        """Without its products where no example needs them. The device is waited for."""
        return Diagonal(log_var) if bool(where.all()) else self
