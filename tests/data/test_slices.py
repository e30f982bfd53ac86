"""Processes, and pieces of a batch, share out the data."""

import pytest
import torch

from ddpm_lab.data.memory import OrderedBatches, Slice, TrainStream


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("pieces", [1, 2])
def test_slices_make_up_the_batch(world, pieces):
    raw = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, 1, 2, 2)
    whole = TrainStream(raw, 256, 12, 3, seed=0, flip=True)
    parts = [TrainStream(raw, 256, 12, 3, 0, True, Slice(rank, world, pieces)) for rank in range(world)]
    for counter, batch in enumerate(whole):
        slices = [part.batch(counter, piece) for piece in range(pieces) for part in parts]
        assert torch.equal(torch.cat([s.x0 for s in slices]), batch.x0)
        assert [s.first for s in slices] == [12 * i // (world * pieces) for i in range(world * pieces)]
        assert {(s.counter, s.size) for s in slices} == {(counter, 12)}
    ordered = [list(OrderedBatches(raw, 256, 16, Slice(rank, world))) for rank in range(world)]
    together = torch.cat([rank[i].x0 for i in range(3) for rank in ordered])
    assert torch.equal(together, torch.cat([batch.x0 for batch in OrderedBatches(raw, 256, 16)]))
    assert all(
        batch.x0.equal(raw[batch.first : batch.first + len(batch.x0)].float() * (2 / 255) - 1)
        for rank in ordered
        for batch in rank
    )
