"""Statistics of real data come from the disk the second time, and from the data when anything they depend on differs."""

import json

import numpy as np
import pytest
import torch

from ddpm_lab.metrics.cache import read, write
from ddpm_lab.metrics.frechet import FeatureStats, frechet_distance, stats_of


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stats"


class Counted:
    """Computes, and counts how often."""

    def __init__(self, seed: int = 0) -> None:
        self.times, self.seed = 0, seed

    def __call__(self) -> FeatureStats:
        self.times += 1
        g = torch.Generator().manual_seed(self.seed)
        return stats_of(torch.randn(n, 5, generator=g) + 3 for n in (7, 7, 2))


def cached(about, compute):
    """As a callback does: from the disk, or computed and kept."""
    stats = read(about)
    if stats is None:
        stats = compute()
        write(about, stats)
    return stats


ABOUT = {"data": "abc", "levels": 256, "split": "train", "first": None, "weights_sha256": "123"}


def test_the_second_time_it_is_read(place):
    compute = Counted()
    a, b = cached(ABOUT, compute), cached(dict(reversed(ABOUT.items())), compute)
    assert compute.times == 1
    assert (a.n, b.n) == (16, 16)
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.cov, b.cov)
    assert frechet_distance(a, b.add(torch.zeros(1, 5))) > 0  # what was read goes on as any other


def test_a_record_says_what_it_is_of(place):
    cached(ABOUT, Counted())
    (record,) = place.glob("*.json")
    assert json.loads(record.read_text()) == ABOUT
    assert {path.suffix for path in place.iterdir()} == {".json", ".npz"}
    assert {path.stem for path in place.iterdir()} == {record.stem}


@pytest.mark.parametrize("key", ABOUT)
def test_other_data_extractor_weights_or_split_are_computed(key, place):
    first, second = Counted(), Counted(1)
    cached(ABOUT, first)
    found = cached({**ABOUT, key: "other"}, second)
    assert (first.times, second.times) == (1, 1)
    assert torch.equal(found.mean, Counted(1)().mean)


def test_a_damaged_file_is_computed_again_and_mended(place):
    cached(ABOUT, Counted())
    (path,) = place.glob("*.npz")
    whole, compute = path.read_bytes(), Counted()
    middle = len(whole) // 2
    damaged = [whole[:n] for n in (0, 10, middle, len(whole) - 1)] + [whole[:middle] + b"\x7f" * 8 + whole[middle + 8 :]]
    for times, content in enumerate(damaged, start=1):
        path.write_bytes(content)
        assert torch.equal(cached(ABOUT, compute).mean, Counted()().mean)
        assert compute.times == times
        assert path.read_bytes() == whole


@pytest.mark.parametrize("wrong", [{"outer": np.zeros((4, 5))}, {"outer": np.full((5, 5), np.nan)}, {"sum": np.zeros(4)}, {}])
def test_a_file_of_something_else_is_computed_again(wrong, place):
    cached(ABOUT, Counted())
    (path,) = place.glob("*.npz")
    np.savez(path, **({**Counted()().state(), **wrong} if wrong else {"n": np.array(3)}))
    compute = Counted()
    cached(ABOUT, compute)
    assert compute.times == 1


def test_a_folder_that_cannot_be_written_is_one_line_and_no_harm(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "file"))
    assert cached(ABOUT, Counted()).n == 16
    (line,) = caplog.messages
    assert "could not be written (Not a directory)" in line


def test_it_lies_in_the_users_cache_unless_told(monkeypatch, tmp_path):
    monkeypatch.delenv("DDPM_LAB_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(ABOUT, Counted()())
    assert len(list((tmp_path / ".cache" / "ddpm-lab" / "stats").iterdir())) == 2


def test_no_features_are_no_statistics():
    with pytest.raises(ValueError, match="no features"):
        stats_of([])
