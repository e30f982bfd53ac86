"""Reverse covariances from the network's Jacobian, through evaluate.py and sample.py: each acts, is recorded, and goes on."""

import math

import numpy as np
import pytest
import torch

import ddpm_lab
from ddpm_lab.config.build_evaluation import data_of
from ddpm_lab.core import jacobian
from ddpm_lab.core.grey import scale
from ddpm_lab.core.jacobian import MOST

from .support import DIGITS, VECTORS, copied, evaluate, kept, refusal

CHAIN = ["sampler.steps=4", "nll.chain=sampler", "nll.terms=null", "nll.train_stride=0"]
RUNGS = {
    "hutchinson": ["n_probes=3", "seed=1", "clip_cov=false"],
    "lanczos": ["steps=1", "bound_steps=2", "probes=2", "decoder_probes=1"],
    "exact": [],
}


@pytest.fixture(scope="module")
def run(run_of, tmp_path_factory):
    """A network whose Jacobian is not isotropic: that of x̂_0 itself, far from its start."""
    words = ["net.attention=[8]", "prediction=x0", "optim.lr=0.02", "optim.warmup=0", "schedule.T=200"]
    trained = run_of(*DIGITS, *words, "callbacks.vlb_terms=null")
    return copied(trained, tmp_path_factory.mktemp("jacobian") / "run")


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_every_rung_changes_samples_and_bounds(run, sampler):
    told = evaluate(run, "-m", *CHAIN, f"sampler={sampler}", "variance=beta_tilde,hutchinson,lanczos,exact", "nll.n=4")
    for key in ("bound_4", "pixels_fd"):
        values = [told.value(key, arm) for arm in range(4)]
        assert all(map(math.isfinite, values))
        alike = 1 if key == "bound_4" else 0  # lanczos and exact, of so few dimensions
        assert len(set(values)) == 4 - alike, key
    assert [told.record("sampling_seconds", arm)["products"] for arm in range(4)] == [0, 3, 9, 192]
    record = told.record("pixels_fd", 2)
    assert (record["variance"], record["krylov_steps"], record["krylov_bound_steps"]) == ("lanczos", 3, 24)


@pytest.mark.parametrize(("rung", "value"), [(rung, value) for rung, values in RUNGS.items() for value in values])
def test_every_key_changes_a_number(run, rung, value, monkeypatch):
    monkeypatch.setattr(jacobian, "MOST", 256 if rung == "exact" else 0)
    told = evaluate(run, *CHAIN, "sampler=ancestral", f"variance={rung}", "nll.n=4")
    other = evaluate(run, *CHAIN, "sampler=ancestral", f"variance={rung}", f"variance.{value}", "nll.n=4", "name=other")
    assert any(told.value(key) != other.value(key) for key in ("bound_4", "pixels_fd")), value


def test_eigenvalues_are_limited_by_that_of_the_data(run):
    told = evaluate(run, *CHAIN, "variance=lanczos", "nll.n=4")
    data = data_of(ddpm_lab.load(run), run / "checkpoints" / "last.ckpt")
    x = scale(data.raw("train"), data.levels).flatten(1).double()
    largest = torch.linalg.eigvalsh(torch.cov(x.T))[-1]
    assert told.record("pixels_fd")["krylov_largest"] == pytest.approx(float(largest), rel=1e-5)


@pytest.mark.soak
def test_a_stopped_bound_goes_on_with_the_same_probes(run):
    told = evaluate(run, *CHAIN, "variance=lanczos", "nll.n=40")
    pieces = sorted(kept(run, "bound")[0].glob("*.pt"))
    pieces[-1].unlink()
    again = evaluate(run, *CHAIN, "variance=lanczos", "nll.n=40", "name=again")
    assert told.value("bound_4") == again.value("bound_4")
    estimate = evaluate(run, "sampler.steps=4", "nll.chain=sampler", "nll.train_stride=0", "nll.terms=2", "variance=lanczos")
    assert estimate.value("bound_4_estimate") == pytest.approx(told.value("bound_4"), rel=0.5)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["variance=hutchinson", "variance.n_probes=0"], ("variance.n_probes=0", "allowed is")),
        (["variance=lanczos", "variance.steps=0"], ("variance.steps=0", "allowed is")),
        (["variance=lanczos", "variance.bound_steps=9"], ("bound_steps=9", "64 dimensions", "exact")),
        (["variance=lanczos", "variance.largest=1"], ("variance.largest",)),
        (["variance=ocm"], ("head=ocm", "base=")),
    ],
)
def test_wrong_uses_are_one_line(run, capsys, words, named):
    said = refusal(capsys, f"ckpt={run}", *words)
    assert all(name in said for name in named), said


def test_a_matrix_that_is_too_large_is_refused_before_any_work(run_of, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (120, 3, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    run = run_of(*DIGITS, "data=npz", f"data.path={tmp_path}/images.npy")
    said = refusal(capsys, f"ckpt={run}", "variance=exact")
    assert all(word in said for word in ("768", str(MOST), "Lanczos"))
    told = evaluate(run, *CHAIN, "variance=lanczos", "variance.bound_steps=2", "nll.n=2")
    assert math.isfinite(told.value("bound_4"))


def test_vectors_have_densities_under_every_rung(run_of, tmp_path):
    run = copied(run_of(*VECTORS), tmp_path / "run")
    for rung in RUNGS:
        told = evaluate(run, *CHAIN, f"variance={rung}", "nll.n=6")
        assert math.isfinite(told.value("bound_4"))
