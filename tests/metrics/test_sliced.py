"""MIND: against optimal assignment, closed forms, order statistics, and the spread over other samples."""

import numpy as np
import pytest
import torch
from messages import naming
from scipy import integrate
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm
from torch import Tensor
from torch.nn.functional import normalize

from ddpm_lab.core import rng
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.scores import MIND_DRAWS
from ddpm_lab.metrics.sliced import TOGETHER, mind


def normal(n: int, dim: int, seed: int, shift: float | Tensor = 0.0, scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, dim, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("projections", [5, TOGETHER + 3])
def test_each_projection_costs_what_the_best_assignment_costs(projections):
    """Without sorting: the least cost over all pairings of the numbers, by the Hungarian method."""
    n, dim, seed = 12, 3, 4
    x, y = normal(n, dim, 0), normal(n, dim, 1, 0.5, 1.5)
    drawn = torch.randn(projections, dim, dtype=torch.float64, generator=rng.generator(seed, "evaluation", MIND_DRAWS))
    costs = []
    for u in drawn / drawn.norm(dim=1, keepdim=True):
        pairs = ((x @ u)[:, None] - y @ u).square().numpy()
        costs.append(pairs[linear_sum_assignment(pairs)].mean())
    assert mind(x, y, projections, seed).value == pytest.approx(3 * dim * np.mean(costs), rel=1e-10)


def test_a_shift_and_a_scale_cost_three_times_the_squares():
    """Under Y = a·X + m with the same order along every u: E (u·m)² = |m|²/dim, and E (u·x)² = |x|²/dim."""
    x, m = normal(40, 6, 0), normal(1, 6, 1)
    shifted, scaled = mind(x, x + m, 4000).value, mind(x, 1.3 * x, 4000).value
    assert shifted == pytest.approx(3 * float((m**2).sum()), rel=0.06)
    assert scaled == pytest.approx(3 * 0.3**2 * float((x**2).sum(1).mean()), rel=0.06)


def test_equal_sets_in_any_order_have_none_and_both_ways_are_one():
    x, y = normal(50, 4, 0).float(), normal(50, 4, 1, 0.3).float()
    assert mind(x, x.flip(0), 100) == (pytest.approx(0, abs=1e-15), pytest.approx(0, abs=1e-15), None)
    there, back = mind(x, y, 100), mind(y, x, 100)
    assert there.value == pytest.approx(back.value, rel=1e-12)
    assert there.se == pytest.approx(back.se, rel=1e-12)
    assert mind(x, y, 100) == there != mind(x, y, 100, seed=1)


def test_of_sets_that_are_points_the_error_is_that_of_the_projections():
    m, x, K = normal(1, 4, 1), 1e-7 * normal(30, 4, 0), 50
    u = torch.randn(K, 4, dtype=torch.float64, generator=rng.generator(2, "evaluation", MIND_DRAWS))
    cost = 12 * (u @ m[0]) ** 2 / (u**2).sum(1)
    assert mind(x, x + m, K, 2) == (pytest.approx(float(cost.mean())), pytest.approx(float(cost.std()) / K**0.5), None)


def variance_of_order_statistics(n: int) -> float:
    """Mean over i of the variance of the i-th of n standard normal numbers, by quadrature of E x_(i)."""
    chances = [
        lambda z, i=i: z * n * norm.pdf(z) * np.exp(np.log(np.array(norm.cdf(z))) * i + norm.logsf(z) * (n - 1 - i))
        * np.prod([(n - 1 - j) / (j + 1) for j in range(i)])
        for i in range(n)
    ]  # fmt: skip
    return 1 - float(np.mean([integrate.quad(chance, -9, 9)[0] ** 2 for chance in chances]))


@pytest.mark.parametrize("n", [2, 7])
def test_expectation_between_gaussians_at_finite_n(n):
    """Between N(0, I) and N(m, I), E (x_(i) − y_(i))² = (u·m)² + 2 Var x_(i): in all 3|m|² + 6·dim·mean Var x_(i)."""
    dim, m = 3, torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
    assert variance_of_order_statistics(2) == pytest.approx(1 - 1 / np.pi)
    values = np.array([mind(normal(n, dim, 2 * i), normal(n, dim, 2 * i + 1, m), 40, i).value for i in range(400)])
    expected = 3 * float((m**2).sum()) + 6 * dim * variance_of_order_statistics(n)
    assert values.mean() == pytest.approx(expected, abs=3 * values.std() / 400**0.5)


@pytest.mark.parametrize(("shift", "scale", "too_large"), [(0.5, 1.0, 1.0), (0.0, 1.5, 1.0), (0.0, 1.0, 1.35)])
def test_standard_error_is_that_of_other_samples(shift, scale, too_large):
    scores = [mind(normal(200, 8, 2 * i), normal(200, 8, 2 * i + 1, shift, scale), 60, i) for i in range(80)]
    spread = np.std([score.value for score in scores])
    assert np.mean([score.se**2 for score in scores]) ** 0.5 == pytest.approx(too_large * spread, rel=0.25)


def test_more_projections_leave_the_error_of_the_samples():
    """The potentials of a single direction are those of the line; with u = ±1 projections add nothing."""
    x, y = normal(400, 1, 0), normal(400, 1, 1, 1.0)
    one, many = mind(x, y, 2), mind(x, y, 200)
    assert normalize(torch.randn(9, 1)).abs().eq(1).all()
    assert one == (pytest.approx(many.value, rel=1e-12), pytest.approx(many.se, rel=1e-9), None)
    limit = 3 * (4 * (1 + 1) * 1.0**2 / 400) ** 0.5  # of the squared difference of means: 2 m √(2/n)
    assert one.se == pytest.approx(limit, rel=0.2)


@pytest.mark.parametrize(("n", "m", "projections"), [(4, 5, 10), (1, 1, 10), (4, 4, 1)])
def test_what_cannot_be_compared_is_answered(n, m, projections):
    with pytest.raises(UserError, match=naming("mind", f"{n} and {m} features", f"{projections} projections", "at least 2")):
        mind(normal(n, 3, 0), normal(m, 3, 1), projections)
