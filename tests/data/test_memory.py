"""The stream of training batches, the grid of grey levels, and the held-out split."""

import itertools

import pytest
import torch
from pretended import DEVICE, pretended
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.grey import scale
from ddpm_lab.data.memory import InMemory, OrderedBatches, TrainStream, seeded_split
from ddpm_lab.errors import UserError

LEVELS = 64


def numbered(n: int) -> Tensor:
    """Images N 1 1 2 whose pixels are (i, n − 1 − i): which datum it is, and whether it is mirrored, can be read off."""
    i = torch.arange(n, dtype=torch.uint8)
    return torch.stack([i, n - 1 - i], dim=1).view(n, 1, 1, 2)


def stream(n: int = 10, batch_size: int = 4, steps: int = 20, seed: int = 0, flip: bool = False) -> TrainStream:
    return TrainStream(numbered(n), LEVELS, batch_size, steps, seed, flip)


def indices(batches: TrainStream) -> list[int]:
    """Which datum stands in each row of all batches, one after another."""
    pixels = torch.cat([batch.x0[:, 0, 0, 0] for batch in batches])
    return ((pixels + 1) * (LEVELS - 1) / 2).round().long().tolist()


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_scale_puts_every_level_exactly_on_the_grid(levels):
    raw = torch.arange(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    x = scale(raw, levels)
    exact = torch.tensor([2 * k / (levels - 1) - 1 for k in range(levels)], dtype=torch.float64)
    assert x.dtype == torch.float32
    assert (x.flatten()[0], x.flatten()[-1]) == (-1, 1)
    assert (x.flatten().double() - exact).abs().max() < 2**-22
    assert torch.equal(((x + 1) * (levels - 1) / 2).round().to(torch.uint8), raw)
    if levels == 17:
        assert torch.equal(x.flatten().double(), exact)  # sixteenths are float32 numbers


def test_data_without_levels_are_left_alone():
    x = torch.randn(5, 2)
    assert scale(x, None) is x


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (10, 10), (7, 3), (3, 8), (1, 5), (5, 13)])
def test_each_epoch_holds_each_datum_once_wherever_batches_end(n, batch_size):
    """(3, 8): a batch holds almost three epochs of a data set smaller than itself."""
    epochs = 6
    seen = indices(stream(n, batch_size, steps=-(-epochs * n // batch_size)))[: epochs * n]
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_batches_span_epochs_in_the_order_of_the_permutations():
    orders = [rng.permutation(10, 5, "order", epoch).tolist() for epoch in range(4)]
    assert indices(stream(10, 4, steps=10, seed=5)) == list(itertools.chain(*orders))


def test_epochs_differ_and_seeds_differ():
    seen = indices(stream(50, 50, steps=3))
    assert len({tuple(seen[k : k + 50]) for k in (0, 50, 100)}) == 3
    assert seen != indices(stream(50, 50, steps=3, seed=1))


@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_is_a_pure_function_of_seed_and_counter(flip):
    whole = list(stream(flip=flip))
    assert [batch.counter for batch in whole] == list(range(20))
    lone = stream(flip=flip)
    for counter in (13, 0, 19, 13, 7):
        assert torch.equal(lone.batch(counter).x0, whole[counter].x0)
    assert lone.position == 0
    assert all(batch.first == 0 and len(batch.x0) == 4 for batch in whole)


@pytest.mark.parametrize("flip", [False, True])
def test_batches_of_data_on_a_device_are_made_there_and_are_the_same(flip):
    expected = [batch.x0 for batch in stream(flip=flip)]
    with pretended() as device, torch.inference_mode():
        there = TrainStream(numbered(10).to(DEVICE), LEVELS, 4, 20, 0, flip)
        batches = [batch.x0 for batch in there]
        assert all(x0.device == DEVICE for x0 in batches)
        assert device.waits == {"blocking copy: _to_copy": 1}  # the data
    assert all(torch.equal(x0.here, wanted) for x0, wanted in zip(batches, expected, strict=True))


@pytest.mark.parametrize("stop", [1, 7, 19, 20])
def test_a_restored_stream_goes_on_with_the_next_batch(stop):
    whole = list(stream(flip=True))
    first = stream(flip=True)
    taken = list(itertools.islice(first, stop))
    second = stream(flip=True)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert [b.counter for b in taken + rest] == list(range(20))
    assert all(torch.equal(a.x0, b.x0) for a, b in zip(taken + rest, whole, strict=True))


def test_the_position_is_that_after_the_batch_in_hand():
    """Lightning saves while it holds a batch: a resumed run must not see it again."""
    batches = stream(steps=3)
    assert [batches.state_dict()["position"] for _ in batches] == [1, 2, 3]
    assert len(batches) == 3


def test_half_are_mirrored_exactly_and_only_where_asked():
    n, raw = 40, torch.randint(256, (40, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    plain, flipped = (TrainStream(raw, 256, n, 50, seed=3, flip=flip) for flip in (False, True))
    mirrored = 0
    for a, b in zip(plain, flipped, strict=True):
        for x, y in zip(a.x0, b.x0, strict=True):
            same, mirror = torch.equal(x, y), torch.equal(x.flip(2), y)
            assert same != mirror
            mirrored += mirror
    assert abs(mirrored - 1000) < 4 * 500**0.5  # 2000 fair coins, four standard deviations


def test_which_are_mirrored_depends_on_seed_and_batch_not_on_the_data():
    def coins(seed: int, counter: int, n: int = 20) -> list[bool]:
        batches = TrainStream(torch.tensor([0, 1], dtype=torch.uint8).expand(n, 1, 1, 2), 2, n, 50, seed, flip=True)
        return (batches.batch(counter).x0[:, 0, 0, 0] == 1).tolist()

    assert coins(0, 0) == coins(0, 0)
    assert coins(0, 0) != coins(1, 0)
    assert coins(0, 0) != coins(0, 1)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (9, 3), (2, 5)])
def test_ordered_batches_hold_each_datum_once_in_order(n, batch_size):
    batches = OrderedBatches(numbered(n), LEVELS, batch_size)
    seen = list(batches)
    assert len(seen) == len(batches)
    assert torch.equal(torch.cat([batch.x0 for batch in seen]), scale(numbered(n), LEVELS))
    assert [batch.first for batch in seen] == list(range(0, n, batch_size))
    assert [batch.counter for batch in seen] == list(range(len(seen)))


@pytest.mark.parametrize(("n", "fraction"), [(10, 0.2), (1797, 0.2), (2, 0.1), (11, 0.5), (100, 0.99)])
def test_a_split_is_disjoint_complete_and_fixed_by_its_seed(n, fraction):
    train, held = seeded_split(n, fraction, 0)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(n))
    assert len(held) == -(-n * fraction // 1)
    for a, b in zip((train, held), seeded_split(n, fraction, 0), strict=True):
        assert torch.equal(a, b)
    if n >= 10:
        assert not torch.equal(held, seeded_split(n, fraction, 1)[1]) or n == len(held) + 1


def test_a_share_that_is_whole_is_not_rounded_up():
    assert len(seeded_split(100, 0.07, 0)[1]) == 7


@pytest.mark.parametrize(("n", "fraction"), [(5, 0.9), (1, 0.5), (2, 0.6), (4, 1.0)])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(n, fraction):
    with pytest.raises(UserError, match=rf"data.val_fraction={fraction}: of {n} data"):
        seeded_split(n, fraction, 0)


class Numbers(InMemory):
    levels = LEVELS

    def __init__(self, train: Tensor, val: Tensor) -> None:
        super().__init__(batch_size=4)
        self.parts, self.loads = (train, val), 0

    def load(self) -> tuple[Tensor, Tensor]:
        self.loads += 1
        return self.parts


def loaded(train: Tensor, val: Tensor) -> Numbers:
    data = Numbers(train, val)
    data.setup()
    return data


def test_setup_loads_once_and_gives_shapes_and_loaders():
    data = loaded(numbered(8), numbered(10)[:3])
    data.setup("fit")
    assert data.loads == 1
    assert data.shape == (1, 1, 2)
    data.seed, data.steps = 7, 5
    expected = TrainStream(numbered(8), LEVELS, 4, 5, 7, False)
    assert all(torch.equal(a.x0, b.x0) for a, b in zip(data.train_dataloader(), expected, strict=True))
    assert torch.equal(next(iter(data.val_dataloader())).x0, data.scaled("val"))
    assert torch.equal(data.scaled("train"), scale(numbered(8), LEVELS))
    assert data.known_bpd() is None
    assert loaded(torch.zeros(4, 3), torch.zeros(2, 3)).shape == (3,)  # vectors


def test_only_the_same_data_go_on():
    state = loaded(numbered(8), numbered(4)).state_dict()
    loaded(numbered(8), numbered(4)).load_state_dict(state)
    changed = numbered(8)
    changed[3, 0, 0, 1] += 1
    others = [
        (changed, numbered(4)),
        (numbered(8).flip(0), numbered(4)),
        (numbered(4), numbered(8)),
        (numbered(8)[:7], torch.cat([numbered(8)[7:], numbered(4)])),  # the same bytes, split elsewhere
        (numbered(8).view(8, 1, 2, 1), numbered(4).view(4, 1, 2, 1)),
        (numbered(8), numbered(4)[:3]),
    ]
    for train, val in others:
        with pytest.raises(UserError, match="not the data that the checkpoint was trained on"):
            loaded(train, val).load_state_dict(state)


def test_labels_are_those_of_the_split_or_there_are_none():
    data = loaded(numbered(8), numbered(4))
    with pytest.raises(UserError, match=f"{type(data).__name__} has no labels"):
        data.labels("train")
    data.train_labels, data.val_labels = torch.arange(8), torch.arange(4)
    assert (len(data.labels("train")), len(data.labels("val"))) == (8, 4)


def test_a_data_module_that_does_not_load_says_so():
    class Forgetful(InMemory):
        pass

    with pytest.raises(UserError, match=r"Forgetful.*load\(\)"):
        Forgetful(4).setup()
