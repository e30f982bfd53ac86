"""A published file stands for the data it was computed from; any other file is one clear line."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from formats import Payload
from messages import naming

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.frechet import FeatureStats, frechet_distance
from ddpm_lab.metrics.published import check_size, read_published

G = torch.Generator().manual_seed(0)
REAL, SAMPLES = torch.randn(80, 6, generator=G).double(), torch.randn(50, 6, generator=G).double() + 0.2
MU, SIGMA = REAL.numpy().mean(0), np.cov(REAL.numpy(), rowvar=False)


def written(path, **arrays):
    np.savez(path / "stats.npz", **arrays)
    return path / "stats.npz"


def refused(path, *parts):
    """One line that names the key, its value, and all the parts."""
    with pytest.raises(UserError, match=naming(*parts)) as refusal:
        read_published(path)
    assert str(refusal.value).startswith(f"reference={path}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("names", [("mu", "sigma"), ("m2", "s2")])
def test_distance_to_a_file_is_the_distance_to_its_data(tmp_path, names):
    path = written(tmp_path, **dict(zip(names, (MU, SIGMA), strict=True)))
    stats, samples = read_published(str(path)), FeatureStats(6).add(SAMPLES)
    expected = frechet_distance(samples, FeatureStats(6).add(REAL))
    assert frechet_distance(samples, stats) == pytest.approx(expected, rel=1e-9)
    assert (stats.n, stats.sha256) == (None, hashlib.sha256(path.read_bytes()).hexdigest())


def test_what_else_is_in_a_file_is_left_alone(tmp_path):
    """As in guided-diffusion's reference batches."""
    spatial = {"mu_s": MU[:2], "sigma_s": SIGMA[:2, :2], "arr_0": np.zeros((2, 4, 4, 3), np.uint8)}
    stats = read_published(written(tmp_path, mu=MU.astype(np.float32), sigma=SIGMA, n=np.array(80), **spatial))
    assert (stats.n, len(stats.mean), stats.mean.dtype) == (80, 6, torch.float64)


def test_files_that_are_something_else_are_refused(tmp_path):
    refused(tmp_path / "absent.npz", ".npz of plain arrays")
    refused(tmp_path, ".npz of plain arrays")
    for name, content in {"cut": written(tmp_path, mu=MU, sigma=SIGMA).read_bytes()[:300], "text": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, ".npz of plain arrays")
    np.save(tmp_path / "one.npy", MU)
    refused(tmp_path / "one.npy", "one array, not an .npz")
    refused(written(tmp_path, arr_0=MU, mu=MU), "arr_0, mu", "mu and sigma or m2 and s2")


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"sigma": SIGMA[:5]}, "same features"),
        ({"sigma": SIGMA.diagonal()}, "same features"),
        ({"mu": MU[None]}, "same features"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, "same features"),
        ({"mu": MU * np.nan}, "finite"),
        ({"sigma": np.full((6, 6), np.inf)}, "finite"),
        ({"mu": np.array(list("abcdef"))}, "numbers"),
        ({"sigma": np.tril(SIGMA) + 1}, "covariance"),
        ({"sigma": -SIGMA}, "covariance"),
        ({"n": np.array([80])}, " n "),
    ],
)
def test_arrays_that_are_no_statistics_are_refused(tmp_path, arrays, problem):
    given = {"mu": MU, "sigma": SIGMA} | arrays
    refused(written(tmp_path, **given), *(f"{name} {list(given[name].shape)}" for name in ("mu", "sigma")), problem)


def test_statistics_of_another_extractor_are_refused(tmp_path):
    stats = read_published(written(tmp_path, mu=MU, sigma=SIGMA))
    check_size(stats, 6, "pixels", "reference=x.npz")
    with pytest.raises(UserError, match=naming("reference=x.npz: ", "6", "inception", "2048")):
        check_size(stats, 2048, "inception", "reference=x.npz")


def test_nothing_in_a_file_is_run(tmp_path):
    trap = tmp_path / "trap"
    np.savez(tmp_path / "evil.npz", mu=np.array([Payload(trap)], dtype=object), sigma=SIGMA, allow_pickle=True)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Payload(trap)))
    for name in ("evil", "pickle"):
        refused(tmp_path / f"{name}.npz", ".npz of plain arrays")
    assert not trap.exists()
