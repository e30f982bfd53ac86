"""Which times a sampler visits."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from ddpm_lab.core.sampler import DDIM
from ddpm_lab.core.schedule import cosine, linear
from ddpm_lab.core.spacing import spaced_times, times_of

from .support import REFUSED

F64 = torch.float64
SPACINGS = ["trailing", "leading", "linspace", "quadratic"]


@pytest.mark.parametrize("T", [1, 2, 3, 7, 10, 64, 100, 257])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_number_of_steps_is_legal(spacing, T):
    for n in range(1, T + 1):
        times = spaced_times(T, n, spacing)
        assert len(times) == n
        assert all(isinstance(t, int) for t in times)
        assert all(a < b for a, b in zip((0, *times), times, strict=False))
        assert times[-1] <= T
        if spacing != "leading":
            assert times[-1] == T
        if spacing in ("leading", "linspace") and n > 1:
            assert times[0] == 1
    assert spaced_times(T, T, spacing) == tuple(range(1, T + 1))


@pytest.mark.parametrize("T", [1000, 4000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_many_steps_of_long_chains(spacing, T):
    for n in (1, 2, 10, 50, 60, 99, 300, 333, 500, 667, 997, 999, 1000):
        linear(T).chain(spaced_times(T, n, spacing))  # rises within 1..T, or it is refused


@pytest.mark.parametrize(("T", "n"), [(1000, 60), (1000, 300), (10, 4), (257, 100), (7, 7), (9, 2)])
def test_spacings_follow_the_even_grid(T, n):
    """No number of steps falls back to a coarser stride, as iDDPM's "ddimN" does: 60 of 1000 steps would become 63."""
    i = torch.arange(n, dtype=F64)
    trailing, leading, linspace = (torch.tensor(spaced_times(T, n, s)) for s in ("trailing", "leading", "linspace"))
    assert (trailing - (i + 1) * T / n + 1e-9 >= 0).all()
    assert (trailing - (i + 1) * T / n < 1).all()
    assert (i * T / n + 1 - leading + 1e-9 >= 0).all()
    assert (i * T / n + 1 - leading < 1).all()
    assert ((linspace - 1 - i * (T - 1) / (n - 1)).abs() <= 0.5 + 1e-9).all()


def test_golden_spacings():
    """The times of iDDPM's space_timesteps for "50" and "ddim50", in its 0-based t; the squares of DDIM appendix D.2."""
    fifty = [t - 1 for t in spaced_times(1000, 50, "linspace")]
    assert (fifty[:4], fifty[-1]) == ([0, 20, 41, 61], 999)
    assert [t - 1 for t in spaced_times(1000, 50, "leading")] == list(range(0, 981, 20))
    assert spaced_times(1000, 50) == tuple(range(20, 1001, 20))
    assert spaced_times(10, 4) == (3, 5, 8, 10)
    assert spaced_times(100, 10, "quadratic") == tuple(i * i for i in range(1, 11))


@pytest.mark.parametrize("n", [0, -1, 11, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_too_few_or_too_many_steps_are_refused(spacing, n):
    with pytest.raises(ValueError, match=rf"\b(n|steps)={n}\b"):
        spaced_times(10, n, spacing)


def test_unknown_spacing_is_refused():
    with pytest.raises(REFUSED, match=r"spacing.*cubic"):
        spaced_times(10, 3, "cubic")


# By noise


@pytest.mark.parametrize("n", [2, 3, 10, 18, 300, 1000])
@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
@pytest.mark.parametrize("schedule", [linear, cosine])
def test_times_are_those_of_the_nearest_noise(schedule, spacing, n):
    """By a search through the whole table; EDM Eq. 5 as it is printed, from σ_max down."""
    path = schedule()
    sigma = np.sqrt(1 / path.alphas_bar[1:].numpy() - 1)
    i, low, high = np.arange(n), sigma[0], sigma[-1]
    if spacing == "karras":
        wanted = (high ** (1 / 7) + i / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    else:
        wanted = np.sqrt(np.exp(-(np.log(1 / high**2) + i / (n - 1) * (np.log(1 / low**2) - np.log(1 / high**2)))))
    nearest = 1 + abs(np.log(wanted)[:, None] - np.log(sigma)).argmin(axis=1)
    assert times_of(path, n, spacing) == tuple(sorted(set(nearest.tolist())))


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
@pytest.mark.parametrize("schedule", [linear, cosine])
def test_times_that_coincide_are_visited_once(schedule, spacing):
    """Both ends are held, and the number of calls is that of different times."""
    path, sampler = schedule(), DDIM(300, spacing=spacing)
    times = times_of(path, 300, spacing)
    assert (times[0], times[-1]) == (1, 1000)
    assert len(times) < 300
    assert sampler.calls(sampler.chain(path)) == len(times)
    assert times_of(path, 2, spacing) == (1, 1000)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("n", [10, 25])
def test_karras_times_of_diffusers(n):
    """Theirs interpolates log σ between times before it rounds, which may differ by one."""
    theirs = DPMSolverMultistepScheduler(use_karras_sigmas=True, beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    theirs.set_timesteps(n)
    pairs = zip(reversed(times_of(linear(), n, "karras")), theirs.timesteps.tolist(), strict=True)
    assert all(abs(t - 1 - their_t) <= 1 for t, their_t in pairs)
