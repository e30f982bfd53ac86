"""Seeds that are said to be needed are enough; what pairing saves is measured with its uncertainty."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from ddpm_lab.compare.needed import pairing, seeds_needed
from ddpm_lab.compare.statistics import t_interval, welch_interval


def test_the_rule_by_hand():
    quantiles = stats.t(5).ppf([0.995, 0.9]).sum()
    assert seeds_needed(2.0, 6, 0.7, 0.99, 0.9).n == math.ceil((2 * quantiles / 0.7) ** 2)
    assert seeds_needed(0.1, 6, 5.0, 0.95)[:] == (6, 6, 6)
    assert seeds_needed(0.0, 3, 5.0, 0.95).n == 3


def test_of_a_spread_that_is_known_it_is_statsmodels_power():
    """Many pilot seeds leave the ordinary calculation of sizes, of one sample and of two."""
    paired, apart = (power().solve_power(0.2, power=0.8, alpha=0.05) for power in (TTestPower, TTestIndPower))
    assert seeds_needed(1.0, 2, 0.2, 0.95, dof=1e9).n == pytest.approx(paired, abs=3)
    assert seeds_needed(2**0.5, 2, 0.2, 0.95, dof=1e9).n == pytest.approx(apart, abs=3)


def test_the_interval_is_that_of_the_spread():
    """In 95 of 100 pilots it has the number that the true spread gives, with the same quantiles."""
    rng, n0, covered = np.random.default_rng(0), 6, []
    true = seeds_needed(1.0, n0, 0.3, 0.95).n
    for x in rng.normal(size=(1_000, n0)):
        needed = seeds_needed(x.std(ddof=1), n0, 0.3, 0.95)
        assert needed.low <= needed.n <= needed.high
        covered.append(needed.low <= true <= needed.high)
    assert 0.93 < np.mean(covered) < 0.97


@pytest.mark.parametrize("n0", [5, 8])
def test_the_power_is_reached_by_the_ordinary_test(n0):
    rng, found = np.random.default_rng(n0), []
    for _ in range(1_000):
        x = rng.normal(0.8, 1, n0)
        more = seeds_needed(x.std(ddof=1), n0, 0.8, 0.95).n - n0
        found.append(t_interval(np.append(x, rng.normal(0.8, 1, more)), 0.95).p <= 0.05)
    assert np.mean(found) > 0.78


def test_the_power_is_reached_without_pairing():
    rng, found = np.random.default_rng(1), []
    for _ in range(1_000):
        a, b = rng.normal(1, 1, 5), rng.normal(0, 1.5, 5)
        pilot = welch_interval(a, b, 0.95)
        more = seeds_needed(pilot.se * 5**0.5, 5, 1.0, 0.95, dof=pilot.dof).n - 5
        final = welch_interval(np.append(a, rng.normal(1, 1, more)), np.append(b, rng.normal(0, 1.5, more)), 0.95)
        found.append(final.p <= 0.05)
    assert np.mean(found) > 0.78


@pytest.mark.parametrize(
    ("key", "value"), [("spread", -1.0), ("n0", 1), ("resolve", 0.0), ("level", 1.0), ("power", 0.3), ("dof", 0.0)]
)
def test_what_is_out_of_range_is_refused_by_name(key, value):
    arguments = {"spread": 1.0, "n0": 5, "resolve": 0.5, "level": 0.95, "power": 0.8} | {key: value}
    with pytest.raises(ValueError, match=f"{key}={value}"):
        seeds_needed(**arguments)


def correlated(rng, n, correlation, ratio):
    """Two choices over n seeds, the second with `ratio` times the standard deviation of the first."""
    return np.linalg.cholesky([[1, correlation * ratio], [correlation * ratio, ratio**2]]) @ rng.normal(size=(2, n))


def test_the_factor_is_that_of_the_variances():
    a, b = correlated(np.random.default_rng(2), 9, 0.7, 1.5)
    result = pairing(a, b)
    apart = a.var(ddof=1) + b.var(ddof=1)
    assert result.factor == pytest.approx(apart / (a - b).var(ddof=1))
    assert (result.paired, result.unpaired) == pytest.approx(((a - b).std(ddof=1), apart**0.5))
    assert result.low < result.factor < result.high


@pytest.mark.parametrize("n", [2, 6])
@pytest.mark.parametrize(("correlation", "ratio"), [(0, 1), (0.9, 1), (0.9, 2), (-0.5, 1)])
def test_its_interval_covers_the_truth(n, correlation, ratio):
    rng = np.random.default_rng(n)
    true = (1 + ratio**2) / (1 + ratio**2 - 2 * correlation * ratio)
    results = [pairing(*correlated(rng, n, correlation, ratio)) for _ in range(1_000)]
    covered = np.mean([result.low <= true <= result.high for result in results])
    assert covered > 0.93
    assert covered < 0.97 or ratio > 1


def test_choices_that_differ_by_the_same_in_every_seed_have_no_factor():
    a = np.array([1.0, 2.0, 4.0])
    assert pairing(a, a - 0.5)[2:] == (None, None, None)
    assert pairing(a, -a).factor == pytest.approx(0.5)
    assert pairing(a, -a).unpaired < pairing(a, -a).paired
