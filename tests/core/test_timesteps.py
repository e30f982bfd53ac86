"""How t is chosen: fair weights, even spread, paired times, and the importance sampler against iDDPM's own description."""

import math

import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.core.density import Density
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.timesteps import Importance, Stratified, Uniform

from .support import assert_close, make, options

F64 = torch.float64
FAIR = [name for name in options("timesteps") if not isinstance(make("timesteps", name), Density)]
"""Those that keep the mean over t; the others are in test_density.py."""


def of(T: int) -> NoiseSchedule:
    return NoiseSchedule(torch.linspace(1, 0, T + 1, dtype=F64))


@pytest.mark.parametrize("T", [1, 2, 7, 1000, 4000])
def test_uniform_hits_every_time_equally(T):
    """A grid of u with eight points for each t, and the last number below 1."""
    u = torch.arange(8 * T, dtype=F64) / (8 * T) + 1e-9
    drawn = Uniform()(u, of(T), 0, len(u))
    assert torch.equal(drawn.t, torch.arange(1, T + 1).repeat_interleave(8))
    assert torch.equal(drawn.weight, torch.ones_like(u))


@pytest.mark.parametrize("T", [1, 2, 3, 7, 1000, 4000, 2**20])
@pytest.mark.parametrize("name", FAIR)
@pytest.mark.long
def test_times_stay_within_the_chain_and_weights_are_fair(name, T):
    """One row at a time: each is a whole batch, whose t falls anywhere."""

    def draw(u, T):
        schedule = of(T)
        chosen = make("timesteps", name)
        drawn = [chosen(number[None], schedule, 0, 1) for number in u]
        return torch.cat([d.t for d in drawn]), torch.cat([d.weight for d in drawn])

    t, _ = draw(torch.tensor([0.0, 5e-324, 2.0**-53, 0.5, 1 - 2.0**-53], dtype=F64), T)
    assert t.dtype == torch.int64
    assert (t[0], t[-1]) == (1, T)
    assert (t.diff() >= 0).all()  # inverse CDF: monotone in u
    n = min(T, 1000)
    t, weight = draw((torch.arange(2000, dtype=F64) + 0.5) / 2000, n)
    exact = torch.cos(torch.arange(1, n + 1, dtype=F64) / n).mean()
    assert_close((weight * torch.cos(t / n)).mean(), exact, rtol=0, atol=1e-3)


def test_stratified_puts_one_row_in_each_part():
    u = rng.uniform(0, "t", 0, 0, 500)
    t = Stratified()(u, of(1000), 0, 500).t
    assert torch.equal((t - 1) // 2, torch.arange(500))
    assert 0.4 < ((t - 1) % 2).double().mean() < 0.6


@pytest.mark.parametrize("name", options("timesteps"))
def test_a_part_of_a_batch_is_that_part_of_the_whole(name):
    choice, u = make("timesteps", name), rng.uniform(0, "t", 3, 0, 24)
    whole = choice(u, of(50), 0, 24)
    for first in (0, 8, 16):
        part = choice(u[first : first + 8], of(50), first, 24)
        assert torch.equal(part.t, whole.t[first : first + 8])
        assert torch.equal(part.weight, whole.weight[first : first + 8])


def filled(T: int = 4, history: int = 3, floor: float = 0.1) -> tuple[Importance, dict[int, list[float]]]:
    """Losses in an order that repeats times within a batch, beside plain lists of the last `history` of each."""
    choice, lists = Importance(history, floor), {t: [] for t in range(1, T + 1)}
    choice(torch.zeros(1, dtype=F64), of(T), 0, 1)
    g = torch.Generator().manual_seed(0)
    for _ in range(12):
        t, losses = torch.randint(1, T + 1, (5,), generator=g), torch.rand(5, generator=g)
        choice.update(t, losses)
        for time, loss in zip(t.tolist(), losses.tolist(), strict=True):
            lists[time].append(loss)
    return choice, {t: values[-history:] for t, values in lists.items()}


def test_importance_is_the_root_of_the_second_moment():
    choice, last = filled()
    root = [math.sqrt(sum(x * x for x in values) / len(values)) for values in last.values()]
    p = [0.9 * r / sum(root) + 0.1 / 4 for r in root]
    assert_close(choice.probabilities(4), p)
    u = (torch.arange(100_000, dtype=F64) + 0.5) / 100_000
    drawn = choice(u, of(4), 0, len(u))
    assert_close(drawn.t.bincount(minlength=5)[1:] / len(u), p, rtol=0, atol=2e-5)
    assert_close(drawn.weight, torch.tensor([1 / (4 * p[t - 1]) for t in drawn.t.tolist()], dtype=F64))
    losses = torch.tensor([0.3, 5.0, 0.1, 2.0], dtype=F64)
    assert_close((drawn.weight * losses[drawn.t - 1]).mean(), losses.mean(), rtol=1e-3)


def test_importance_is_uniform_until_every_time_is_known():
    choice = Importance(history=2)
    choice(torch.zeros(1, dtype=F64), of(3), 0, 1)
    choice.update(torch.tensor([1, 1, 2, 2, 3]), torch.tensor([9.0, 9.0, 1.0, 1.0, 1.0]))
    assert_close(choice.probabilities(3), [1 / 3] * 3)
    choice.update(torch.tensor([3]), torch.tensor([1.0]))
    assert choice.probabilities(3)[0] > 0.8


def test_importance_goes_on_from_its_state():
    choice, _ = filled()
    other = Importance(3, 0.1)
    other.load_state_dict(choice.state_dict())
    assert torch.equal(other.probabilities(4), choice.probabilities(4))
    other.update(torch.tensor([2]), torch.tensor([7.0]))  # its own copy
    assert not torch.equal(other.probabilities(4), choice.probabilities(4))
