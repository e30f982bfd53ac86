"""Γ and the analytic variance against Bao et al.'s Theorem 1 and closed forms of Gaussian data."""

import dataclasses
import math

import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.core.analytic import Analytic, Gamma
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.schedule import cosine, jsd, linear, zero_terminal_snr
from ddpm_lab.likelihood.bound import BoundMeter
from ddpm_lab.likelihood.gamma import GammaMeter

from .linear_model import LinearModel
from .support import REFUSED, Setting, assert_close, diffusion_of, log_var_of, make, on_grid

F64 = torch.float64
CHAINS = {"full": None, "strided": (4, 15, 30, 45, 60), "uneven": (1, 2, 20, 60), "below T": (5, 30)}


def schedule_of() -> NoiseSchedule:
    return linear(60, beta_end=0.2)


def true_gamma(model: LinearModel, times=None) -> Gamma:
    """As measured on infinitely many data."""
    ab = model.schedule.alphas_bar
    times = times or tuple(range(1, model.schedule.T + 1))
    mean = torch.stack([model.gamma(t).mean() for t in times])
    at, none = ab[torch.tensor(times)], torch.zeros(len(times), dtype=F64)
    return Gamma(times, at, mean, none, (1 - at) / at * (1 - mean), none, 1000)


def measured(model: LinearModel, times, n: int, seed: int = 0, **options) -> GammaMeter:
    meter = GammaMeter(model.diffusion("beta"), times, seed, **options)
    meter.add(model.net, model.data(n, seed), first=0)
    return meter


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("wrong", [1.0, 0.8])
def test_gamma_is_the_closed_form_whatever_is_predicted(wrong, prediction):
    model = LinearModel(schedule_of(), wrong, prediction=prediction)
    times = (1, 2, 7, 30, 60)
    gamma = measured(model, times, 2000).result()
    true = torch.stack([model.gamma(t).mean() for t in times])
    assert ((gamma.mean - true).abs() < 3.5 * gamma.se).all()
    assert (gamma.times, gamma.n) == (times, 2000)
    ab = model.schedule.alphas_bar[torch.tensor(times)]
    assert_close(gamma.cov, (1 - ab) / ab * (1 - gamma.mean))
    assert_close(gamma.cov_se, (1 - ab) / ab * gamma.se)
    if wrong == 1:
        conditional = torch.stack([model.conditional(t).mean() for t in times])
        assert_close(true_gamma(model, times).cov, conditional)
        assert ((gamma.cov - conditional).abs() < 3.5 * gamma.cov_se).all()


def test_gamma_by_hand():
    """Mean, standard error and draws; a network that also gives a variance, on images."""
    diffusion, times = diffusion_of(linear(6, beta_end=0.4), Setting("v", "learned_range", 17)), (2, 5)
    x0 = on_grid((70, 1, 2, 2), 17)

    def net(xt, t):
        return torch.cat([torch.sin(2 * xt) + 0.1 * t.reshape(-1, 1, 1, 1), xt], dim=1)

    meter = GammaMeter(diffusion, times, seed=4)
    meter.add(net, x0, first=100)
    gamma = meter.result()
    for i, t in enumerate(times):
        ab = float(diffusion.schedule.alphas_bar[t])
        eps = torch.cat([rng.normal((1, 2, 2), 4, "gamma", t, j, j + 1) for j in range(100, 170)]).double()
        xt = math.sqrt(ab) * x0 + math.sqrt(1 - ab) * eps
        v = torch.sin(2 * xt) + 0.1 * t
        norm = ((math.sqrt(1 - ab) * xt + math.sqrt(ab) * v) ** 2).mean((1, 2, 3))  # ε̂ of v, Salimans & Ho appendix D
        assert_close(gamma.mean[i], norm.mean())
        assert_close(gamma.se[i], norm.std() / math.sqrt(70), rtol=1e-6)


@pytest.mark.parametrize("schedule", [jsd(20), zero_terminal_snr(20, beta_end=0.5)], ids=["jsd", "zero"])
def test_a_time_without_signal_has_a_finite_covariance(schedule):
    """There x̂_0 is the mean of the data, so that the covariance is the data's own: E x_0² − E x̂_0²."""
    model = LinearModel(schedule, prediction="x0")
    gamma = measured(model, (10, 20), 4000).result()
    assert gamma.alphas_bar[1] == 0
    true = torch.stack([model.conditional(t).mean() for t in (10, 20)])
    assert_close(true[1], model.spectrum.mean())
    assert ((gamma.cov - true).abs() < 3.5 * gamma.cov_se).all()
    assert (gamma.cov_se > 0).all()
    diffusion = dataclasses.replace(model.diffusion("beta"), variance=Analytic(gamma))
    assert torch.isfinite(log_var_of(diffusion.variance, schedule.chain((10, 20))[20]))


def test_parts_of_the_data_add_up():
    model, times = LinearModel(schedule_of()), (1, 9, 33)
    x0, whole = model.data(150), measured(model, times, 150)
    parts = [GammaMeter(whole.diffusion, times, batch=50) for _ in range(3)]
    for meter, (first, stop) in zip(parts, [(70, 150), (0, 0), (0, 70)], strict=True):
        for start in range(first, stop, 40):
            meter.add(model.net, x0[start : min(start + 40, stop)], start)
    parts[0].tally = parts[0].tally.plus(parts[1].tally).plus(parts[2].tally)
    one, other = whole.result(), parts[0].result()
    assert other.n == one.n == 150
    assert_close(torch.stack([other.mean, other.cov]), torch.stack([one.mean, one.cov]), rtol=1e-12)
    assert_close(torch.stack([other.se, other.cov_se]), torch.stack([one.se, one.cov_se]), rtol=1e-9)
    with pytest.raises(ValueError, match="at least 2 data, and there are 0"):
        parts[1].result()


def test_gamma_does_not_ask_the_variance_in_use():
    """One that knows other times only."""
    model = LinearModel(schedule_of())
    meter = GammaMeter(model.diffusion(Analytic(true_gamma(model, (5, 10)))), (1, 9, 33))
    meter.add(model.net, model.data(20), first=0)
    assert_close(meter.result().mean, measured(model, (1, 9, 33), 20).result().mean)


def theorem1(alphas_bar, gamma, s: int, t: int, lambda2: float) -> float:
    """Bao et al. 2022, Theorem 1, in its own terms: the score's norm, α and β̄ = 1 − ᾱ of the step."""
    abar_s, abar_t = float(alphas_bar[s]), float(alphas_bar[t])
    alpha, bbar_s, bbar_t = abar_t / abar_s, 1 - abar_s, 1 - abar_t
    score_norm = gamma / bbar_t  # E‖∇ log q_n‖²/d
    return lambda2 + (math.sqrt(bbar_t / alpha) - math.sqrt(bbar_s - lambda2)) ** 2 * (1 - bbar_t * score_norm)


@pytest.mark.parametrize("times", CHAINS.values(), ids=CHAINS)
def test_analytic_is_theorem_1(times):
    model = LinearModel(schedule_of())
    gamma, chain = true_gamma(model), model.schedule.chain(times)
    variance, ab = Analytic(gamma), model.schedule.alphas_bar
    for s, t in zip((0, *chain.times[:-1]), chain.times, strict=True):
        beta_tilde = float((1 - ab[t] / ab[s]) * (1 - ab[s]) / (1 - ab[t]))
        wanted = theorem1(ab, float(gamma.mean[t - 1]), s, t, beta_tilde)
        assert_close(log_var_of(variance, chain[t]).exp(), wanted, rtol=1e-9)
    t = torch.tensor(chain.times)
    batch = log_var_of(variance, chain.step(t, torch.zeros(len(t), 3, 2, 2, dtype=F64)))
    assert_close(batch.flatten(), torch.stack([log_var_of(variance, chain[int(u)]) for u in t]))


@pytest.mark.parametrize("times", CHAINS.values(), ids=CHAINS)
def test_no_isotropic_variance_has_a_lower_bound(times):
    """For the exact denoiser: a search over σ finds the analytic one, term by term, so its bound is below those of β and β̃."""
    model = LinearModel(schedule_of())
    variance, chain = Analytic(true_gamma(model)), model.schedule.chain(times)
    analytic = [float(log_var_of(variance, chain[t]).exp()) for t in chain.times]
    for s, t, var in zip((0, *chain.times[:-1]), chain.times, analytic, strict=True):
        low, high = var / 50, var * 50
        for _ in range(60):  # golden section on log σ²
            a, b = low * (high / low) ** 0.382, low * (high / low) ** 0.618
            low, high = (low, b) if model.term_bpd(s, t, a) < model.term_bpd(s, t, b) else (a, high)
        assert_close(math.sqrt(low * high), var, rtol=1e-5)
    bounds = {kind: model.bound_bpd(chain.times, model.variance_of(kind, chain.times)) for kind in ("beta", "beta_tilde")}
    assert model.bound_bpd(chain.times, analytic) <= min(bounds.values())


@pytest.mark.parametrize("times", CHAINS.values(), ids=CHAINS)
def test_measured_bound_of_the_analytic_variance(times):
    """Γ from some data, the bound on others: the closed form for that σ², near the least there is, below that of β̃ by pairs."""
    model, bounds = LinearModel(schedule_of()), {}
    chain = model.schedule.chain(times)
    variance, best = Analytic(measured(model, chain.times, 4000, seed=1).result()), Analytic(true_gamma(model))
    for kind in (variance, make("variance", "beta_tilde")):
        meter = BoundMeter(model.diffusion(kind), chain)
        meter.add(model.net, model.data(300), first=0)
        bounds[type(kind).__name__] = meter.result()
    wanted, least = (
        model.bound_bpd(chain.times, [float(log_var_of(v, chain[t]).exp()) for t in chain.times]) for v in (variance, best)
    )
    bound, other = bounds["Analytic"], bounds["BetaTilde"]
    assert abs(bound.total_bpd - wanted) < 3 * bound.total_se
    assert 0 <= wanted - least < 0.1  # Γ is rough where ᾱ is small: four dimensions average little
    gain = other.per_datum_bpd - bound.per_datum_bpd
    assert gain.mean() > 3 * gain.std() / math.sqrt(300)


def test_covariances_are_clipped_and_counted():
    gamma = true_gamma(LinearModel(schedule_of()))
    cov = gamma.cov.clone()
    cov[:3], cov[-2:] = -0.1, 1.7
    wild = dataclasses.replace(gamma, cov=cov)
    clipped, free, chain = Analytic(wild), Analytic(wild, clip_cov=False), schedule_of().chain()
    assert (clipped.clipped, free.clipped) == ((3, 2), (0, 0))
    assert_close([clipped.mean_var(chain[t]) for t in (2, 10, 60)], [0, float(gamma.cov[9]), 1])
    assert_close([free.mean_var(chain[t]) for t in (2, 10, 60)], [-0.1, float(gamma.cov[9]), 1.7])
    # β̃ is 0 in the first step: with no covariance either, the log variance is Ho's
    assert_close(log_var_of(clipped, chain[1]), chain[2].log_beta_tilde)
    assert_close(log_var_of(clipped, chain[2]), chain[2].log_beta_tilde)


def test_gamma_of_other_times_or_another_schedule_is_refused():
    model = LinearModel(schedule_of())
    variance, chain = Analytic(true_gamma(model, (5, 10))), model.schedule.chain((5, 10, 20))
    with pytest.raises(ValueError, match=r"not measured at t = \[20\]"):
        log_var_of(variance, chain[20])
    with pytest.raises(ValueError, match=r"not measured at t = \[4\]"):
        log_var_of(variance, model.schedule.chain().step(torch.tensor([5, 4]), torch.zeros(2, 1)))
    with pytest.raises(ValueError, match="another schedule"):
        log_var_of(variance, cosine(60).chain((5, 10))[10])
    for times in ((0, 1), (3, 3), (60, 61), (5, 4), ()):
        with pytest.raises(REFUSED):
            GammaMeter(model.diffusion("beta"), times)


def test_float32_is_close():
    model = LinearModel(schedule_of())
    variance, chain = Analytic(true_gamma(model)), model.schedule.chain()
    t = torch.arange(1, 61)
    low, high = (log_var_of(variance, chain.step(t, torch.zeros(60, 1, dtype=d))) for d in (torch.float32, F64))
    assert low.dtype == torch.float32
    assert_close(low, high, rtol=1e-5)
