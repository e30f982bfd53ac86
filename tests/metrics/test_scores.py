"""KID, Inception Score, precision and recall, and the distance at infinity: against torch-fidelity, scipy, closed forms."""

import numpy as np
import pytest
import scipy.stats
import torch
from messages import naming
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_full

from ddpm_lab.errors import UserError
from ddpm_lab.metrics import scores as module
from ddpm_lab.metrics.frechet import FeatureStats, frechet_distance
from ddpm_lab.metrics.scores import (
    ClassSums,
    fd_infinity,
    inception_score,
    intercept,
    kid,
    polynomial_kernel,
    precision_recall,
    squared_distances,
    squared_radii,
    subset,
    unbiased_mmd2,
)


def normal(n: int, dim: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, dim, generator=g, dtype=torch.float64)


# --- kernel distance -------------------------------------------------------------------------------------------------------


def test_mmd_is_the_sum_over_pairs():
    """Written out, term by term."""
    x, y = normal(5, 3, 0).numpy(), normal(4, 3, 1, 0.5).numpy()

    def k(a, b):
        return (float(a @ b) / 3 + 1) ** 3

    xx = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert unbiased_mmd2(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(xx + yy - 2 * xy, rel=1e-12)
    assert float(polynomial_kernel(torch.from_numpy(x), torch.from_numpy(y))[1, 2]) == pytest.approx(k(x[1], y[2]), rel=1e-12)


def test_kid_of_whole_sets_equals_torch_fidelitys():
    a, b = normal(60, 16, 0), normal(60, 16, 1, 0.2)
    theirs = kid_features_to_metric(a, b, kid_subsets=3, kid_subset_size=60, verbose=False)
    ours = kid(a, b, subsets=3, size=60)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert (ours.se, ours.std) == (None, pytest.approx(0, abs=1e-12))


def test_kid_of_subsets_equals_torch_fidelitys_of_the_same_subsets(monkeypatch):
    a, b = normal(90, 16, 0), normal(70, 16, 1, 0.2)
    random = np.random.RandomState(2020)
    drawn = lambda n, size, *_: torch.from_numpy(random.choice(n, size, replace=False))  # noqa: E731
    monkeypatch.setattr(module, "drawn", drawn)
    theirs = kid_features_to_metric(a, b, kid_subsets=20, kid_subset_size=30, rng_seed=2020, verbose=False)
    ours = kid(a, b, subsets=20, size=30)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_kid_is_unbiased_and_its_standard_error_is_that_of_other_samples():
    """E k = Σ_j binom(3, j) E (xᵀy/d)^j; for independent centred x, y with covariance I·s² only j = 0 and 2 are left, so that
    MMD² = 3 (s⁴ − 2 s² + 1) / d between scales s and 1."""
    dim, s = 6, 1.5
    scores = [kid(normal(200, dim, 2 * i, scale=s), normal(200, dim, 2 * i + 1), 40, 60, seed=i) for i in range(120)]
    values = np.array([score.value for score in scores])
    expected = 3 * (s**2 - 1) ** 2 / dim
    assert values.mean() == pytest.approx(expected, abs=4 * values.std() / 120**0.5)
    assert np.mean([score.se for score in scores]) == pytest.approx(values.std(), rel=0.3)


def test_kid_may_be_negative_and_repeats():
    a, b = normal(100, 4, 0), normal(100, 4, 1)
    assert kid(a, b, 10, 50) == kid(a, b, 10, 50) != kid(a, b, 10, 50, seed=1)
    assert min(kid(normal(50, 4, i), normal(50, 4, i + 100), 1, 50).value for i in range(9)) < 0


def test_kid_of_too_few_is_answered():
    with pytest.raises(UserError, match=naming("kid: ", "1000", "50 and 90", "2 to 50")):
        kid(normal(50, 4, 0), normal(90, 4, 1))


# --- Inception Score -------------------------------------------------------------------------------------------------------


def in_parts(logits: Tensor, splits: int) -> Tensor:
    """In the order in which contiguous parts are our interleaved ones."""
    return torch.cat([logits[part::splits] for part in range(splits)])


@pytest.mark.parametrize(("n", "splits"), [(120, 10), (60, 1), (57, 3)])
def test_inception_score_equals_torch_fidelitys(n, splits):
    logits = 3 * normal(n, 12, 0).float()
    theirs = isc_features_to_metric(in_parts(logits, splits), splits, shuffle=False)
    sums = ClassSums.empty(12, splits)
    for start in range(0, n, 25):
        sums = sums.add(logits[start : start + 25], start)
    ours = inception_score(sums)
    assert ours.value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)


def test_standard_error_of_the_inception_score_is_that_of_the_mean_over_splits():
    score = inception_score(ClassSums.empty(7).add(3 * normal(101, 7, 0), 0))
    assert score.se == pytest.approx(score.std / 9**0.5, rel=1e-9)


def test_inception_score_lies_between_one_and_the_classes():
    sure = torch.full((50, 5), -torch.inf).scatter_(1, (torch.arange(50) % 5)[:, None], 0.0)
    by_class, one = sure[torch.arange(50) // 10], ClassSums.empty(5, 1)
    assert inception_score(one.add(sure, 0)) == (pytest.approx(5, rel=1e-12), None, 0)
    assert inception_score(ClassSums.empty(5, 2).add(by_class, 0)).value == pytest.approx(
        5, rel=1e-12
    )  # each part has all classes
    assert inception_score(one.add(torch.zeros(50, 5), 0)).value == pytest.approx(1, rel=1e-12)
    assert np.isnan(inception_score(one.add(torch.full((3, 5), torch.nan), 0)).value)


def test_inception_score_of_too_few_is_answered():
    with pytest.raises(UserError, match=naming("3 samples", "10 splits")):
        inception_score(ClassSums.empty(5).add(torch.zeros(3, 5), 0))


# --- precision and recall --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "k", "block"), [(150, 130, 3, 2048), (70, 200, 3, 32), (90, 80, 5, 7)])
def test_precision_and_recall_equal_torch_fidelitys(n, m, k, block):
    samples, real = normal(n, 8, 0, scale=0.8), normal(m, 8, 1, 0.3)
    theirs = calculate_precision_recall_full(samples, real, k)
    ours = precision_recall(samples, real, k, block)
    assert (ours.precision.value, ours.recall.value) == pytest.approx(theirs, rel=1e-6)
    assert 0.1 < ours.precision.value != ours.recall.value


def test_radii_are_those_of_sorted_distances():
    x = normal(40, 3, 0)
    expected = (x[:, None] - x).pow(2).sum(-1).sort(1).values[:, 4]  # [:, 0] is the distance to itself
    torch.testing.assert_close(squared_radii(x, 4, 13, "cpu"), expected)
    torch.testing.assert_close(squared_distances(x, x[:5]), (x[:, None] - x[:5]).pow(2).sum(-1))


def test_copies_are_within_even_where_the_manifold_is_points():
    """Each datum k + 1 times: every ball has radius 0."""
    real = (normal(10, 300, 0) + 50).float().repeat(4, 1)
    found = precision_recall(real[:15].clone(), real)
    assert found.precision.value == 1
    assert precision_recall(real[:15] + 1e-3, real).precision.value == 0


def test_a_missing_mode_costs_recall_and_a_foreign_one_precision():
    left, right = normal(300, 4, 0, -20), normal(300, 4, 1, 20)
    both, half = torch.cat([left, right]), normal(300, 4, 2, -20)
    missing, foreign = precision_recall(half, both), precision_recall(both, half)
    assert (missing.precision.value, foreign.recall.value) == (foreign.recall.value, missing.precision.value)
    assert missing.recall.value < 0.5 < 0.9 < missing.precision.value
    assert missing.recall.se == pytest.approx((missing.recall.value * (1 - missing.recall.value) / 600) ** 0.5)


def test_precision_of_too_few_is_answered():
    with pytest.raises(UserError, match=naming("3 features", "3-th", "at least 4")):
        precision_recall(normal(9, 4, 0), normal(3, 4, 1))


# --- the distance at infinity ----------------------------------------------------------------------------------------------


def test_intercept_is_scipys():
    x, y = normal(2, 9, 0)
    expected = scipy.stats.linregress(x.numpy(), y.numpy())
    assert intercept(x, y)[:2] == pytest.approx((expected.intercept, expected.intercept_stderr), rel=1e-9)


def test_distance_at_infinity_is_nearer_the_truth():
    """Between N(0, I) and N(m, s² I): |m|² + dim (s − 1)²."""
    dim, s, m = 20, 1.2, 0.1
    reference = FeatureStats(dim).add(normal(400_000, dim, 9))
    truth = dim * (m**2 + (s - 1) ** 2)
    features = [normal(1500, dim, seed, m, s) for seed in range(12)]
    at_n = np.array([frechet_distance(FeatureStats(dim).add(x), reference) for x in features])
    scores = [fd_infinity(x, reference) for x in features]
    at_infinity = np.array([score.value for score in scores])
    assert at_n.mean() - truth > 5 * at_n.std() / 12**0.5  # biased
    assert at_infinity.mean() == pytest.approx(truth, abs=4 * at_infinity.std() / 12**0.5)
    assert abs(at_infinity.mean() - truth) < abs(at_n.mean() - truth) / 3
    assert all(0 < score.se < 0.2 * truth for score in scores)
    assert fd_infinity(features[0], reference) == scores[0]


def test_distance_at_infinity_of_too_few_is_answered():
    reference = FeatureStats(8).add(normal(50, 8, 0))
    with pytest.raises(UserError, match=naming("from 16", "32 features", "31 of 8 d")):
        fd_infinity(normal(31, 8, 1), reference)
    assert fd_infinity(normal(32, 8, 1), reference).value != 0
    with pytest.raises(UserError, match=naming("2 sizes", "at least 3")):
        fd_infinity(normal(32, 8, 1), reference, points=2)


def test_a_subset_of_sorted_data_is_of_all_classes():
    """Data of class folders are sorted by class: the first 40 of these would be of one."""
    classes = torch.arange(10).repeat_interleave(50)[:, None]
    some = subset(classes, 40)
    assert some.unique().tolist() == list(range(10))
    assert torch.equal(some, subset(classes, 40))
    assert len(subset(torch.arange(500), 499).unique()) == 499  # without replacement
    assert subset(classes, 500) is subset(classes, 501) is classes
