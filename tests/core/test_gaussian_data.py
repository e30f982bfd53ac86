"""Data N(0, s²) and its exact denoiser: every sampler is a linear map, so nothing here is estimated."""

import itertools
import math

import pytest
import torch

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.schedule import cosine, linear
from ddpm_lab.core.variance import BetaTilde

from .support import assert_close, make, tables_of

F64 = torch.float64
SCHEDULES = {"linear": linear, "cosine": cosine}


def exact_eps(schedule: NoiseSchedule, s: float):
    """ε̂ of E[x_0 | x_t] = √ᾱ s² x_t / (ᾱ s² + 1 − ᾱ)."""

    def net(xt, t):
        ab = schedule.alphas_bar[t].reshape(-1, *[1] * (xt.ndim - 1))
        return xt * (1 - ab).sqrt() / (ab * s**2 + 1 - ab)

    return net


def gaussian(schedule: NoiseSchedule, variance: str = "beta_tilde") -> GaussianDiffusion:
    return GaussianDiffusion(schedule, make("prediction", "eps"), make("variance", variance), levels=None)


def ddim_slope(steps: int, s: float, spacing: str = "trailing", name: str = "linear") -> float:
    schedule = SCHEDULES[name]()
    x = torch.ones(1, 1, dtype=F64)
    *_, last = DDIM(steps, spacing=spacing)(gaussian(schedule), exact_eps(schedule, s), x, lambda t: torch.zeros_like(x))
    return float(last.x)


def flow_slope(s: float, name: str = "linear") -> float:
    """The probability flow keeps x_t / std(x_t), and std² is ᾱ s² + 1 − ᾱ: s² at 0. DDIM is its Euler method in √(1/ᾱ − 1)."""
    ab = float(SCHEDULES[name]().alphas_bar[-1])
    return s / math.sqrt(ab * s**2 + 1 - ab)


@pytest.mark.parametrize("s", [0.5, 1.0, 2.0])
def test_ddim_is_first_order(s):
    errors = [abs(ddim_slope(steps, s) - flow_slope(s)) for steps in (25, 50, 100, 200)]
    ratios = [coarse / fine for coarse, fine in itertools.pairwise(errors)]
    assert all(1.9 < ratio < 2.1 for ratio in ratios), (errors, ratios)


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "quadratic"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.long
def test_ddim_meets_the_flow_at_full_length(name, spacing):
    """Every spacing that holds T; `leading` starts below it, from x_T that its first time does not fit."""
    assert ddim_slope(1000, 0.5, spacing, name) == pytest.approx(flow_slope(0.5, name), rel=0.01)


def transition(sampler, diffusion, net, chain, step):
    """(a, b) of x_s = a x_t + b z, probed with a basis: the sampler is linear here."""
    denoise = diffusion.denoiser(net, chain, clip=False)
    xt, z = torch.tensor([[1.0], [0.0]], dtype=F64), torch.tensor([[0.0], [1.0]], dtype=F64)
    xs, _, _ = sampler.step(denoise, xt, step, None if step.s == 0 else z, None)
    return float(xs[0]), float(xs[1])


CHAINS = {
    "full": None,
    "strided": tuple(range(25, 1001, 25)),
    "uneven": (3, 10, 11, 400, 1000),
    "one": (1000,),
}


@pytest.mark.parametrize("times", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.long
def test_ancestral_moments_follow_the_recursion(name, variance, times):
    """Mean and variance of every x_s from N(1, 1), against Eq. 11 and β tables of the respaced chain."""
    schedule, s = SCHEDULES[name](), 0.6
    diffusion, net, chain = gaussian(schedule, variance), exact_eps(schedule, s), schedule.chain(times)
    sub = tables_of(name, 1000).respaced(list(chain.times))
    mean = variance_now = wanted_mean = wanted_variance = 1.0
    for i, step in zip(range(len(chain), 0, -1), chain.steps_down(), strict=True):
        a, b = transition(Ancestral(), diffusion, net, chain, step)
        mean, variance_now = a * mean, a**2 * variance_now + b**2
        one = torch.ones(1, 1, dtype=F64)
        a = float(sub.p_mean("eps", net(one, step.t.long().reshape(1)), one, i))
        wanted_mean *= a
        wanted_variance = a**2 * wanted_variance + (math.exp(sub.log_var(variance, i)) if i > 1 else 0)
        assert_close([mean, variance_now], [wanted_mean, wanted_variance], rtol=1e-8)


@pytest.mark.parametrize("times", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.long
def test_beta_is_exact_for_standard_normal_data(name, times):
    """Ho et al. section 3.2: every x_t stays N(0, 1), until the last step, which returns its mean and loses its β."""
    schedule = SCHEDULES[name]()
    diffusion, net, chain = gaussian(schedule, "beta"), exact_eps(schedule, 1.0), schedule.chain(times)
    variance = 1.0
    for step in chain.steps_down():
        a, b = transition(Ancestral(), diffusion, net, chain, step)
        variance = a**2 * variance + b**2
        expected = 1.0 if step.s > 0 else schedule.alphas_bar[chain.times[0]]
        assert_close(variance, expected, rtol=1e-9)


@pytest.mark.parametrize("times", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.long
def test_beta_tilde_is_exact_for_a_single_point(name, times):
    """Ho et al. section 3.2: from q(x_T | c) every x_s is q(x_s | c), and x_0 = c."""
    schedule, c = SCHEDULES[name](), 0.3
    diffusion, chain = gaussian(schedule), schedule.chain(times)

    def net(xt, t):
        ab = schedule.alphas_bar[t].reshape(-1, 1)
        return (xt - ab.sqrt() * c) / (1 - ab).sqrt()

    top = schedule.alphas_bar[chain.times[-1]]
    mean, variance = top.sqrt() * c, 1 - top
    denoise = diffusion.denoiser(net, chain, clip=False)
    for step in chain.steps_down():
        probe = torch.tensor([[0.0], [1.0], [0.0]], dtype=F64)
        z = None if step.s == 0 else torch.tensor([[0.0], [0.0], [1.0]], dtype=F64)
        base, x, noise = Ancestral().step(denoise, probe, step, z, None)[0][:, 0]
        mean = base + (x - base) * mean
        variance = (x - base) ** 2 * variance + (noise - base) ** 2
        ab = schedule.alphas_bar[int(step.s)]
        assert_close([mean, variance], [ab.sqrt() * c, 1 - ab], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("times", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.long
def test_ddim_with_full_noise_is_ancestral(name, clip, times):
    schedule = SCHEDULES[name]()
    diffusion, chain = GaussianDiffusion(schedule, make("prediction", "v"), BetaTilde()), schedule.chain(times)
    denoise = diffusion.denoiser(lambda x, t: torch.sin(3 * x), chain, clip)
    g = torch.Generator().manual_seed(0)
    for step in chain.steps_down():
        xt, z = torch.randn(2, 3, 4, generator=g, dtype=F64)
        z = None if step.s == 0 else z
        ancestral, ddim = (sampler.step(denoise, xt, step, z, None)[0] for sampler in (Ancestral(), DDIM(eta=1.0)))
        assert_close(ddim, ancestral, rtol=1e-8)
