"""Variance components are unbiased, those of REML, and the floor is exceeded as often as it says."""

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from ddpm_lab.compare.components import components, floor, over_both
from ddpm_lab.compare.statistics import t_interval

TRUE = {"training": 1.0, "generation": 0.3, "residual": 0.5}
EXPERIMENTS = 800


def drawn(rng, arms=1, seeds=4, sets=3, alike=False):
    """Numbers of shape (arms, seeds, sets); `alike`: of arms that share all chance."""
    shapes = {"training": (seeds, 1), "generation": (1, sets), "residual": (seeds, sets)}
    parts = [variance**0.5 * rng.normal(size=(1 if alike else arms, *shapes[name])) for name, variance in TRUE.items()]
    return 7 + np.broadcast_to(sum(parts), (arms, seeds, sets))


def reml(y):
    """Components of the greatest restricted likelihood (Patterson & Thompson 1971), arms with means of their own."""
    arms, seeds, sets = y.shape
    of_seed, of_set = np.kron(np.eye(seeds), np.ones((sets, sets))), np.kron(np.ones((seeds, seeds)), np.eye(sets))
    one = np.ones(seeds * sets)

    def loss(logs):
        a, g, e = np.exp(logs)
        v = a * of_seed + g * of_set + e * np.eye(seeds * sets)
        inverse = np.linalg.inv(v)
        information = one @ inverse @ one
        projection = inverse - np.outer(inverse @ one, one @ inverse) / information
        fit = sum(x.ravel() @ projection @ x.ravel() for x in y)
        return arms * (np.linalg.slogdet(v)[1] + np.log(information)) + fit

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-11})
    return np.exp(best.x)


@pytest.mark.parametrize("arms", [1, 3])
def test_components_are_those_of_reml_where_none_is_negative(arms):
    y = drawn(np.random.default_rng(arms), arms)
    result = components(y)[:3]
    assert min(component.variance for component in result) > 0.02
    assert [component.variance for component in result] == pytest.approx(reml(y), rel=1e-6)


def test_estimates_are_unbiased_and_may_be_negative():
    rng = np.random.default_rng(0)
    estimates = np.array([[c.variance for c in components(drawn(rng, 2))[:3]] for _ in range(EXPERIMENTS)])
    error = (estimates.mean(0) - list(TRUE.values())) / (estimates.std(0) / EXPERIMENTS**0.5)
    assert np.abs(error).max() < 3
    assert estimates[:, 1].min() < 0 < estimates[:, 2].min()


@pytest.mark.parametrize(("arms", "alike"), [(1, False), (3, False), (3, True)])
def test_intervals_cover_the_truth_also_of_arms_that_share_their_chance(arms, alike):
    rng, covered = np.random.default_rng(arms), np.zeros(3)
    for _ in range(EXPERIMENTS):
        parts = components(drawn(rng, arms, alike=alike), 0.9)
        covered += [part.low <= true <= part.high for part, true in zip(parts[:3], TRUE.values(), strict=True)]
    covered /= EXPERIMENTS
    assert covered.min() > 0.87
    assert covered[2] < 0.93 or arms > 1 != alike


def test_arms_that_share_all_chance_tell_no_more_than_one():
    y = drawn(np.random.default_rng(3))
    one, three = components(y), components(y + np.arange(3)[:, None, None])
    assert np.array(three[:3]) == pytest.approx(np.array(one[:3]))
    apart = components(drawn(np.random.default_rng(4), arms=3))
    assert all(apart.squares[name].dof > 1.2 * square.dof for name, square in one.squares.items())


def test_intervals_of_a_mean_square_alone_are_those_of_a_variance():
    y = drawn(np.random.default_rng(5), seeds=6, sets=1)
    result = components(y)
    ends = stats.chi2(5).ppf([0.975, 0.025])
    assert result.training == pytest.approx([y.var(ddof=1), *(5 * y.var(ddof=1) / ends)], rel=1e-12)
    assert result.generation is result.residual is None


def test_what_cannot_be_told_is_none():
    rng = np.random.default_rng(6)
    one_seed = components(drawn(rng, seeds=1))
    assert one_seed.training is one_seed.residual is None
    assert one_seed.generation is not None
    assert components(drawn(rng, seeds=1, sets=1))[:3] == (None, None, None)
    assert floor(one_seed, 0.95) is None
    one_set = components(drawn(rng, sets=1))
    assert floor(one_set, 0.95, sets=2) is None


def test_a_paired_difference_has_no_part_that_both_share():
    rng = np.random.default_rng(7)
    a, b = drawn(rng)[0], drawn(rng)[0]
    shared = rng.normal(size=(4, 1)) + rng.normal(size=(1, 3))
    assert np.array(components(a - b)[:3]) == pytest.approx(np.array(components((a + shared) - (b + shared))[:3]))
    assert components(a - b).residual.variance == pytest.approx(components((a - b)[None]).residual.variance)


@pytest.mark.parametrize("sets", [1, 3, 5])
def test_two_runs_without_a_difference_exceed_the_floor_in_five_of_a_hundred(sets):
    """Measured from the same generation seeds."""
    rng, exceeded = np.random.default_rng(sets), 0
    for _ in range(EXPERIMENTS):
        pilot = floor(components(drawn(rng, arms=2, seeds=5)), 0.95, sets)
        a, b = (2**0.5 * rng.normal(0, variance**0.5, 2) for variance in (TRUE["training"], TRUE["residual"] / sets))
        exceeded += abs(a[0] + b[0]) > pilot.difference
    assert 0.025 < exceeded / EXPERIMENTS < 0.07


def test_the_floor_of_what_was_measured_is_students():
    """Of runs with as many sets and the same generation seeds: t · √2 · s of the means over sets, exactly."""
    y = drawn(np.random.default_rng(8), seeds=5)
    of_run = y.mean(2)[0]
    result = floor(components(y), 0.9, sets=3)
    assert result.difference == pytest.approx(stats.t(4).ppf(0.95) * 2**0.5 * of_run.std(ddof=1), rel=1e-12)
    assert result.percent == pytest.approx(100 * result.difference / of_run.mean())
    alone = floor(components(of_run[None, :, None]), 0.9)
    assert alone.difference == pytest.approx(result.difference)
    half = t_interval(of_run, 0.9).high - of_run.mean()
    assert result.difference == pytest.approx(half * 10**0.5)


def test_a_negative_variance_has_no_floor_and_equal_runs_one_of_zero():
    y = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert components(y).training.variance < 0
    assert floor(components(y), 0.95, sets=9) is None
    assert floor(components(np.full((3, 2), 4.0)), 0.95)[:2] == (0, 0)
    assert floor(components(y), 0.95).percent is None


def test_the_mean_over_both_kinds_of_seed_has_the_variance_of_its_components():
    y = drawn(np.random.default_rng(9), seeds=5, sets=4)
    parts = components(y)
    a, g, e = (part.variance for part in parts[:3])
    result = over_both(parts, 0.9)
    variance = a / 5 + g / 4 + e / 20
    squares = 4 * a + e, 5 * g + e, e
    dof = (20 * variance) ** 2 / (squares[0] ** 2 / 4 + squares[1] ** 2 / 3 + squares[2] ** 2 / 12)
    assert (result.value, result.se, result.dof) == pytest.approx((y.mean(), variance**0.5, dof))
    assert result.high - result.value == pytest.approx(stats.t(dof).ppf(0.95) * variance**0.5)
    assert over_both(components(drawn(np.random.default_rng(9), sets=1)), 0.9)[1:4] == (None, None, None)
    crossing = over_both(components(np.array([[1.0, -1.0, 0.5], [-1.0, 1.0, -0.5]])), 0.9)
    assert (crossing.se, crossing.dof) == pytest.approx((((4.5 - 1 / 6) / 2 / 6) ** 0.5, 1))


def test_it_covers_the_mean_of_other_generation_seeds_and_the_interval_over_training_seeds_does_not():
    rng, both, alone = np.random.default_rng(10), [], []
    for _ in range(EXPERIMENTS):
        y = drawn(rng, seeds=10, sets=2)
        results = over_both(components(y), 0.95), t_interval(y[0].mean(1), 0.95)
        for result, covered in zip(results, (both, alone), strict=True):
            covered.append(result.low <= 7 <= result.high)
    assert np.mean(both) > 0.93
    assert np.mean(alone) < 0.9


@pytest.mark.parametrize("sets", [1, 2, 3])
def test_the_floor_is_that_of_the_components(sets):
    parts = components(drawn(np.random.default_rng(11), seeds=5))
    a, _, e = (part.variance for part in parts[:3])
    result, variance = floor(parts, 0.9, sets), a + e / sets
    weighted = a + e / 3, e * (1 / sets - 1 / 3)
    dof = variance**2 / sum(square**2 / n for square, n in zip(weighted, (4, 8), strict=True))
    assert result.dof == pytest.approx(dof)
    assert result.difference == pytest.approx(stats.t(dof).ppf(0.95) * (2 * variance) ** 0.5)


def test_degrees_of_freedom_do_not_depend_on_the_unit():
    y = drawn(np.random.default_rng(12), arms=2)
    one, huge = components(y), components(1e99 * y)
    assert [each.dof for each in huge.squares.values()] == pytest.approx([each.dof for each in one.squares.values()])
    for made in (lambda parts: floor(parts, 0.95, 2), lambda parts: over_both(parts, 0.95)):
        assert made(huge).dof == pytest.approx(made(one).dof)
