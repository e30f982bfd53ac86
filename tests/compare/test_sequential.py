"""What may be looked at after every seed is an e-value, and stays within its level."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from ddpm_lab.compare.sequential import anytime, least_p
from ddpm_lab.compare.statistics import t_interval


@pytest.mark.parametrize("g", [0.3, 1.0, 9.0])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_p_is_one_over_the_bayes_factor_of_effect_sizes(n, g):
    """Density of t under effects N(0, g), by quadrature of the noncentral t, over that without an effect."""
    x = np.random.default_rng(n).normal(2, 1, n)
    t = x.mean() / x.std(ddof=1) * n**0.5

    def weighted(effect):
        return stats.nct.pdf(t, n - 1, effect * n**0.5) * stats.norm.pdf(effect, scale=g**0.5)

    far = 8 * g**0.5 if n < 6 else 12  # older scipy knows no density farther off
    mixture = integrate.quad(weighted, -far, far, epsabs=1e-13, epsrel=1e-10)[0]
    assert anytime(x, 0.95, g).p == pytest.approx(min(1, stats.t.pdf(t, n - 1) / mixture), rel=1e-6)


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_the_interval_ends_where_the_e_value_reaches_one_over_alpha(level):
    x = np.random.default_rng(1).normal(5, 2, 8)
    result = anytime(x, level)
    for end in (result.low, result.high):
        assert anytime(x - end, level).p == pytest.approx(1 - level)
    assert anytime(x - result.value, level).p == 1
    assert result.excludes_zero == (result.p < 1 - level)


def test_few_values_leave_it_unbounded_and_cannot_decide():
    """Below five values no e-value of g = 1 reaches 20."""
    for n in (2, 3, 4):
        result = anytime(np.full(n, 3.0), 0.95)
        assert (result.low, result.high) == (None, None)
        assert result.p == pytest.approx((1 + n) ** (-(n - 1) / 2))
        assert 0.05 < result.p < 1
    assert anytime(np.full(5, 3.0), 0.95)[1:4] == (3, 3, pytest.approx(1 / 36))
    assert anytime([3.0], 0.95)[1:4] == (None, None, None)
    assert anytime(np.zeros(5), 0.95).p == 1


def test_units_do_not_matter():
    x = np.random.default_rng(2).normal(1, 1, 7)
    one, other = anytime(x, 0.95), anytime(-1e150 * x, 0.95)
    assert other.p == pytest.approx(one.p)
    assert (-other.high, -other.low) == pytest.approx((one.low * 1e150, one.high * 1e150))


def test_looks_after_every_seed_stay_within_the_level_and_those_of_the_ordinary_test_do_not():
    x = np.random.default_rng(3).normal(size=(400, 20))
    looks = range(3, 21)
    ever = np.mean([min(anytime(row[:n], 0.95).p for n in looks) <= 0.05 for row in x])
    ordinary = np.mean([min(t_interval(row[:n], 0.95).p for n in looks) <= 0.05 for row in x])
    assert ever <= 0.055
    assert ordinary > 0.12


def test_an_effect_is_found():
    """Of one standard deviation: by most sweeps within 30 seeds, though later than by one test at a size that was planned."""
    x = np.random.default_rng(4).normal(1, 1, (100, 30))
    assert np.mean([anytime(row, 0.95).excludes_zero for row in x]) > 0.9
    assert math.isclose(anytime(x[0], 0.95).value, x[0].mean())


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_the_least_p_is_that_of_values_that_are_all_but_equal(n):
    assert anytime(1 + 1e-9 * np.arange(n), 0.95).p == pytest.approx(least_p(n), rel=1e-6)
    assert anytime(1 + 0.5 * np.arange(n), 0.95).p > least_p(n)
