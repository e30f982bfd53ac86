"""Reverse covariances as operators: against matrices, torch.distributions, and the known covariances of mixtures."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import Tensor

from ddpm_lab.core import jacobian, rng
from ddpm_lab.core.covariance import Diagonal, MatrixOfData, ProductsOfData, Spectral
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.gaussian import Normal
from ddpm_lab.core.jacobian import MOST, Exact, Hutchinson, Lanczos, data_product
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


def wild_diffusion(variance) -> tuple[GaussianDiffusion, Callable]:
    """A network whose Jacobian is neither symmetric nor positive."""
    mix = normal_like(torch.zeros(8, 8, dtype=F64), 7)
    net = lambda x, t: torch.sin(x.flatten(1) @ mix).reshape(x.shape)  # noqa: E731
    return GaussianDiffusion(LINEAR, make("prediction", "eps"), variance, levels=17), net


def seen_by(variance, probes=None):
    diffusion, net = wild_diffusion(variance)
    x = normal_like(torch.zeros(5, 2, 2, 2, dtype=F64), 8)
    step = diffusion.chain.step(torch.tensor([1, 10, 300, 600, 1000]), x)
    return diffusion.look(net, x, step.t.flatten().long(), step, probes), step, x


def test_lanczos_in_the_whole_space_is_the_exact_matrix():
    """Symmetric part, clipped spectrum: noise, quadratic form and, from a whole basis of probes, traces."""
    basis = math.sqrt(8) * torch.eye(8, dtype=F64).reshape(8, 1, 2, 2, 2).expand(8, 5, 2, 2, 2)
    seen, step, x = seen_by(Exact(largest=0.8), basis)
    z, r = normal_like(x, 1), normal_like(x, 2)
    exact = Exact(largest=0.8).covariance(seen)
    step = seen.step
    data = ProductsOfData(data_product(seen), 8, 0.8, basis)
    krylov = data.scaled(step.posterior.x0_coef, step.beta_tilde, step.log_beta_tilde)
    assert isinstance(exact, Spectral)
    kept = exact.logs.exp()
    assert (kept >= 0).all()
    top = step.beta_tilde.flatten() + 0.8 * step.posterior.x0_coef.flatten() ** 2
    assert (kept.amax(1) <= top * (1 + 1e-9)).all()
    assert (kept.amax(1) > top * (1 - 1e-9)).any()  # the limit acts
    later = slice(1, None)  # where s = 0, β̃ stands for directions without any variance
    assert_close(krylov.colour(z)[later], exact.colour(z)[later], rtol=1e-6, atol=1e-8)
    assert_close(krylov.quadratic(r).flatten()[later], exact.quadratic(r).mean(1)[later], rtol=1e-6)
    q = Normal(r, step.log_beta_tilde)
    assert_close(krylov.divergence(q, x).spread.flatten()[later], exact.divergence(q, x).spread.mean(1)[later], rtol=1e-6)


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


def test_few_dimensions_estimate_a_quadratic_form_from_below():
    """Gauss quadrature of 1/λ; more dimensions come nearer, and as many as the data have are exact."""
    seen, step, x = seen_by(Exact(largest=0.8))
    symmetric = Exact(largest=0.8).data_covariance(seen).matrix
    symmetric = symmetric @ symmetric.mT / 40  # without negative eigenvalues nothing is cut

    def product(v: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", symmetric, v.flatten(1)).reshape(v.shape)

    scale, r = (step.posterior.x0_coef, step.beta_tilde + 1e-3), normal_like(x, 2)
    exact = MatrixOfData(symmetric, x.shape).scaled(*scale).quadratic(r).mean(1)
    found = torch.stack([ProductsOfData(product, n).scaled(*scale).quadratic(r).flatten() for n in (1, 2, 4, 8)])
    assert (found.diff(dim=0) > -1e-9).all()
    assert (found[0] < 0.9 * exact).any()
    assert_close(found[-1], exact, rtol=1e-6)


def test_bounds_of_few_dimensions_are_exact_under_lanczos():
    seen, _, x = seen_by(Exact(largest=0.8), torch.empty(0, 5, 2, 2, 2, dtype=F64))
    exact, lanczos = (variance.covariance(seen) for variance in (Exact(largest=0.8), Lanczos(largest=0.8)))
    assert torch.equal(exact.quadratic(x), lanczos.quadratic(x))
    assert Lanczos(largest=0.8, probes=3).probes_for(MOST) == 0
    assert Lanczos(largest=0.8, probes=3).probes_for(MOST + 1) == 3


@pytest.mark.parametrize("n", [3, 8, None])
def test_the_decoder_of_lanczos_has_the_diagonal(n, monkeypatch):
    """Of Σ, from as many vectors as there are dimensions, as 256 are; else that of the Jacobian, estimated from vectors that
    are fixed by the time."""
    monkeypatch.setattr(jacobian, "MOST", 0)  # or a matrix this small would be taken whole
    seen, step, x = seen_by(Exact(largest=0.8), torch.empty(0, 5, 2, 2, 2, dtype=F64))
    found = Lanczos(largest=0.8, decoder_probes=n).covariance(seen).log_var()
    if n == 3:
        matrix = Exact(largest=0.8).data_covariance(seen).matrix
        signs = torch.stack([rng.signs(0, "variance_probe", t, 0, n, (8,)) for t in step.t.flatten().long().tolist()]).double()
        diagonal = torch.einsum("bki,bij,bkj->bj", signs, matrix, signs) / n  # a product is vᵀ A
        expected = step.beta_tilde + step.posterior.x0_coef**2 * diagonal.clamp(0, 1).reshape(x.shape)
        expected = torch.where(expected > 0, expected.log(), seen.step.log_beta_tilde)
    else:
        expected = Exact(largest=0.8).covariance(seen).log_var()
    assert_close(found, expected, rtol=1e-9)


def test_a_matrix_does_not_depend_on_how_data_lie_in_memory():
    seen, _, x = seen_by(Exact(largest=0.8))
    product = data_product(seen)
    moved = seen._replace(xt=x.to(memory_format=torch.channels_last), pullback=lambda v: seen.pullback(v.contiguous()))
    assert not moved.xt.is_contiguous()
    matrix = Exact(largest=0.8).data_covariance(moved).matrix
    rows = torch.stack([product(one.reshape(2, 2, 2).expand_as(x)).flatten(1) for one in torch.eye(8, dtype=F64)], 1)
    assert_close(matrix, rows)
    assert float(matrix.abs().amax()) > 0


def test_whatever_would_be_ignored_of_small_data_is_named():
    asked = Lanczos(largest=0.8, bound_steps=9, decoder_probes=5)
    with pytest.raises(ValueError, match=r"variance\.bound_steps=9, variance\.decoder_probes=5: "):
        asked.check(MOST, levels=256)


def test_vectors_for_a_decoder_that_is_not_there_are_refused():
    asked = Lanczos(largest=0.8, decoder_probes=5)
    asked.check(MOST + 1, levels=256)
    Lanczos(largest=0.8).check(MOST + 1, levels=None)
    with pytest.raises(ValueError, match="decoder_probes=5: data without grey levels"):
        asked.check(MOST + 1, levels=None)


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


def test_exact_matrices_against_torch_distributions():
    seen, step, x = seen_by(Exact(largest=0.8))
    ours, r = Exact(largest=0.8).covariance(seen), normal_like(x, 2)
    sigma = (ours.vectors * ours.logs.exp()[:, None]) @ ours.vectors.mT
    p = torch.distributions.MultivariateNormal(x.flatten(1), sigma)
    var = step.log_beta_tilde.exp().reshape(-1, 1, 1)
    q = torch.distributions.MultivariateNormal(r.flatten(1), var * torch.eye(8, dtype=F64))
    kl = ours.divergence(Normal(r, step.log_beta_tilde), x)
    assert_close((kl.shift + kl.spread).sum(1)[1:], torch.distributions.kl_divergence(q, p)[1:], rtol=1e-6)
    assert_close(ours.log_density(r, x).sum(1), p.log_prob(r.flatten(1)), rtol=1e-6)
    assert_close(ours.log_var().exp().flatten(1)[1:], sigma.diagonal(dim1=1, dim2=2)[1:])  # at s = 0 β̃ stands for none
    basis = torch.eye(8, dtype=F64).reshape(8, 2, 2, 2)[:, None].expand(8, 5, 2, 2, 2)
    half = torch.stack([ours.colour(e).flatten(1) for e in basis], 1)
    assert_close(half.mT @ half, sigma, rtol=1e-7)
    limit = 0.5 * float(ours.logs.max().exp()) ** 0.5
    held = torch.stack([ours.colour(e, limit).flatten(1) for e in basis], 1)
    assert_close(torch.linalg.matrix_norm(held, 2).max(), limit)


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
