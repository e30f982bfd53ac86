"""C_T and authenticity: copies, fresh data, and every pair by brute force."""

import math

import numpy as np
import pytest
import torch
from messages import naming
from scipy.spatial import cKDTree
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.copies import copies, nearest


def normal(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_pairs(samples: Tensor, held_out: Tensor, training: Tensor) -> tuple[float, float]:
    """From the definitions: U counts pairs one by one, a tie as a half; each datum's neighbour by sorting."""
    n, m = len(samples), len(held_out)
    of_samples, of_held_out = (np.array([min(math.dist(x, t) for t in training.tolist()) for x in part.tolist()])
                               for part in (samples, held_out))  # fmt: skip
    u = sum((a > b) + 0.5 * (a == b) for a in of_samples for b in of_held_out)
    authentic = 0
    for x in samples.tolist():
        found = sorted(training.tolist(), key=lambda t: math.dist(x, t))[0]
        own = sorted(math.dist(found, t) for t in training.tolist())[1]  # the first is 0, to itself
        authentic += math.dist(x, found) > own
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12), authentic / n


@pytest.mark.parametrize("block", [7, 2048])
@pytest.mark.parametrize("levels", [None, 3])
def test_both_are_those_of_all_pairs(levels, block):
    """On a grid of `levels` many distances are equal, and some data are there twice."""
    sets = [0.9 * normal(31, 3, 0), normal(23, 3, 1), normal(45, 3, 2)]
    if levels:
        sets = [(x.clamp(-1, 1) * levels).round() for x in sets]
    found = copies(*sets, block=block)
    c_t, authenticity = by_pairs(*sets)
    assert found.c_t == (pytest.approx(c_t, rel=1e-12), None, None)
    assert found.authenticity.value == pytest.approx(authenticity, rel=1e-12)
    assert 0 < authenticity < 1
    assert found.authenticity.se == pytest.approx((authenticity * (1 - authenticity) / 31) ** 0.5)
    assert found.of_held_out.value == pytest.approx(by_pairs(sets[1], sets[0], sets[2])[1], rel=1e-12)


def test_copies_are_not_authentic_and_nearer_than_held_out_data():
    """With all distances 0, U = 0: the lowest z of so many."""
    training, held_out = normal(200, 5, 0), normal(80, 5, 1)
    found = copies(training[:100].clone(), held_out, training)
    assert found.authenticity == (0, None, None)
    assert found.c_t.value == pytest.approx(-100 * 80 / 2 / math.sqrt(100 * 80 * 181 / 12))
    far = copies(training[:100] + 100, held_out, training)
    assert (far.authenticity.value, far.c_t.value) == (1, -found.c_t.value)


@pytest.mark.parametrize(("dim", "mutual"), [(1, 2 / 3), (2, 6 * math.pi / (8 * math.pi + 3 * 3**0.5))])
def test_fresh_data_are_authentic_unless_they_and_their_neighbour_are_each_others(dim, mutual):
    """The chance of that is, for many data of any density, that of one ball over two whose centres lie on each other's surface
    (Pickard 1982; Henze 1986). C_T of fresh data is standard normal."""
    scores = [copies(x[:150], x[150:300], x[300:]) for x in (normal(1300, dim, 1000 * dim + i) for i in range(40))]
    values = np.array([score.authenticity.value for score in scores])
    assert values.mean() == pytest.approx(1 - mutual, abs=3 * values.std() / 40**0.5 + 0.01)
    z = np.array([score.c_t.value for score in scores])
    assert abs(z.mean()) < 3 / 40**0.5
    assert z.std() == pytest.approx(1, abs=3 / 80**0.5)


def test_neighbours_are_those_of_a_tree():
    x, training = normal(90, 4, 0), normal(70, 4, 1)
    expected, indices = cKDTree(training.numpy()).query(x.numpy(), 2)
    found = nearest(x, training, 16, "cpu")
    for rank, one in enumerate((found, nearest(x, training, 16, "cpu", but=found.places))):
        np.testing.assert_allclose(one.distances.sqrt().numpy(), expected[:, rank], rtol=1e-9)
        np.testing.assert_array_equal(one.places.numpy(), indices[:, rank])


@pytest.mark.parametrize(("n", "m", "k"), [(0, 3, 3), (3, 0, 3), (3, 3, 1)])
def test_too_few_are_answered(n, m, k):
    with pytest.raises(UserError, match=naming("copies", f"{n} samples", f"{m} held-out", f"{k} training", "2")):
        copies(normal(n, 2, 0), normal(m, 2, 1), normal(k, 2, 2))
