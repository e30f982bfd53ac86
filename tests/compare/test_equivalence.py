"""Equivalence is that of statsmodels."""

import numpy as np
import pytest
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from ddpm_lab.compare.equivalence import tost
from ddpm_lab.compare.statistics import t_interval, welch_interval

MARGINS = [0.01, 0.5, 3.0]


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("margin", MARGINS)
def test_of_paired_runs_it_is_statsmodels(n, margin):
    a, b = np.random.default_rng(n).normal(size=(2, n))
    expected = ttost_paired(a, b, -margin, margin)[0]
    assert tost(t_interval(a - b, 0.95), margin, 0.95).p == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 7)])
@pytest.mark.parametrize("margin", MARGINS)
def test_of_runs_that_share_nothing_it_is_statsmodels(m, n, margin):
    rng = np.random.default_rng(m)
    a, b = rng.normal(0.2, 1, m), rng.normal(0, 2, n)
    expected = ttost_ind(a, b, -margin, margin, usevar="unequal")[0]
    assert tost(welch_interval(a, b, 0.95), margin, 0.95).p == pytest.approx(expected, rel=1e-12)


def test_two_choices_are_the_same_where_the_narrower_interval_is_within_the_margin():
    rng, held = np.random.default_rng(0), []
    for _ in range(200):
        x = rng.normal(0, 0.4, 5)
        result, narrower = tost(t_interval(x, 0.95), 0.5, 0.95), t_interval(x, 0.9)
        assert (result.low, result.high) == pytest.approx((narrower.low, narrower.high))
        assert result.holds == (max(-narrower.low, narrower.high) < 0.5)
        held.append(result.holds)
    assert 20 < sum(held) < 180


def test_edges():
    exact = t_interval([0.5, 0.5], 0.95)
    assert [tost(exact, margin, 0.95).p for margin in (0.25, 0.5, 0.75)] == [1, 1, 0]
    assert tost(t_interval([0.5], 0.95), 1.0, 0.95) is None
    for margin in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"margin={margin}"):
            tost(exact, margin, 0.95)
