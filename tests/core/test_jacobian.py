"""Reverse covariances from the Jacobian of a network that is no posterior mean: against whole matrices, and by products."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddpm_lab.core import jacobian, rng
from ddpm_lab.core.covariance import MatrixOfData, ProductsOfData, Spectral
from ddpm_lab.core.diffusion import GaussianDiffusion, differentiable_twice
from ddpm_lab.core.gaussian import Normal
from ddpm_lab.core.jacobian import MOST, MOST_ASKED, Exact, Lanczos, data_product, symmetric_product, tweedie
from ddpm_lab.core.schedule import linear

from .support import assert_close, make, normal_like

F64 = torch.float64
LINEAR = linear(1000)


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


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "edm"])
def test_products_of_divergences_are_with_the_symmetric_part(prediction, outputs):
    """Of a network with attention, whose fused kernels are differentiable only once, against the whole Jacobian of x̂_0."""
    mix, width = normal_like(torch.zeros(3, 4, 4, dtype=F64), 7), 4

    def net(x: Tensor, t: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bcn,cd->bdn", x.flatten(2), part).mT[:, None] for part in mix)
        mean = torch.sin(torch.nn.functional.scaled_dot_product_attention(q, k, v)[:, 0].mT).reshape(x.shape)
        return torch.cat([mean, *[torch.cos(x)] * (outputs - 1)], 1)

    diffusion = GaussianDiffusion(LINEAR, make("prediction", prediction), Lanczos(largest=99.0), levels=17)
    x = normal_like(torch.zeros(2, width, 2, 2, dtype=F64), 8)
    step = diffusion.chain.step(torch.tensor([10, 600]), x)
    with torch.inference_mode():
        seen = diffusion.look(net, x, step.t.flatten().long(), step, normal_like(x, 5)[None])
        v = normal_like(x, 9)
        found = symmetric_product(seen)(v)

    def x0_hat(x: Tensor, row: int) -> Tensor:
        one = diffusion.chain.step(torch.tensor([10, 600])[row : row + 1], x)
        with differentiable_twice():
            return diffusion.seen(diffusion.output(net, x, one.t.flatten().long(), one), x, one).x0

    for row, share in enumerate(tweedie(step.at_t).flatten()):
        whole = torch.func.jacrev(x0_hat)(x[row : row + 1], row).reshape(16, 16) * share
        assert_close(found[row].flatten(), (whole + whole.T) / 2 @ v[row].flatten(), rtol=1e-9, atol=1e-12)


def test_a_compiled_network_has_the_same_products():
    """What torch.compile makes is differentiable only once."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()).double()
    diffusion = GaussianDiffusion(LINEAR, make("prediction", "eps"), Lanczos(largest=99.0), levels=17)
    x = normal_like(torch.zeros(2, 4, dtype=F64), 8)
    step, v = diffusion.chain.step(torch.tensor([10, 600]), x), normal_like(x, 9)
    found = []
    for compiled in (False, True):
        if compiled:
            net.compile(backend="aot_eager")
        seen = diffusion.look(lambda x, t: net(x), x, step.t.flatten().long(), step, v[None])
        found.append(symmetric_product(seen)(v))
    assert torch.equal(*found)


def test_few_dimensions_are_exact_for_few_eigenvalues(monkeypatch):
    """x̂_0 = A x_t, the symmetric part of A with three eigenvalues, one below 0, beside a large skew part: three dimensions then
    hold all that the error of a mean, or a probe, needs."""
    monkeypatch.setattr(jacobian, "MOST", 0)
    basis = torch.linalg.qr(normal_like(torch.zeros(8, 8, dtype=F64), 3)).Q
    skew = normal_like(torch.zeros(8, 8, dtype=F64), 4)
    A = basis * torch.tensor([0.5] * 3 + [0.2] * 3 + [-0.1] * 2, dtype=F64) @ basis.T + (skew - skew.T) / 2
    diffusion = GaussianDiffusion(LINEAR, make("prediction", "x0"), Exact(largest=99.0), levels=17)
    x = normal_like(torch.zeros(4, 2, 2, 2, dtype=F64), 8)
    step = diffusion.chain.step(torch.tensor([20, 100, 400, 1000]), x)
    probes = rng.signs(0, "variance_probe", 1, 0, 1, (4, 2, 2, 2)).double()
    seen = diffusion.look(lambda x, t: (x.flatten(1) @ A.T).reshape(x.shape), x, step.t.flatten().long(), step, probes)
    exact = Exact(largest=99.0).covariance(seen)
    krylov = Lanczos(largest=99.0, bound_steps=3).covariance(seen)
    r = normal_like(x, 2)
    assert_close(krylov.quadratic(r).flatten(), exact.quadratic(r).mean(1), rtol=1e-9)
    along = torch.einsum("bij,bi->bj", exact.vectors, probes[0].flatten(1))
    assert_close(krylov.trace(torch.exp).flatten(), (along**2 * exact.logs.exp()).mean(1), rtol=1e-9)


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


def test_bounds_from_spaces_of_all_dimensions_are_exact(monkeypatch):
    monkeypatch.setattr(jacobian, "MOST", 0)
    seen, _, x = seen_by(Exact(largest=0.8), torch.empty(0, 5, 2, 2, 2, dtype=F64))
    asked = Lanczos(largest=0.8, bound_steps=8)
    assert torch.equal(asked.covariance(seen).quadratic(x), Exact(largest=0.8).covariance(seen).quadratic(x))
    assert (asked.probes_for(8), asked.probes_for(9)) == (0, 1)
    asked.check(8, levels=17)
    for name in ("probes", "decoder_probes"):
        with pytest.raises(ValueError, match=rf"{name}=2: .*bound_steps=8"):
            Lanczos(largest=0.8, bound_steps=8, **{name: 2}).check(8, levels=17)


def test_a_whole_matrix_has_an_end():
    for size, name in ((3 * 64 * 64, "bound_steps"), (MOST_ASKED + 1, "decoder_probes")):
        Lanczos(largest=0.8, **{name: size - 1}).check(size, levels=256)
        with pytest.raises(ValueError, match=rf"{name}={size}: .*allowed are fewer than the {size} dim"):
            Lanczos(largest=0.8, **{name: size}).check(size, levels=256)
    Lanczos(largest=0.8, bound_steps=MOST_ASKED).check(MOST_ASKED, levels=256)


@pytest.mark.parametrize("n", [3, 8, None])
def test_the_decoder_of_lanczos_has_the_diagonal(n, monkeypatch):
    """Of Σ, from as many vectors as there are dimensions, as 256 are; else that of the Jacobian, estimated from vectors that
    are fixed by the time."""
    monkeypatch.setattr(jacobian, "MOST", 0)  # or a matrix this small would be taken whole
    seen, step, x = seen_by(Exact(largest=0.8), torch.ones(1, 5, 2, 2, 2, dtype=F64))
    found = Lanczos(largest=0.8, bound_steps=3, decoder_probes=n).covariance(seen).log_var()
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
    with pytest.raises(ValueError, match=r"bound_steps=9, decoder_probes=5: "):
        asked.check(MOST, levels=256)


def test_vectors_for_a_decoder_that_is_not_there_are_refused():
    asked = Lanczos(largest=0.8, decoder_probes=5)
    asked.check(MOST + 1, levels=256)
    Lanczos(largest=0.8).check(MOST + 1, levels=None)
    with pytest.raises(ValueError, match="decoder_probes=5: data without grey levels"):
        asked.check(MOST + 1, levels=None)


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
