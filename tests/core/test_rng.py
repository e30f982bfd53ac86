"""Random numbers as pure functions of their address, and how training chooses t."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_lab.core import rng

F64 = torch.float64
index = st.integers(0, 300)
ADDRESS = st.tuples(st.integers(0, 2**40), st.sampled_from(["t", "noise", "sampling"]), st.integers(0, 2**40))


@given(address=ADDRESS, a=index, b=index, shape=st.sampled_from([(), (1,), (3,), (2, 3), (1, 2, 2)]))
@settings(max_examples=40, deadline=None)
def test_slices_of_normals_are_consistent(address, a, b, shape):
    a, b = sorted((a, b))
    whole = rng.normal(shape, *address, 0, 320)  # whole blocks
    assert whole.shape == (320, *shape)
    assert whole.dtype == torch.float32
    assert torch.equal(rng.normal(shape, *address, a, b + 1), whole[a : b + 1])


@given(address=ADDRESS, a=index, b=index)
@settings(max_examples=40, deadline=None)
def test_slices_of_uniforms_are_consistent(address, a, b):
    a, b = sorted((a, b))
    whole = rng.uniform(*address, 0, 320)
    assert whole.dtype == F64
    assert torch.equal(rng.uniform(*address, a, b + 1), whole[a : b + 1])
    assert whole.min() >= 0
    assert whole.max() < 1


@pytest.mark.parametrize("at", [0, 1, 63, 64, 65])
def test_an_empty_slice_is_empty(at):
    """A rank's share of a short batch may be nothing, on a block's edge too."""
    assert rng.uniform(0, "t", 0, at, at).shape == (0,)
    assert rng.normal((2,), 0, "noise", 0, at, at).shape == (0, 2)


def draws(*address) -> torch.Tensor:
    return rng.normal((4,), *address, 0, 64).flatten()


def test_every_part_of_the_address_matters():
    addresses = [(0, "noise", 0), (1, "noise", 0), (0, "sampling", 0), (0, "noise", 1), (-1, "noise", 0), (10, "noise", 0)]
    drawn = [draws(*a) for a in addresses]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 4 / math.sqrt(256)
    # four blocks of each of three counters: none may be another's neighbour
    blocks = torch.cat([rng.normal((4,), 0, "noise", counter, 0, 256).reshape(4, -1) for counter in range(3)])
    assert (torch.corrcoef(blocks) - torch.eye(12)).abs().max() < 5 / math.sqrt(256)
    assert len({rng.address(seed, "t", c) for seed in range(30) for c in range(30)}) == 900


def test_pure_and_apart_from_the_global_generator():
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), draws(3, "noise", 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(draws(3, "noise", 7), first)


def test_addresses_are_the_same_on_every_machine():
    """Pinned: a change here changes every run."""
    assert rng.address(0, "noise", 1, 2) == 8206195150748915899
    assert 0 <= rng.address(-5, "t") < 2**63


def test_moments_of_the_normals():
    x = rng.normal((10,), 0, "noise", 0, 0, 20_000).double().flatten()
    n = len(x)
    assert abs(float(x.mean())) < 4 / math.sqrt(n)
    assert abs(float(x.var()) - 1) < 4 * math.sqrt(2 / n)
    assert abs(float((x**3).mean())) < 4 * math.sqrt(15 / n)
    assert abs(float((x**4).mean()) - 3) < 4 * math.sqrt(96 / n)


def test_moments_of_the_uniforms():
    u = rng.uniform(0, "t", 0, 0, 100_000)
    assert abs(float(u.mean()) - 0.5) < 4 / math.sqrt(12 * len(u))
    assert abs(float(u.var()) - 1 / 12) < 4 * math.sqrt(1 / 180 / len(u))
    assert (torch.histc(u, 10, 0, 1) - 10_000).abs().max() < 4 * math.sqrt(9000)


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation(n):
    order = rng.permutation(n, 0, "order", 3)
    assert torch.equal(order.sort().values, torch.arange(n))
    assert torch.equal(order, rng.permutation(n, 0, "order", 3))
    if n > 2:
        assert not torch.equal(order, rng.permutation(n, 0, "order", 4))
