"""Features that are kept are the features that came, wherever they lie and whoever made them."""

import re

import numpy as np
import pytest
import torch

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.features import FeatureStore
from ddpm_lab.metrics.frechet import frechet_distance, stats_of
from ddpm_lab.metrics.scores import kid

ROWS = torch.randn(101, 6, generator=torch.Generator().manual_seed(0))


def stored(rows, folder, in_memory, batch=7, name="features"):
    store = FeatureStore(len(rows), folder, name, in_memory)
    for part in rows.split(batch):
        store.add(part.double())
    return store


@pytest.mark.parametrize("in_memory", [0, 101 * 6 * 4 - 1, 101 * 6 * 4])
def test_rows_come_back_in_order(tmp_path, in_memory):
    store = stored(ROWS, tmp_path / "new", in_memory)
    assert torch.equal(store.features(), ROWS)
    assert store.features().dtype == torch.float32
    assert store.path.exists() == (in_memory < 101 * 6 * 4)


def test_a_file_is_a_plain_npy(tmp_path):
    store = stored(ROWS, tmp_path, 0, name="logits")
    store.features()
    assert np.array_equal(np.load(tmp_path / "logits.npy"), ROWS.numpy())


def test_numbers_do_not_depend_on_where_features_lie(tmp_path):
    mapped, other = stored(ROWS, tmp_path, 0).features(), ROWS[:60] + 0.3
    assert kid(mapped, other, 3, 20) == kid(ROWS, other, 3, 20)
    assert frechet_distance(stats_of([mapped]), stats_of([other])) == frechet_distance(stats_of([ROWS]), stats_of([other]))


def test_too_few_too_many_and_broken_ones_are_noticed(tmp_path):
    with pytest.raises(ValueError, match="8 of 101 features"):
        FeatureStore(101, tmp_path).add(ROWS[:8]).features()
    with pytest.raises(ValueError, match="broadcast"):
        FeatureStore(5, tmp_path).add(ROWS[:8])
    with pytest.raises(UserError, match="features: not finite from row 8 on"):
        FeatureStore(101, tmp_path).add(ROWS[:8]).add(ROWS[:8] / 0)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=re.escape("features.npy: 101×6 values cannot be kept there (")):
        FeatureStore(101, tmp_path / "file", in_memory=0).add(ROWS)
