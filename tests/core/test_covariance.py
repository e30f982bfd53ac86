"""Reverse covariances as operators: against matrices, torch.distributions, and the known covariances of mixtures."""

import math
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.covariance import Diagonal, MatrixOfData, ProductsOfData
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.jacobian import Exact, Hutchinson, data_product
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.schedule import jsd, linear
from ddpm_lab.core.types import Incompatible

from .support import assert_close, make, normal_like

F64 = torch.float64
LINEAR = linear(1000)


@dataclass
class Mixture:
    """x_0 is one of five centres plus Gaussian noise: the moments of x_0 given x_t are known."""

    schedule: NoiseSchedule
    d: int
    var: float = 0.04

    @cached_property
    def centres(self) -> Tensor:
        return normal_like(torch.zeros(5, self.d, dtype=F64), 3).clamp(-1, 1)

    def posterior(self, xt: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] and Cov(x_0 | x_t)."""
        ab, one = self.schedule.alphas_bar[t], torch.eye(self.d, dtype=F64)
        total = ab * self.var + 1 - ab
        r = xt[:, None] - ab.sqrt() * self.centres
        weight = torch.softmax(-(r**2).sum(2) / (2 * total), 1)
        means = self.centres + ab.sqrt() * self.var / total * r
        mean = (weight[..., None] * means).sum(1)
        second = torch.einsum("bk,bki,bkj->bij", weight, means, means)
        within = self.var * (1 - ab) / total * one
        return mean, within + second - mean[:, :, None] * mean[:, None]

    def net(self, xt: Tensor, t: Tensor) -> Tensor:
        ab = self.schedule.alphas_bar[int(t[0])]
        return (xt - ab.sqrt() * self.posterior(xt, int(t[0]))[0]) / (1 - ab).sqrt()


@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("t", [5, 200, 700])
def test_the_jacobian_gives_the_covariance_of_a_mixture(t, d):
    model = Mixture(LINEAR, d)
    diffusion = GaussianDiffusion(model.schedule, make("prediction", "eps"), Exact(largest=99.0), levels=None)
    ab, times = model.schedule.alphas_bar[t], torch.full((20,), t)
    x0 = model.centres[torch.arange(20) % 5] + 0.2 * normal_like(torch.zeros(20, d, dtype=F64), 4)
    xt = ab.sqrt() * x0 + (1 - ab).sqrt() * normal_like(x0, 6)
    true = model.posterior(xt, t)[1]
    seen = diffusion.look(model.net, xt, times, diffusion.chain[t])
    found = diffusion.variance.data_covariance(seen)
    assert isinstance(found, MatrixOfData)
    assert_close(found.matrix, true, rtol=1e-5, atol=1e-7)
    signs = rng.signs(3, "variance_probe", t, 0, 2, (d,))
    for clipped, most in ((True, 1.0), (False, math.inf)):
        wanted = torch.stack([v * (true @ v) for v in signs]).mean(0).clamp(0, most)
        assert_close(Hutchinson(2, seed=3, clip_cov=clipped).data_covariance(seen).var, wanted, rtol=1e-5, atol=1e-7)
    if d == 2:  # the mean over all signs is the diagonal
        every, product = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=F64)] * 2), data_product(seen)
        found = torch.stack([v * product(v.expand_as(xt)) for v in every]).mean(0)
        assert_close(found, true.diagonal(dim1=1, dim2=2), rtol=1e-5, atol=1e-7)


def test_directions_without_variance_add_none_to_a_dimension():
    """A matrix with eigenvalues 2 and −1 along (1, ±1)/√2, and −1 in a third dimension, where `nothing` stands. By products
    alone a dimension has its own entry of the matrix, which is smaller."""
    matrix = torch.tensor([[0.5, 1.5, 0.0], [1.5, 0.5, 0.0], [0.0, 0.0, -1.0]], dtype=F64)[None]
    scale = [torch.full((1, 1), value, dtype=F64) for value in (1.0, 0.0, math.log(0.3))]
    sigma = MatrixOfData(matrix, torch.Size([1, 3])).scaled(*scale)
    assert_close(sigma.log_var().exp(), torch.tensor([[1.0, 1.0, 0.3]], dtype=F64))
    r = torch.tensor([[1.0, -1.0, 1.0]], dtype=F64)
    assert_close(sigma.quadratic(r).sum(), torch.tensor(3 / 0.3 / 2, dtype=F64))
    entries = matrix.diagonal(dim1=1, dim2=2).clamp(0, 1)
    by_products = ProductsOfData(lambda v: torch.einsum("bij,bj->bi", matrix, v), 3, diagonal=lambda: entries).scaled(*scale)
    assert_close(by_products.log_var().exp(), torch.tensor([[0.5, 0.5, 0.3]], dtype=F64))


def test_what_is_not_finite_is_nan_in_its_own_row():
    matrix = torch.eye(3, dtype=F64).repeat(2, 1, 1)
    matrix[1, 0, 0] = math.inf
    z, scale = torch.ones(2, 3, dtype=F64), (torch.tensor(1.0), torch.tensor(1.0))

    def product(v: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", matrix, v)

    for data in (MatrixOfData(matrix, z.shape), ProductsOfData(product, 2)):
        coloured = data.scaled(*scale).colour(z)
        assert_close(coloured[0], math.sqrt(2) * z[0])
        assert coloured[1].isnan().all()


def test_krylov_spaces_that_are_exhausted():
    """An isotropic covariance, and a start of zeros: nothing is divided by zero."""
    data = ProductsOfData(lambda v: 0.3 * v, 4)
    z = normal_like(torch.zeros(3, 6, dtype=F64), 1)
    z[1] = 0
    assert_close(data.scaled(torch.tensor(2.0), torch.tensor(0.1)).colour(z), math.sqrt(0.1 + 4 * 0.3) * z)
    assert_close(Diagonal(torch.zeros(1, 1)).colour(z), z)


def test_where_no_signal_is_left_a_jacobian_is_refused():
    with pytest.raises(Incompatible, match="Exact"):
        GaussianDiffusion(jsd(10), make("prediction", "x0"), Exact(largest=1.0), levels=None)
