"""Samplers with the analytic variance: on Gaussian data every one is a linear map, so nothing here is estimated."""

import dataclasses
import itertools
import math

import pytest
import torch

from ddpm_lab.core.analytic import Analytic, Gamma
from ddpm_lab.core.sampler import DDIM, Ancestral, Sampler
from ddpm_lab.core.schedule import cosine, linear

from .linear_model import LinearModel
from .support import assert_close, log_var_of, make, normal_like, options

F64 = torch.float64
SCHEDULES = {"linear": linear, "cosine": cosine}
ONE = torch.tensor([0.2], dtype=F64)
FIXED = [name for name in options("variance") if not name.startswith("learned")]


def model_of(name: str = "linear", spectrum=ONE) -> LinearModel:
    return LinearModel(SCHEDULES[name](1000), spectrum=spectrum)


def analytic(model: LinearModel, **options) -> Analytic:
    times = tuple(range(1, model.schedule.T + 1))
    ab, none = model.schedule.alphas_bar[1:], torch.zeros(len(times), dtype=F64)
    cov = torch.stack([model.conditional(t).mean() for t in times])
    return Analytic(Gamma(times, ab, 1 - cov * ab / (1 - ab), none, cov, none, 1000), **options)


def step_map(sampler: Sampler, model: LinearModel, variance, t: int) -> tuple[float, float]:
    """(a, b) of x_s = a x_t + b z in one dimension."""
    diffusion = model.diffusion(variance)
    chain = sampler.chain(model.schedule)
    denoise, step = diffusion.denoiser(model.net, chain, clip=False), chain[t]
    xt, z = torch.tensor([[1.0], [0.0]], dtype=F64), torch.tensor([[0.0], [1.0]], dtype=F64)
    noisy = sampler.noisy(diffusion.variance) and step.s > 0
    xs = sampler.step(denoise, xt, step, z if noisy else None, None)[0]
    return float(xs[0]), float(xs[1])


def final_variance(sampler: Sampler, model: LinearModel, variance) -> float:
    """Of the samples, from x_T ~ N(0, 1)."""
    found = 1.0
    for t in reversed(sampler.chain(model.schedule).times):
        a, b = step_map(sampler, model, variance, t)
        found = a**2 * found + b**2
    return found


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_each_step_keeps_the_marginal(name, eta):
    """From the true q(x_t), a step of Analytic-DDIM at any η lands on the variance of the true q(x_s): one dimension, where the
    covariance does not hang on x_t. The noise-free last step loses Var(x_0 | x_t)."""
    model, sampler = model_of(name), DDIM(20, eta=eta)
    variance, ab, times = analytic(model), model.schedule.alphas_bar, sampler.chain(model.schedule).times
    for s, t in zip((0, *times[:-1]), times, strict=True):
        a, b = step_map(sampler, model, variance, t)
        before, after = (float(ab[u] * ONE + 1 - ab[u]) for u in (t, s))
        lost = float(model.conditional(t)) if s == 0 else 0.0
        assert_close(a**2 * before + b**2, after - lost, rtol=1e-8)


@pytest.mark.parametrize("steps", [5, 10, 25])
@pytest.mark.parametrize("name", SCHEDULES)
def test_analytic_ddim_meets_the_marginal_variance_better_than_ddim(name, steps):
    model = model_of(name)
    true = float(ONE)
    plain = final_variance(DDIM(steps), model, "beta_tilde")
    ours = final_variance(DDIM(steps), model, analytic(model))
    first = DDIM(steps).chain(model.schedule).times[0]
    assert_close(ours, true - float(model.conditional(first)), rtol=1e-4)  # x_T ~ N(0, 1) is not quite q(x_T)
    assert abs(ours - true) < abs(plain - true)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_with_full_noise_is_ancestral(name):
    """Theorem 1 with λ² = β̃ is the analytic DDPM; on several dimensions too."""
    model = model_of(name, torch.tensor([0.5, 0.1, 0.01], dtype=F64))
    diffusion, ddim = model.diffusion(analytic(model, max_last_noise=2.0)), DDIM(7, eta=1.0)
    runs = [
        [s.x for s in sampler(diffusion, model.net, normal_like(torch.zeros(4, 3, dtype=F64), 0), draw)]
        for sampler in (ddim, Ancestral(7))
        for draw in [lambda t: normal_like(torch.zeros(4, 3, dtype=F64), t)]
    ]
    assert_close(torch.stack(runs[0]), torch.stack(runs[1]), rtol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_theorem_1(eta):
    """σ² = λ² + (√(β̄_t/α) − √(β̄_s − λ²))² (1 − Γ), λ = η √β̃, in the paper's own terms."""
    model, sampler = model_of(), DDIM(10, eta=eta)
    ab, times, variance = model.schedule.alphas_bar, sampler.chain(model.schedule).times, analytic(model)
    for s, t in itertools.pairwise(times):
        bbar_s, bbar_t, alpha = 1 - ab[s], 1 - ab[t], ab[t] / ab[s]
        lambda2 = eta**2 * bbar_s / bbar_t * (1 - alpha)
        gamma = variance.gamma.mean[t - 1]
        wanted = lambda2 + ((bbar_t / alpha).sqrt() - (bbar_s - lambda2).sqrt()) ** 2 * (1 - gamma)
        assert_close(step_map(sampler, model, variance, t)[1] ** 2, wanted, rtol=1e-7)


@pytest.mark.parametrize("sampler", [Ancestral(10), DDIM(10), DDIM(10, eta=0.7)], ids=["ancestral", "ddim", "eta"])
@pytest.mark.parametrize("y", [1.0, 2.0])
def test_noise_of_the_last_noisy_step_is_limited(sampler, y):
    """Where x_s is at the chain's first time; E|σ z| = y · 2/255. All other steps, and the bound, are as they were."""
    model = model_of()
    times, limit = sampler.chain(model.schedule).times, y * 2 / 255 * math.sqrt(math.pi / 2)
    for i, t in enumerate(times):
        free, held = (step_map(sampler, model, analytic(model, max_last_noise=most), t)[1] for most in (None, y))
        assert_close(held, min(free, limit) if i == 1 else free)
        assert i != 1 or free > limit
        assert (free == 0) == (i == 0)
    chain = model.schedule.chain(times)
    logs = [log_var_of(analytic(model, max_last_noise=most), chain[times[1]]) for most in (None, y)]
    assert_close(logs[0], logs[1])


@pytest.mark.parametrize("variance", options("variance"))
@pytest.mark.parametrize(("sampler", "used"), [(Ancestral(6), True), (DDIM(6), False), (DDIM(6, eta=0.5), False)])
def test_samplers_say_whether_the_variance_matters(sampler, used, variance):
    """And it is so: the same samples for another variance, or not."""
    model, other = model_of(), make("variance", variance)
    assert sampler.uses(other) is used
    assert sampler.noisy(other) is (sampler.draws_noise)
    assert sampler.uses(analytic(model))
    assert sampler.noisy(analytic(model))
    x = normal_like(torch.zeros(3, 1, dtype=F64), 0)

    def net(xt, t):
        return torch.cat([model.net(xt, t), 0.3 * xt][: other.n_outputs], dim=1)

    runs = []
    for kind in (other, make("variance", "beta_tilde") if variance != "beta_tilde" else make("variance", "beta")):
        *_, last = sampler(model.diffusion(kind), net, x, lambda t: normal_like(x, t))
        runs.append(last.x)
    assert torch.equal(*runs) is not used


def test_one_step_has_no_noisy_step():
    model = model_of()
    for sampler in (Ancestral(1), DDIM(1)):
        variance = analytic(model, max_last_noise=1.0)
        *_, last = sampler(model.diffusion(variance), model.net, torch.ones(2, 1, dtype=F64), lambda t: pytest.fail("drawn"))
        assert last.t == 0


def test_clipped_x0_and_images():
    """The mean rests on the clipped x̂_0, the noise on Γ of the unclipped one (as in the paper's code)."""
    model = model_of()
    diffusion = dataclasses.replace(model.diffusion(analytic(model)), levels=256)
    said = diffusion.denoiser(lambda x, t: -3 + 0 * x, diffusion.schedule.chain((10, 500)), clip=True)(
        torch.ones(1, 1).double(), 500
    )
    assert float(said.x0) == 1
    spread = said.other_noise(torch.ones(1, 1).double(), c=torch.ones(()), std=torch.zeros(()))
    assert_close(float(spread) ** 2, float(model.conditional(500)))
