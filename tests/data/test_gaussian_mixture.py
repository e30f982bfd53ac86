"""The density that bounds are held against is itself held against quadrature, scipy and Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from ddpm_lab.data.gaussian_mixture import GaussianMixture

SHAPES = [(8, 0.8, 0.08), (1, 0.5, 0.3), (3, 1.0, 0.5), (2, 0.02, 0.2)]


def mixture(components=8, radius=0.8, std=0.08, **arguments) -> GaussianMixture:
    data = GaussianMixture(components, radius, std, **arguments)
    data.setup()
    return data


def independent_log_prob(x: np.ndarray, components: int, radius: float, std: float) -> np.ndarray:
    means = [
        (radius * math.cos(2 * math.pi * k / components), radius * math.sin(2 * math.pi * k / components))
        for k in range(components)
    ]
    return np.log(np.mean([multivariate_normal.pdf(x, mean, std**2 * np.eye(2)) for mean in means], axis=0))


def grid(reach: float, cells: int) -> tuple[torch.Tensor, float]:
    """Points at the middle of square cells, and the area of one."""
    axis = (torch.arange(cells, dtype=torch.float64) + 0.5) * (2 * reach / cells) - reach
    return torch.cartesian_prod(axis, axis), (2 * reach / cells) ** 2


@pytest.mark.parametrize("shape", SHAPES)
def test_density_integrates_to_one(shape):
    data = mixture(*shape, n_train=1, n_val=2)
    points, area = grid(shape[1] + 10 * shape[2], 400)
    assert float(data.log_prob(points).exp().sum() * area) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_log_density_equals_scipys(shape):
    data = mixture(*shape, n_train=1, n_val=300)
    x = data.val_images.double()
    np.testing.assert_allclose(data.log_prob(x).numpy(), independent_log_prob(x.numpy(), *shape), rtol=1e-9)
    assert data.log_prob(data.val_images).dtype == torch.float64


def test_log_density_is_finite_where_the_density_underflows():
    value = float(mixture(n_train=1, n_val=2).log_prob(torch.tensor([[9.0, 0.0]])))
    nearest = -((9 - 0.8) ** 2) / (2 * 0.08**2) - math.log(2 * math.pi * 0.08**2) - math.log(8)
    assert value == pytest.approx(nearest, rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_known_bits_are_the_entropy_by_quadrature_but_for_chance(shape):
    data = mixture(*shape, n_train=1, n_val=20000)
    points, area = grid(shape[1] + 10 * shape[2], 400)
    nats = data.log_prob(points)
    entropy = -float((nats.exp() * nats).sum() * area) / (2 * math.log(2))
    each = -data.log_prob(data.val_images) / (2 * math.log(2))
    assert abs(data.known_bpd() - entropy) < 4 * float(each.std()) / math.sqrt(20000)
    assert data.known_bpd() == pytest.approx(float(each.mean()), rel=1e-12)


def test_well_separated_ring_has_the_entropy_of_one_gaussian_and_a_choice():
    data = mixture(components=4, radius=5.0, std=0.05, n_train=1, n_val=100_000)
    exact = (math.log2(2 * math.pi * math.e * 0.05**2) + math.log2(4)) / 2
    assert data.known_bpd() == pytest.approx(exact, abs=0.01)


def test_points_are_drawn_from_that_density():
    data = mixture(n_train=40_000, n_val=2)
    x = data.train_images.double()
    which = torch.cdist(x, data.means).argmin(1)
    share = which.bincount(minlength=8) / len(x)
    assert (share - 1 / 8).abs().max() < 5 * math.sqrt(1 / 8 * 7 / 8 / len(x))
    offsets = x - data.means[which]
    assert offsets.mean(0).abs().max() < 5 * 0.08 / math.sqrt(len(x))
    assert offsets.std(0) == pytest.approx(0.08, rel=0.02)
    assert abs(float(torch.corrcoef(offsets.T)[0, 1])) < 5 / math.sqrt(len(x))


def test_points_follow_the_split_seed_alone_and_training_ones_are_not_held_out():
    a, b, c = mixture(), mixture(), mixture(split_seed=1)
    b.seed = 9
    assert torch.equal(a.train_images, b.train_images)
    assert not torch.equal(a.train_images, c.train_images)
    assert (len(a.train_images), len(a.val_images), a.shape, a.levels) == (20000, 2000, (2,), None)
    assert len(torch.cat([a.train_images, a.val_images]).unique(dim=0)) == 22000


def test_more_validation_points_extend_and_do_not_change_the_rest():
    few, many = mixture(n_train=100, n_val=50), mixture(n_train=100, n_val=500)
    assert torch.equal(few.train_images, many.train_images)
    assert torch.equal(few.val_images, many.val_images[:50])
