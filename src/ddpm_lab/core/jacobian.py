"""Reverse variances from the network's Jacobian alone, by Tweedie's formula of second order:

    Cov(x_0 | x_t) = (1 − ᾱ_t)/√ᾱ_t ∂E[x_0 | x_t]/∂x_t

No head is trained, and nothing is averaged over data. As far as x̂_0 is E[x_0 | x_t], Σ* = β̃ I + c² Cov(x_0 | x_t) is the best
Gaussian reverse covariance there is. The Jacobian of a posterior mean is symmetric, and of that of a network the symmetric part
is taken. Samplers take products with the transposed Jacobian alone, one backward pass each.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.covariance import DataCovariance, DiagonalOfData, MatrixOfData, ProductsOfData, limited_var
from ddpm_lab.core.path import Marginal
from ddpm_lab.core.transfer import to_device
from ddpm_lab.core.types import Coefficient, Data, Settings
from ddpm_lab.core.variance import OfData, Seen
from ddpm_lab.domains import Given, NonNegativeInt, PositiveInt, Size, checked

MOST = 256
"""Dimensions of data whose matrices are taken whole."""
MOST_ASKED = 4096
"""The same where a whole matrix is asked for: 128 MiB for each row of a batch, and several times that while it is made."""
DECODER_PROBES = 256
"""Of `Lanczos`, where none are named."""


class OfJacobian(OfData):
    """The network's Jacobian in place of that of E[x_0 | x_t], which it is only nearly: without a limit on its eigenvalues
    samples of few steps diverge. `largest` is that of the covariance of x_0. E Cov(x_0 | x_t) cannot exceed it, though the
    covariance at a single x_t can."""

    differentiates = True
    needs_signal = True


def data_product(seen: Seen) -> Callable[[Data], Data]:
    """v ↦ Cov(x_0 | x_t) v, by Tweedie's formula of second order from the transposed Jacobian."""
    pullback, share = seen.pullback, tweedie(seen.step.at_t)
    assert pullback is not None, "GaussianDiffusion.look gives it"
    return lambda v: share * pullback(v)


def symmetric_product(seen: Seen) -> Callable[[Data], Data]:
    """The same from the symmetric part of the Jacobian."""
    pullback, pushforward, share = seen.pullback, seen.pushforward, tweedie(seen.step.at_t)
    assert pullback, "GaussianDiffusion.look gives it"
    assert pushforward, "and this with probes"
    return lambda v: share * (pullback(v) + pushforward(v)) / 2


def tweedie(at_t: Marginal) -> Coefficient:
    """(1 − ᾱ_t)/√ᾱ_t: Cov(x_0 | x_t) for 1 of ∂E[x_0 | x_t]/∂x_t."""
    return at_t.noise_scale**2 / at_t.signal_scale


def estimated_diagonal(seen: Seen, probes: "FixedProbes") -> Data:
    """Of Cov(x_0 | x_t): the mean of v ⊙ Cov(x_0 | x_t) v over vectors v of ±1 (Bekas, Kokiopoulou & Saad 2007)."""
    product, total = data_product(seen), torch.zeros_like(seen.xt)
    for v in probes.of(seen):
        total = total + v * product(v)
    return total / probes.n


def units(like: Data) -> Iterator[Data]:
    """The vectors of 0 but for one 1, of each example."""
    for i in range(like[0].numel()):
        one = torch.zeros(len(like), like[0].numel(), dtype=like.dtype, device=like.device)
        one[:, i] = 1
        yield one.reshape(like.shape)


class FixedProbes:
    """Vectors of ±1 that are fixed by seed and time, the same for all data: what rests on them is a function of (x_t, t)."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self._drawn: dict[tuple[int, torch.Size], Tensor] = {}

    def of(self, seen: Seen) -> Iterator[Data]:
        """n × B × …, one after the other, those of each example's time. Times on a device are waited for."""
        shape, times = seen.xt.shape[1:], seen.step.t.flatten().long().tolist()
        for t in set(times):
            if (t, shape) not in self._drawn:
                self._drawn[t, shape] = rng.signs(self.seed, "variance_probe", t, 0, self.n, shape).to(torch.int8)
        for i in range(self.n):
            drawn = torch.stack([self._drawn[t, shape][i] for t in times])
            yield to_device(drawn, seen.xt.device).to(seen.xt.dtype).expand(len(seen.xt), *shape)


@checked
class Hutchinson(OfJacobian):
    """The diagonal of Cov(x_0 | x_t), estimated from `n_probes` vectors of ±1. Those of a time are fixed by `seed` and the same
    for all data: Σ is a function of (x_t, t), so the model has a likelihood, and what the probes miss is part of it. `clip_cov`
    limits variances to [0, 1], which data in [−1, 1] cannot leave; else they are at least 0."""

    def __init__(
        self,
        n_probes: Size = 1,
        seed: NonNegativeInt = 0,
        clip_cov: bool = True,
    ) -> None:
        self.n_probes, self.seed, self.clip_cov = n_probes, seed, clip_cov
        self._probes = FixedProbes(n_probes, seed)

    @property
    def settings(self) -> Settings:
        return {"n_probes": self.n_probes, "probes_seed": self.seed, "clip_cov": self.clip_cov}

    def products(self, size: int) -> int:
        return self.n_probes

    def data_covariance(self, seen: Seen) -> DataCovariance:
        return DiagonalOfData(limited_var(estimated_diagonal(seen, self._probes), self.clip_cov))


@checked
class Lanczos(OfJacobian):
    """All of Cov(x_0 | x_t), by Krylov spaces of `steps` dimensions that begin with the noise to be coloured.

    Bits/dim are those of `Exact`, of which these are the samples, nearly, for data of at most `MOST` dimensions, and where
    `bound_steps` is at least their number. Else they are estimated in spaces of `bound_steps` dimensions (24) that begin with
    the error of the mean, and with `probes` random vectors (1) per datum and term. What these vectors miss is in the standard
    error. What more dimensions would change is not: rᵀ Σ⁻¹ r is estimated from below (Golub & Meurant 2010, Gauss quadrature of
    1/λ), so too few give too few bits. The decoder of grey levels takes the diagonal from `decoder_probes` vectors (256), as
    `Hutchinson` does, and then of the Jacobian, which eigenvalues below 0 make smaller. With at least as many as there are
    dimensions it is that of Σ, from the whole matrix.

    Samples take products with the transposed Jacobian alone. Divergences take them with its symmetric part, at three to four
    times the cost: a Krylov space of the transposed is not one of that part, and divergences by it fall short until it has all
    dimensions."""

    def __init__(
        self,
        largest: Given[float],
        steps: PositiveInt = 3,
        bound_steps: PositiveInt | None = None,
        probes: Size | None = None,
        decoder_probes: PositiveInt | None = None,
    ) -> None:
        self.largest, self.steps = largest, steps
        asked = {"bound_steps": bound_steps, "probes": probes, "decoder_probes": decoder_probes}
        self.asked = {name: value for name, value in asked.items() if value is not None}
        self.bound_steps, self.n_probes = bound_steps or 24, probes or 1
        self._decoder_probes = FixedProbes(decoder_probes or DECODER_PROBES, seed=0)

    @property
    def settings(self) -> Settings:
        return {
            "krylov_steps": self.steps,
            "krylov_bound_steps": self.bound_steps,
            "krylov_probes": self.n_probes,
            "krylov_decoder_probes": self._decoder_probes.n,
            "krylov_largest": self.largest,
        }

    def check(self, size: int, levels: int | None) -> None:
        def named(names: list[str]) -> str:
            return ", ".join(f"{name}={self.asked[name]}" for name in names)

        if levels is None and "decoder_probes" in self.asked:
            raise ValueError(
                f"{named(['decoder_probes'])}: data without grey levels have a density, and no decoder; leave it out"
            )
        whole = [name for name, value in self.asked.items() if name != "probes" and value >= size]
        if whole and size > MOST_ASKED:
            raise ValueError(
                f"{named(whole)}: allowed are fewer than the {size} dimensions of these data; with as many, the whole matrix "
                f"would be taken, and that is for at most {MOST_ASKED}"
            )
        ignored = [name for name in self.asked if size <= MOST or name != "bound_steps"]
        if ignored and self._whole(size):
            why = f"at most {MOST}" if size <= MOST else f"bound_steps={self.bound_steps}"
            raise ValueError(f"{named(ignored)}: allowed is null, as bits/dim of data with {size} dimensions ({why}) are exact")

    def _whole(self, size: int) -> bool:
        """Whether divergences are from the whole matrix."""
        return size <= max(MOST, self.bound_steps)

    def probes_for(self, size: int) -> int:
        return 0 if self._whole(size) else self.n_probes

    def products(self, size: int) -> int:
        return min(self.steps, size)

    def data_covariance(self, seen: Seen) -> DataCovariance:
        size, drawn = seen.xt[0].numel(), seen.probes
        if drawn is None:
            return ProductsOfData(data_product(seen), min(self.steps, size), self.largest)
        if self._whole(size):
            return whole_matrix(seen, self.largest)
        product = symmetric_product(seen)
        return ProductsOfData(product, self.bound_steps, self.largest, drawn, lambda: self._decoder_diagonal(seen))

    def _decoder_diagonal(self, seen: Seen) -> Data:
        if self._decoder_probes.n >= seen.xt[0].numel():
            return whole_matrix(seen, self.largest).variances()
        return limited_var(estimated_diagonal(seen, self._decoder_probes), clip=True)


@checked
class Exact(OfJacobian):
    """All of Cov(x_0 | x_t), the whole Jacobian by a backward pass per dimension of the data, and its eigenvectors. For at most
    `MOST` dimensions."""

    left_out_of_all = "a backward pass per dimension: ask for it by its name"

    def __init__(self, largest: Given[float]) -> None:
        self.largest = largest

    @property
    def settings(self) -> Settings:
        return {"largest": self.largest}

    def check(self, size: int, levels: int | None) -> None:
        if size > MOST:
            raise ValueError(
                f"Exact takes a matrix of {size}×{size}: allowed are data of at most {MOST} dimensions; Lanczos takes any"
            )

    def products(self, size: int) -> int:
        return size

    def data_covariance(self, seen: Seen) -> DataCovariance:
        return whole_matrix(seen, self.largest)


def whole_matrix(seen: Seen, largest: float) -> MatrixOfData:
    """By a backward pass for each row."""
    product = data_product(seen)
    n, size = len(seen.xt), seen.xt[0].numel()
    matrix = torch.empty(n, size, size, dtype=torch.float64, device=seen.xt.device)
    for i, one in enumerate(units(seen.xt)):
        matrix[:, i] = product(one).flatten(1)
    return MatrixOfData(matrix, seen.xt.shape, largest)
