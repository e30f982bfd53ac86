"""Identities of the two processes, for any s < t of any chain."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_lab.core.diffusion import diffuse, eps_weight, implied_eps, posterior_mean
from ddpm_lab.core.gaussian import Normal, kl_nats, kl_shift_nats, log_bin_nats, normal_cdf
from ddpm_lab.core.terms import term_bpd, to_bpd

from .support import (
    NEED_SIGNAL,
    Setting,
    all_times,
    assert_close,
    diffusion_of,
    make,
    normal_like,
    normal_of,
    on_grid,
    options,
    reaches_zero,
)

F64 = torch.float64
CHAINS = [None, (1, 2, 3), (2, 30, 31, 999, 1000), (1, 400), (20, 40, 60, 1000)]
every_schedule = pytest.mark.parametrize("schedule", options("schedule"))
PAIRS = [(s, p) for s in options("schedule") for p in options("prediction") if not (p in NEED_SIGNAL and reaches_zero(s))]


@pytest.mark.parametrize("times", CHAINS)
@pytest.mark.parametrize(("schedule", "prediction"), PAIRS)
def test_beta_tilde_kl_is_a_difference_of_snr(schedule, prediction, times):
    """VDM Eq. 13-14: KL(q ‖ p) = ½ (SNR(s) − SNR(t)) (x_0 − x̂_0)² where σ² = β̃."""
    diffusion = diffusion_of(make("schedule", schedule), Setting(prediction, "beta_tilde"))
    chain = diffusion.schedule.chain(times)
    t = torch.tensor(chain.times)[1:]
    x0 = on_grid((len(t), 1, 2, 2), 256)
    noised = diffusion.noised(x0, normal_like(x0, 1), t, chain)
    out = diffusion.prediction.target(x0, noised.eps, noised.xt, noised.step) + 0.1 * normal_like(x0, 2)
    x0_hat = diffusion.reverse(diffusion.seen(out, noised.xt, noised.step)).x0
    snr, s = diffusion.schedule.snr, torch.tensor(chain.times)[:-1]
    nats = 0.5 * (snr[s] - snr[t]).reshape(-1, 1, 1, 1) * (x0 - x0_hat) ** 2
    assert_close(term_bpd(diffusion, out, noised), to_bpd(nats), rtol=1e-8)


@pytest.mark.parametrize(("s", "t"), [(0, 1), (0, 7), (1, 2), (5, 9), (1, 1000), (499, 500), (999, 1000)])
@every_schedule
def test_posterior_is_bayes(schedule, s, t):
    """log q(x_t | x_s) + log q(x_s | x_0) is the parabola in x_s that the posterior's mean and variance say."""
    table = make("schedule", schedule)
    step = table.chain((t,) if s == 0 else (s, t))[t]
    x0, xt = torch.tensor([0.6], dtype=F64), torch.tensor([-0.9], dtype=F64)
    mean = posterior_mean(x0, xt, step)
    if s == 0:
        assert_close(mean, x0)  # q(x_0 | x_t, x_0) is a point
        return
    ab_s, ab_t = table.alphas_bar[s], table.alphas_bar[t]
    a = ab_t / ab_s
    xs = mean + torch.exp(0.5 * step.log_beta_tilde) * torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=F64)
    forward = torch.distributions.Normal(a.sqrt() * xs, (1 - a).sqrt()).log_prob(xt)
    joint = forward + torch.distributions.Normal(ab_s.sqrt() * x0, (1 - ab_s).sqrt()).log_prob(xs)
    assert_close(joint - joint[2], torch.tensor([-2.0, -0.5, 0.0, -0.5, -2.0]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("times", CHAINS)
@every_schedule
@pytest.mark.long
def test_posteriors_compose_to_the_marginals(schedule, times):
    """From q(x_T | x_0) down the chain by q(x_s | x_t, x_0): mean and variance of every x_s are those of q(x_s | x_0)."""
    chain = make("schedule", schedule).chain(times)
    top = chain[chain.times[-1]].at_t
    x0 = torch.tensor([0.7], dtype=F64)
    mean, variance = top.signal_scale * x0, top.noise_scale**2
    found, wanted = [], []
    for step in chain.steps_down():
        beta_tilde = torch.exp(step.log_beta_tilde) if step.s > 0 else 0.0
        mean = posterior_mean(x0, mean, step)
        variance = step.posterior.xt_coef**2 * variance + beta_tilde
        found.append((float(mean), float(variance)))
        wanted.append((float(step.at_s.signal_scale * x0), float(step.at_s.noise_scale**2)))
    assert_close(torch.tensor(found, dtype=F64), torch.tensor(wanted, dtype=F64), rtol=1e-9)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde", "interpolated"])
@pytest.mark.parametrize("schedule", [s for s in options("schedule") if not reaches_zero(s)])
def test_the_divergence_of_means_is_a_weighted_error_of_eps(schedule, variance):
    """DDPM Eq. 12, for t = 2..T."""
    diffusion = diffusion_of(make("schedule", schedule), Setting("eps", variance))
    x0 = on_grid((999, 1, 2, 2), 256)
    noised = diffusion.noised(x0, normal_like(x0, 1), all_times(1000)[1:])
    eps_hat = noised.eps + 0.3 * normal_like(x0, 2)
    p = normal_of(diffusion.reverse(diffusion.seen(eps_hat, noised.xt, noised.step)))
    expected = eps_weight(noised.step, p.log_var) * (noised.eps - eps_hat) ** 2
    assert_close(kl_shift_nats(diffusion.posterior(noised), p), expected, rtol=1e-6)


@pytest.mark.parametrize(("schedule", "prediction"), PAIRS)
def test_prediction_inverts_its_target(schedule, prediction):
    diffusion = diffusion_of(make("schedule", schedule), Setting(prediction))
    x0 = on_grid((1000, 1, 2, 2), 256)
    noised = diffusion.noised(x0, normal_like(x0, 1), all_times(1000))
    out = diffusion.prediction.target(x0, noised.eps, noised.xt, noised.step)
    assert_close(diffusion.prediction.x0(out, noised.xt, noised.step), x0)
    assert_close(implied_eps(x0, noised.xt, noised.step.at_t), noised.eps)
    assert_close(diffuse(x0, noised.eps, noised.step), noised.xt)


@pytest.mark.parametrize("schedule", [s for s in options("schedule") if not reaches_zero(s)])
def test_eps_and_v_agree_when_their_outputs_correspond(schedule):
    eps_model, v_model = (diffusion_of(make("schedule", schedule), Setting(p)) for p in ("eps", "v"))
    x0 = on_grid((1000, 1, 2, 2), 256)
    noised = eps_model.noised(x0, normal_like(x0, 1), all_times(1000))
    out = normal_like(x0, 3)  # any ε̂ at all
    x0_hat = eps_model.prediction.x0(out, noised.xt, noised.step)
    v = v_model.prediction.target(x0_hat, out, noised.xt, noised.step)
    # ε̂ is amplified by up to 20,000 and comes back: seven of sixteen digits stay
    torch.testing.assert_close(v_model.prediction.x0(v, noised.xt, noised.step), x0_hat, rtol=1e-9, atol=1e-7)
    terms = [term_bpd(d, o, noised) for d, o in ((eps_model, out), (v_model, v))]
    assert_close(*terms, rtol=1e-7)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@given(mean=st.floats(-3, 3), log_std=st.floats(-9, 3))
@settings(max_examples=60, deadline=None)
def test_bins_add_up_to_one(levels, mean, log_std):
    x = torch.linspace(-1, 1, levels, dtype=F64)[None]
    p = Normal(torch.full_like(x, mean), torch.tensor(2 * log_std, dtype=F64))
    # the floor of 1e-12 per bin is all that may be in excess
    assert float(log_bin_nats(x, p, levels).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_cdf_is_a_distribution_near_phi():
    z = torch.linspace(-12, 12, 100_001, dtype=F64)
    cdf = normal_cdf(z)
    assert (cdf.diff() >= 0).all()
    assert_close(cdf + cdf.flip(0), torch.ones_like(z), atol=1e-15)
    assert (cdf - torch.special.ndtr(z)).abs().max() < 3e-4


@pytest.mark.parametrize("variance", options("variance"))
def test_clip_acts_on_x0_before_the_mean(variance):
    diffusion = diffusion_of(make("schedule", "linear"), Setting(variance=variance))
    t = torch.tensor([1, 10, 500, 1000])
    x0 = on_grid((4, 1, 2, 2), 256)
    noised = diffusion.noised(x0, normal_like(x0, 1), t)
    out = 3 * normal_like(torch.zeros(4, diffusion.variance.n_outputs, 2, 2, dtype=F64), 2)
    free, clipped = (diffusion.reverse(diffusion.seen(out, noised.xt, noised.step), clip) for clip in (False, True))
    assert torch.equal(clipped.x0, free.x0.clamp(-1, 1))
    assert torch.equal(clipped.mean, posterior_mean(free.x0.clamp(-1, 1), noised.xt, noised.step))
    assert torch.equal(clipped.covariance.log_var(), free.covariance.log_var())
    assert float(free.x0.abs().max()) > 1


def test_divergence_is_never_negative_and_zero_at_itself():
    p = Normal(torch.zeros(1, 5, dtype=F64), torch.linspace(-12, 3, 5, dtype=F64)[None])
    assert torch.equal(kl_nats(p, p), torch.zeros(1, 5, dtype=F64))
    assert (kl_nats(p, Normal(p.mean + 0.1, p.log_var - 0.2)) > 0).all()
    assert math.isclose(float(to_bpd(torch.full((1, 2, 3), math.log(2)))), 1.0, rel_tol=1e-6)
