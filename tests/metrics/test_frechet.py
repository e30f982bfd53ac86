"""Fréchet distances against scipy's matrix square root and closed forms."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ddpm_lab.metrics.extractors import Pixels
from ddpm_lab.metrics.frechet import FeatureStats, frechet_distance, symmetric_sqrt


def stats(x: Tensor) -> FeatureStats:
    return FeatureStats(x.shape[1]).add(x)


def features(n: int, dim: int, seed: int) -> Tensor:
    """Correlated, shifted, with scales from 0.1 to 3."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=g, dtype=torch.float64) * torch.linspace(0.1, 3, dim, dtype=torch.float64)
    return torch.randn(n, dim, generator=g, dtype=torch.float64) @ mix + torch.randn(dim, generator=g, dtype=torch.float64)


def with_moments(mean: Tensor, cov: Tensor) -> FeatureStats:
    """Statistics that have exactly this mean and covariance: points along the axes of the covariance, in pairs."""
    dim = len(mean)
    values, vectors = torch.linalg.eigh(cov)
    points = vectors.T * values.clamp(min=0).sqrt()[:, None]
    x = torch.cat([points, -points]) * ((2 * dim - 1) / 2) ** 0.5
    return stats(x + mean)


def by_scipy(x: Tensor, y: Tensor) -> float:
    """As pytorch-fid does it, with the square root of a matrix that is not symmetric."""
    a, b = x.numpy(), y.numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm((cov_a @ cov_b).astype(complex))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root.real))


@pytest.mark.parametrize("dim", [2, 8, 40])
def test_equals_the_square_root_of_scipy(dim):
    x, y = features(500, dim, 0), features(300, dim, 1)
    assert frechet_distance(stats(x), stats(y)) == pytest.approx(by_scipy(x, y), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(("n", "m"), [(10, 15), (30, 12), (2, 2), (10, 200)])
def test_fewer_features_than_dimensions_have_a_distance_too(n, m):
    """Singular covariances, where a general square root is ill-posed: tr √(AB) is taken from singular values instead.

    Σ_a = Xᵀ X and Σ_b = Yᵀ Y of centred, scaled data; the nonzero eigenvalues of Σ_a Σ_b are the squares of the singular
    values of X Yᵀ.
    """
    x, y = features(n, 20, 0), features(m, 20, 1)
    a, b = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    overlap = np.linalg.svd((a @ b.T).numpy(), compute_uv=False).sum()
    expected = float(((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum()) - 2 * overlap
    assert frechet_distance(stats(x), stats(y)) == pytest.approx(expected, rel=1e-6)


def test_diagonal_covariances_have_a_closed_form():
    g = torch.Generator().manual_seed(0)
    s, r, m = (torch.rand(3, 12, generator=g, dtype=torch.float64) + 0.1).unbind()
    a, b = with_moments(torch.zeros(12).double(), s.diag()), with_moments(m, r.diag())
    assert frechet_distance(a, b) == pytest.approx(float((m**2).sum() + ((s.sqrt() - r.sqrt()) ** 2).sum()), rel=1e-9)


def test_commuting_covariances_have_a_closed_form():
    g = torch.Generator().manual_seed(1)
    axes, _ = torch.linalg.qr(torch.randn(9, 9, generator=g, dtype=torch.float64))
    s, r = (torch.rand(2, 9, generator=g, dtype=torch.float64) + 0.1).unbind()
    zero = torch.zeros(9).double()
    a, b = (with_moments(zero, axes @ values.diag() @ axes.T) for values in (s, r))
    assert frechet_distance(a, b) == pytest.approx(float(((s.sqrt() - r.sqrt()) ** 2).sum()), rel=1e-9)


def test_point_masses_are_as_far_apart_as_their_points():
    a, b = stats(torch.full((5, 3), 2.0)), stats(torch.full((7, 3), -1.0))
    assert frechet_distance(a, b) == pytest.approx(27, abs=1e-12)


@pytest.mark.parametrize("n", [3, 10, 400])
def test_distance_to_itself_is_zero(n):
    """But for the roots of eigenvalues that are rounding errors: n < 10 leaves 0s among them."""
    a = stats(features(n, 10, 0))
    assert abs(frechet_distance(a, a)) < 1e-7 * float(a.cov.trace())


def test_distance_is_symmetric_and_a_translation_adds_its_square():
    x, y, d = features(300, 8, 0), features(200, 8, 1), torch.arange(8).double()
    distance = frechet_distance(stats(x), stats(y))
    assert frechet_distance(stats(y), stats(x)) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(stats(x), stats(x + d)) == pytest.approx(float((d**2).sum()), abs=1e-6)
    assert frechet_distance(stats(3 * x), stats(3 * y)) == pytest.approx(9 * distance, rel=1e-9)


def test_rotation_of_both_changes_nothing():
    x, y = features(60, 6, 0), features(50, 6, 1)
    turn, _ = torch.linalg.qr(features(6, 6, 2))
    expected = frechet_distance(stats(x), stats(y))
    assert frechet_distance(stats(x @ turn), stats(y @ turn)) == pytest.approx(expected, rel=1e-8)


def test_moments_equal_numpys_and_batches_equal_the_whole():
    x = features(101, 7, 3)
    whole, pieces = stats(x), FeatureStats(7)
    for piece in x.split(8):
        assert pieces.add(piece) is pieces
    for found in (whole, pieces):
        assert found.n == 101
        np.testing.assert_allclose(found.mean.numpy(), x.numpy().mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.cov.numpy(), np.cov(x.numpy(), rowvar=False), rtol=1e-10, atol=1e-12)
    assert frechet_distance(whole, pieces) == pytest.approx(0, abs=1e-6)


def test_float32_features_are_summed_in_float64():
    x = (features(5000, 3, 0) + 100).float()
    np.testing.assert_allclose(stats(x).cov.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-8)


def test_a_covariance_needs_two():
    with pytest.raises(ValueError, match="needs at least 2 features, and there are 1"):
        _ = stats(torch.ones(1, 3)).cov


def test_square_root_squares_to_the_matrix():
    x = features(40, 6, 0)
    cov = x.T @ x
    root = symmetric_sqrt(cov)
    torch.testing.assert_close(root @ root, cov, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(root, root.T)
    assert (torch.linalg.eigvalsh(root) > 0).all()
    torch.testing.assert_close(symmetric_sqrt(torch.diag(torch.tensor([4.0, -1e-18]))), torch.diag(torch.tensor([2.0, 0])))


def test_pixels_are_the_values_themselves():
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(Pixels()(x), x.view(3, 32).double())
    assert torch.equal(Pixels()(x[:, 0, 0]), x[:, 0, 0].double())
