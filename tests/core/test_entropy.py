"""Quantised data of known entropy: the exact bound, from the package's own terms, lies above it and closes on it.

One pixel of five grey levels. The expectation over ε is a sum over nodes; the second opinion integrates over x_t instead.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.terms import prior_bpd, term_bpd

from . import reference
from .grey_reference import tanh_cdf
from .support import Setting, assert_close, diffusion_of, make, options, tables_of

F64 = torch.float64
LEVELS = 5
GREYS = torch.linspace(-1, 1, LEVELS, dtype=F64)
P = torch.tensor([0.4, 0.1, 0.25, 0.05, 0.2], dtype=F64)
ENTROPY = float(-(P * P.log2()).sum())
MEAN = float((P * GREYS).sum())
VARIANCE = float((P * (GREYS - MEAN) ** 2).sum())


def bayes(xt: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
    """E[x_0 | x_t] of the grey levels."""
    log_p = P.log() - 0.5 * (xt - ab.sqrt() * GREYS) ** 2 / (1 - ab)
    return (torch.softmax(log_p, dim=-1) * GREYS).sum(-1, keepdim=True)


def linear_fit(xt: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
    """The best linear guess of x_0."""
    return MEAN + ab.sqrt() * VARIANCE / (ab * VARIANCE + 1 - ab) * (xt - ab.sqrt() * MEAN)


def hermite(step: float = 0.02) -> tuple[torch.Tensor, torch.Tensor]:
    """Equidistant nodes of a normal: they converge faster than any power, as the integrand is smooth and dies out."""
    nodes = torch.arange(-9, 9 + step, step, dtype=F64)
    return nodes, torch.softmax(-0.5 * nodes**2, 0)


PAIR = torch.tensor([-1.0, 1.0], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64)
"""Exact for polynomials of ε up to the third degree."""


def expected_terms(schedule: NoiseSchedule, setting: Setting, denoiser, rule, times=None) -> torch.Tensor:
    """E[L_{t-1}] over data and noise at every t of the chain, in bits."""
    diffusion, chain = diffusion_of(schedule, setting), schedule.chain(times)
    nodes, weights = rule
    x0, eps = GREYS.repeat_interleave(len(nodes))[:, None], nodes.repeat(LEVELS)[:, None]
    weight = (P[:, None] * weights).flatten()
    terms = []
    for t in chain.times:
        noised = diffusion.noised(x0, eps, torch.full((len(x0),), t), chain)
        x0_hat, ab = denoiser(noised.xt, schedule.alphas_bar[t]), schedule.alphas_bar[t]
        eps_hat = (noised.xt - ab.sqrt() * x0_hat) / (1 - ab).sqrt()
        out = diffusion.prediction.target(x0_hat, eps_hat, noised.xt, noised.step)
        if diffusion.variance.n_outputs == 2:
            out = torch.cat([out, torch.full_like(out, -0.4)], dim=1)
        terms.append((term_bpd(diffusion, out, noised) * weight).sum())
    return torch.stack(terms)


def expected_prior(schedule: NoiseSchedule) -> float:
    return float((prior_bpd(schedule.chain(), GREYS[:, None]) * P).sum())


def divergence_bits(sub: reference.Tables, kind: str, i: int, error: float) -> float:
    """KL of step i of a chain for a denoiser with mean squared error `error`, in bits, from β tables."""
    raw = torch.tensor(-0.4, dtype=F64)
    log_var, log_q = float(sub.log_var(kind, i, raw)), math.log(sub.beta_tilde(i))
    coefficient = math.sqrt(sub.abar[i - 1]) * sub.beta[i] / (1 - sub.abar[i])
    spread = 0.5 * (log_var - log_q + math.exp(log_q - log_var) - 1)
    return (spread + 0.5 * coefficient**2 * error / math.exp(log_var)) / math.log(2)


def integrate(ab: float, f) -> float:
    """∫ Σ_k p_k N(x; √ᾱ x_k, 1 − ᾱ) f(k, x) dx on a grid of x, in numpy."""
    std = math.sqrt(1 - ab)
    x = np.linspace(-math.sqrt(ab) - 9 * std, math.sqrt(ab) + 9 * std, 20_001)
    density = np.stack(
        [p * np.exp(-0.5 * ((x - math.sqrt(ab) * g) / std) ** 2) for p, g in zip(P.numpy(), GREYS.numpy(), strict=True)]
    )
    return float((density * f(x, density)).sum() * (x[1] - x[0]) / (std * math.sqrt(2 * math.pi)))


def bayes_error(ab: float) -> float:
    """E Var(x_0 | x_t): the least mean squared error."""

    def variance(x, density):
        share = density / density.sum(0)
        mean = (share * GREYS.numpy()[:, None]).sum(0)
        return (share * (GREYS.numpy()[:, None] - mean) ** 2).sum(0)[None]

    return integrate(ab, variance)


def bayes_decoder_bits(sub: reference.Tables, kind: str) -> float:
    log_std = 0.5 * float(sub.log_var(kind, 1, torch.tensor(-0.4, dtype=F64)))

    def bits(x, density):
        mean = torch.from_numpy((density * GREYS.numpy()[:, None]).sum(0) / density.sum(0))
        rows = [tanh_cdf((g - mean + 0.25) / math.exp(log_std)) for g in GREYS[:-1]]
        cdf = torch.stack([torch.zeros_like(mean), *rows, torch.ones_like(mean)])
        return -cdf.diff(dim=0).clamp(min=1e-12).log2().numpy()

    return integrate(sub.abar[1], bits)


@pytest.mark.parametrize("times", [None, (1, 5, 9, 20, 40), (10, 40)])
@pytest.mark.parametrize("variance", ["beta", "beta_tilde", "learned_range"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_bound_of_the_bayes_denoiser_equals_an_independent_integral(name, variance, times):
    tables, schedule = tables_of(name, 40), make("schedule", name, T=40)
    sub = tables.respaced(list(times or range(1, 41)))
    terms = expected_terms(schedule, Setting("eps", variance, LEVELS), bayes, hermite(), times)
    wanted = [divergence_bits(sub, variance, i, bayes_error(sub.abar[i])) for i in range(2, sub.T + 1)]
    assert_close(terms, [bayes_decoder_bits(sub, variance), *wanted], rtol=1e-6, atol=1e-7)
    assert float(terms.sum()) + expected_prior(schedule) > ENTROPY


@pytest.mark.parametrize("prediction", options("prediction"))
@pytest.mark.parametrize("variance", ["beta", "beta_tilde", "learned_range"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_divergences_of_the_linear_denoiser_are_exact_from_two_noises(name, variance, prediction):
    tables, schedule = tables_of(name, 50), make("schedule", name, T=50)
    setting = Setting(prediction, variance, LEVELS)
    terms = expected_terms(schedule, setting, linear_fit, PAIR)[1:]
    error = [VARIANCE * (1 - ab) / (ab * VARIANCE + 1 - ab) for ab in tables.abar]
    assert_close(terms, [divergence_bits(tables, variance, t, error[t]) for t in range(2, 51)], rtol=1e-8)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde", "learned_range"])
def test_the_linear_denoiser_pays_more_than_bayes(variance):
    schedule, setting = make("schedule", "cosine", T=40), Setting("eps", variance, LEVELS)
    best, worse = (expected_terms(schedule, setting, denoiser, hermite()) for denoiser in (bayes, linear_fit))
    assert (worse[1:] >= best[1:] - 1e-12).all()
    assert float(worse.sum()) > float(best.sum()) + 0.1


def test_the_bound_closes_on_the_entropy():
    """I-MMSE: ½ ∫ mmse dSNR is the entropy. For σ² = β̃ the sum over steps exceeds it by a gap that falls as 1/T."""
    gaps = []
    for T in (25, 100, 400):
        schedule = make("schedule", "cosine", T=T)
        total = expected_terms(schedule, Setting("v", "beta_tilde", LEVELS), bayes, hermite(0.04)).sum()
        gaps.append(float(total) + expected_prior(schedule) - ENTROPY)
    assert gaps[2] > 0
    assert all(coarse > 4 * fine for coarse, fine in itertools.pairwise(gaps)), gaps
    assert gaps[2] < 0.05
