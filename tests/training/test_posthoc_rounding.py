"""ema=posthoc: what roundings of snapshots make of weights that are solved, on random walks whose averages are known."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddpm_lab.core.posthoc import exponent
from ddpm_lab.errors import UserError
from ddpm_lab.files import sha256
from ddpm_lab.models.checkpoint import read_checkpoint, write_archive
from ddpm_lab.models.run import opened
from ddpm_lab.models.snapshots import STABLE, Dtype, Solver, place
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.posthoc import PostHoc

from .support import fit, module, quiet

pytestmark = quiet
WEIGHTS = 500
USUAL = (2000, 50, (0.05, 0.1))
NEAR = (2000, 50, (0.1, 0.1001))
FOUR = (1000, 25, (0.05, 0.1, 0.15, 0.2))


def walk(steps: int) -> Tensor:
    """Of float64 weights that start at a standard normal and move as far again: one network a row."""
    start, *moves = torch.randn(steps + 1, WEIGHTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return start + torch.stack(moves).cumsum(0) / steps**0.5


def average(history: Tensor, sigma_rel: float) -> Tensor:
    ends = (torch.arange(len(history) + 1).double() / len(history)) ** (exponent(sigma_rel) + 1)
    return ends.diff() @ history


def made(folder: Path, run: tuple[int, int, tuple[float, ...]], dtype: Dtype) -> Solver:
    """Of averages of a walk, in float64 until they are rounded as they are stored."""
    (steps, every, lengths), path = run, folder / "last.ckpt"
    history, listed = walk(steps), {}
    own = {f"ema/{each}": {"w": average(history, each).float()} for each in lengths}
    for step in range(every, steps + 1, every):
        content = {f"ema/{each}": {"w": average(history[:step], each).to(getattr(torch, dtype))} for each in lengths}
        write_archive(content, place(folder, step))
        listed[step] = sha256(place(folder, step))
    return Solver(own | {"global_step": steps, "snapshots": listed, "snapshots_dtype": dtype}, path, ["w"])


def error(solver: Solver, sigma_rel: float) -> float:
    """Relative, of all weights together."""
    exact = average(walk(solver.step), sigma_rel)
    return float((solver.solved(sigma_rel)["w"].double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("run", "sigma_rel", "least"), [(NEAR, 0.02, 1.0), (NEAR, 0.05, 0.05), (FOUR, 0.02, 0.5), (FOUR, 0.01, 10.0)]
)
def test_lengths_whose_coefficients_multiply_roundings_are_refused(run, sigma_rel, least, tmp_path):
    """Their profiles err by less than 4%, their weights by `least` and more."""
    solver = made(tmp_path, run, "float16")
    assert error(solver, sigma_rel) > least
    assert not solver.reaches(sigma_rel)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("run", [USUAL, NEAR, FOUR])
def test_what_is_solved_errs_by_less_than_is_said(run, dtype, tmp_path):
    """Each by less than 1%: the share of the profile, and that of roundings."""
    solver = made(tmp_path, run, dtype)
    reached = [each for each in (0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25) if solver.reaches(each)]
    assert max(error(solver, each) for each in reached) < STABLE
    assert len(reached) >= (8 if dtype == "float32" or run is USUAL else 1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_usual_averages_reach_what_they_did(dtype, tmp_path):
    assert made(tmp_path, USUAL, dtype).range == "0.016 to 0.264"


def test_averages_that_are_all_but_one_reach_no_other(tmp_path):
    """Which is said as such, and not as an empty range."""
    model, path = module(), tmp_path / "checkpoints" / "last.ckpt"
    fit(tmp_path, model, [PostHoc((0.1004, 0.1004001), dtype="float16"), Checkpoints(100, None)], steps=40)
    assert opened(model.model, read_checkpoint(path), "ema/0.1004", path).solved_from is None
    with pytest.raises(UserError, match=r"no other length of 0\.001 or more"):
        opened(model.model, read_checkpoint(path), "ema/0.1", path)


@pytest.mark.parametrize(("first", "second"), [("float16", "float32"), ("float32", "float16"), ("float32", "float32")])
def test_a_checkpoint_says_the_coarsest_dtype_of_its_snapshots(first, second, tmp_path):
    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(tmp_path, module(), [PostHoc(every=2, dtype=first), Checkpoints(100, None)], steps=4)
    assert read_checkpoint(last)["snapshots_dtype"] == first
    fit(tmp_path, module(), [PostHoc(every=2, dtype=second), Checkpoints(100, None)], steps=8, checkpoint=last)
    assert read_checkpoint(last)["snapshots_dtype"] == ("float16" if "float16" in (first, second) else "float32")
