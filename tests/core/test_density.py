"""Times by a density of the noise level: against scipy, what is drawn, what it changes, and what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from ddpm_lab.core.density import Density, Laplace, LogNormal
from ddpm_lab.core.gamma import Interpolated, learned
from ddpm_lab.core.loss import VDM, VLB, Likelihood, Simple
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.schedule import cosine, linear, zero_terminal_snr
from ddpm_lab.core.types import Incompatible

from .support import assert_close

F64 = torch.float64
EVENLY = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
CASES = {
    "lognormal": (LogNormal(), lambda log_snr: stats.norm(-1.2, 1.2).pdf(-log_snr / 2) / 2),
    "another lognormal": (LogNormal(0.4, 2.0), lambda log_snr: stats.norm(0.4, 2.0).pdf(-log_snr / 2) / 2),
    "laplace": (Laplace(), lambda log_snr: 0.5 / 0.5 * np.exp(-abs(log_snr) / 0.5)),
    "another laplace": (Laplace(1.0, 2.0), lambda log_snr: 0.5 / 2.0 * np.exp(-abs(log_snr - 1.0) / 2.0)),
}
"""Each with its density of log SNR as the papers have it: ln σ normal, with σ² = 1/SNR; log SNR by Laplace."""
every_case = pytest.mark.parametrize("name", CASES)
WIDE = {LogNormal: lambda: LogNormal(std=3.0, unbiased=True), Laplace: lambda: Laplace(b=3.0, unbiased=True)}


def log_snr(schedule: NoiseSchedule) -> np.ndarray:
    ab = schedule.alphas_bar[1:].numpy()
    return np.log(ab) - np.log1p(-ab)


@pytest.mark.parametrize("schedule", [linear(50, beta_end=0.3), cosine(30)], ids=["linear", "cosine"])
@every_case
def test_p_is_the_mass_between_the_middles_of_neighbours(name, schedule):
    """By quadrature of the density of log SNR, truncated to the schedule."""
    density, pdf = CASES[name]
    levels = log_snr(schedule)
    edges = np.concatenate([levels[:1], (levels[1:] + levels[:-1]) / 2, levels[-1:]])
    peaks = [0.0, 1.0]
    mass = [integrate.quad(pdf, low, high, points=[p for p in peaks if low < p < high], epsabs=1e-13)[0]
            for high, low in itertools.pairwise(edges)]  # fmt: skip
    assert_close(density.probabilities(schedule), np.array(mass) / sum(mass), rtol=1e-8, atol=1e-10)


@every_case
def test_times_are_drawn_by_p_and_weigh_one(name):
    density, schedule = CASES[name][0], linear(50, beta_end=0.3)
    drawn = density(EVENLY, schedule, 0, len(EVENLY))
    assert (drawn.t.diff() >= 0).all()
    assert_close(drawn.t.bincount(minlength=51)[1:] / len(EVENLY), density.probabilities(schedule), rtol=0, atol=1e-5)
    assert torch.equal(drawn.weight, torch.ones_like(EVENLY))


@every_case
def test_in_continuous_time_the_noise_level_has_the_density(name):
    """Its distribution function between the schedule's ends, whatever the schedule between them."""
    density, pdf = CASES[name]
    schedule = linear(20, beta_end=0.6)
    place, weight = density.placed(EVENLY[::5000], schedule, 0, 40)
    levels, gamma = log_snr(schedule), Interpolated(schedule).at(place).gamma.numpy()
    whole = integrate.quad(pdf, levels[-1], levels[0], points=[0.0, 1.0], epsabs=1e-12)[0]
    below = [
        integrate.quad(pdf, -g, levels[0], points=[p for p in (0.0, 1.0) if p > -g] or None, epsabs=1e-12)[0] for g in gamma
    ]
    assert_close(np.array(below) / whole, EVENLY[::5000], rtol=1e-7, atol=1e-9)
    assert torch.equal(weight, torch.ones(40, dtype=F64))


@pytest.mark.parametrize("T", [1, 2, 7, 1000])
@pytest.mark.parametrize("kind", WIDE)
def test_unbiased_weights_give_the_mean_over_t(kind, T):
    schedule = linear(T, beta_end=0.3 if T < 1000 else 0.02)
    t, weight = WIDE[kind]()(EVENLY, schedule, 0, len(EVENLY))
    assert_close((weight * torch.cos(t / T)).mean(), torch.cos(torch.arange(1, T + 1, dtype=F64) / T).mean(), rtol=0, atol=2e-3)
    assert_close(weight[0] * T * float(WIDE[kind]().probabilities(schedule)[int(t[0]) - 1]), 1.0)


@pytest.mark.parametrize("kind", WIDE)
def test_unbiased_weights_give_the_mean_over_places(kind):
    place, weight = WIDE[kind]().placed(EVENLY, linear(20, beta_end=0.6), 0, len(EVENLY))
    assert ((place >= 0) & (place <= 1)).all()
    assert (place.diff() >= 0).all()
    assert_close((weight * torch.cos(3 * place)).mean(), math.sin(3) / 3, rtol=0, atol=1e-4)


def test_a_finer_table_draws_the_same_noise_levels():
    """The density is of σ: with ten times the steps between the same ends the quantiles of σ stay."""
    ends = torch.tensor([12.0, -12.0], dtype=F64)

    def median(T: int) -> float:
        ab = torch.sigmoid(torch.linspace(*ends.tolist(), T, dtype=F64))
        schedule = NoiseSchedule(torch.cat([torch.ones(1, dtype=F64), ab]))
        t = LogNormal()(torch.tensor([0.5], dtype=F64), schedule, 0, 1).t
        return float((1 / schedule.alphas_bar[t] - 1).sqrt())

    assert median(200) == pytest.approx(median(2000), rel=0.03)
    assert median(2000) == pytest.approx(math.exp(-1.2), rel=0.03)


def test_the_inverse_of_gamma():
    path = Interpolated(cosine(40))
    u = torch.linspace(0, 1, 997, dtype=F64)
    assert_close(path.place(path.at(u).gamma), u)


def refused(density: Density, schedule: NoiseSchedule, loss, *names: str) -> str:
    with pytest.raises(Incompatible) as error:
        density.check(schedule, loss)
    assert error.value.arguments == names
    return str(error.value)


@pytest.mark.parametrize("kind", WIDE)
def test_what_does_not_go_with_a_density(kind):
    plain, fair, schedule = kind(), WIDE[kind](), linear()
    for loss in (VLB(), Likelihood(), VDM()):
        assert "unbiased=true" in refused(plain, schedule, loss, "loss", "timesteps")
        fair.check(schedule, loss)
    plain.check(schedule, Simple())
    plain.check(schedule, None)
    refused(plain, learned(10), Simple(), "timesteps", "schedule")
    refused(plain, zero_terminal_snr(10), Simple(), "timesteps", "schedule")
    refused(kind(20.0, 0.1), schedule, Simple(), "timesteps", "schedule")
    for each in (schedule, cosine()):
        assert kind.wider in refused(kind(unbiased=True), each, Simple(), "timesteps", "schedule")


@pytest.mark.parametrize("schedule", [linear(), cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("kind", WIDE)
def test_what_a_refusal_names_is_allowed(kind, schedule):
    arguments = dict(word.split("=") for word in kind.wider.split())
    density = kind(**{name: float(value) for name, value in arguments.items()}, unbiased=True)
    density.check(schedule, Simple())
    density.check_places(schedule)


@pytest.mark.parametrize("kind", WIDE)
def test_the_least_density_of_places_gives_the_largest_weight(kind):
    """No place of many weighs more, and some weigh almost as much."""
    density, schedule = WIDE[kind](), linear(20, beta_end=0.6)
    largest = 1 / density.least_density(schedule)
    weight = density.placed(EVENLY, schedule, 0, len(EVENLY)).weight
    assert 0.99 * largest < weight.max() <= 1.000001 * largest


def test_continuous_time_has_a_limit_of_its_own():
    """The last step of a cosine is longer than others: its mean density is allowed, and that at its end is not."""
    density = LogNormal(-1.2, 2.0, unbiased=True)
    density.check(cosine(), Simple())
    with pytest.raises(Incompatible, match="density of places") as error:
        density.check_places(cosine())
    assert error.value.arguments == ("timesteps", "time")
