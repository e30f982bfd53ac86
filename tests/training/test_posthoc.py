"""ema=posthoc: its averages, its snapshots, and averages of other lengths that are solved from them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddpm_lab.core.posthoc import exponent
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_archive, read_checkpoint, write_archive
from ddpm_lab.models.run import opened
from ddpm_lab.models.snapshots import Solver, averaged, place, rounded
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.posthoc import PostHoc

from .support import Recorder, fit, module, quiet, same, weights_of

pytestmark = quiet
STEPS = 200
WANTED = [0.03, 0.05, 0.07, 0.1, 0.15, 0.2]


def weights_over(module: TrainingModule) -> Recorder:
    return Recorder(lambda trainer, _: weights_of(module.model.net))


def average(history: list[list[Tensor]], sigma_rel: float) -> list[Tensor]:
    """In float64, every network weighed by the profile: τ^(γ+1) − (τ−1)^(γ+1)."""
    ends = (torch.arange(len(history) + 1).double() / len(history)) ** (exponent(sigma_rel) + 1)
    return [torch.tensordot(ends.diff(), torch.stack(of_one).double(), 1) for of_one in zip(*history, strict=True)]


def error(found: dict[str, Tensor], expected: list[Tensor]) -> float:
    """Relative, of all weights together."""
    a, b = (torch.cat([value.double().flatten() for value in values]) for values in (found.values(), expected))
    return float((a - b).norm() / b.norm())


def solver_of(folder: Path, model: TrainingModule) -> Solver:
    path = folder / "checkpoints" / "last.ckpt"
    return Solver(read_checkpoint(path), path, averaged(model.model.net))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with its folder, and the network after each step."""
    folder, model = tmp_path_factory.mktemp("posthoc"), module()
    weights = weights_over(model)
    fit(folder, model, [weights, PostHoc(), Checkpoints(1000, None)], steps=STEPS)
    return folder, model, weights.seen


def test_averages_weigh_every_network_by_its_profile(trained):
    folder, model, seen = trained
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert model.weights == "ema/0.05"
    assert [key for key in checkpoint if key.startswith("ema/")] == list(model.averages) == ["ema/0.05", "ema/0.1"]
    for sigma_rel in (0.05, 0.1):
        assert error(checkpoint[f"ema/{sigma_rel}"], average(seen, sigma_rel)) < 1e-6


def test_snapshots_hold_the_averages_of_their_steps(trained):
    folder, _, seen = trained
    listed = read_checkpoint(folder / "checkpoints" / "last.ckpt")["snapshots"]
    assert list(listed) == list(range(5, STEPS + 1, 5))
    for step in (5, 120, STEPS):
        content = read_archive(place(folder / "checkpoints", step))
        for sigma_rel in (0.05, 0.1):
            assert error(content[f"ema/{sigma_rel}"], average(seen[:step], sigma_rel)) < 1e-6


@pytest.mark.parametrize("sigma_rel", WANTED)
def test_a_solved_average_is_one_that_was_kept(trained, sigma_rel):
    folder, model, seen = trained
    solver = solver_of(folder, model)
    assert solver.reaches(sigma_rel)
    assert solver.count == 2 * 40
    assert error(solver.solved(sigma_rel), average(seen, sigma_rel)) < (1e-6 if sigma_rel in (0.05, 0.1) else 1e-3)


def test_any_checkpoint_uses_the_snapshots_before_it(tmp_path):
    model = module()
    weights = weights_over(model)
    fit(tmp_path, model, [weights, PostHoc(every=5), Checkpoints(1000, 103)], steps=STEPS)
    path = tmp_path / "checkpoints" / "step_0000103.ckpt"
    solver = Solver(read_checkpoint(path), path, averaged(model.model.net))
    assert solver.count == 2 * (20 + 1)
    assert error(solver.solved(0.07), average(weights.seen[:103], 0.07)) < 1e-2
    assert error(solver.solved(0.1), average(weights.seen[:103], 0.1)) < 1e-6


def test_half_precision_is_enough_near_the_kept_lengths(tmp_path):
    model = module()
    weights = weights_over(model)
    fit(tmp_path, model, [weights, PostHoc(dtype="float16"), Checkpoints(1000, None)], steps=STEPS)
    content = read_archive(place(tmp_path / "checkpoints", 5))
    assert {value.dtype for value in content["ema/0.05"].values()} == {torch.float16}
    for sigma_rel in WANTED:
        assert error(solver_of(tmp_path, model).solved(sigma_rel), average(weights.seen, sigma_rel)) < 1e-2


def test_weights_that_the_dtype_cannot_hold_are_refused(tmp_path):
    model = module()
    with torch.no_grad():
        next(model.model.net.parameters()).fill_(1e6)
    with pytest.raises(UserError, match=r"float16.*ema\.dtype=float32"):
        fit(tmp_path, model, [PostHoc(dtype="float16")], steps=4)


def test_what_lies_beyond_is_refused(trained):
    folder, model, _ = trained
    solver = solver_of(folder, model)
    assert not solver.reaches(0.005)
    low, high = map(float, solver.range.split(" to "))
    assert low < 0.03 < 0.2 < high
    for inside, outside in ((low, low - 0.001), (high, high + 0.001)):
        assert solver.reaches(inside)
        assert not solver.reaches(outside)


def test_averages_from_which_nothing_is_solved_say_so():
    own = {"ema/0.0005": {}}
    checkpoint = {**own, "global_step": 40, "snapshots": {}, "state_dict": {}, "config": {}}
    assert Solver(checkpoint, Path("last.ckpt"), []).range == ""
    with pytest.raises(UserError, match=r"has ema, ema/0\.0005; no other length of 0\.001 or more can be solved"):
        opened(module().model, checkpoint, "ema/0.1", Path("last.ckpt"))


def test_rounded_coefficients_multiply_exactly_and_add_up_to_1():
    x = torch.tensor([0.3, 5.1, -4.4], dtype=torch.float64)
    found = rounded(x)
    assert float(found.sum()) == 1
    assert torch.equal((found * 2**16).round(), found * 2**16)
    assert (found - x).abs().max() <= 2 / 2**16
    unit = torch.tensor([0, 1 + 1e-11, -1e-11], dtype=torch.float64)
    assert rounded(unit).tolist() == [0, 1, 0]


# Resuming


@pytest.mark.parametrize("stop", [7, 10, 14])
def test_a_resumed_run_has_the_snapshots_of_an_unbroken_one(stop, tmp_path):
    """To the bit: `snapshots` has the sha256 of every file."""
    whole, first, second = (module() for _ in range(3))
    fit(tmp_path / "whole", whole, [PostHoc(every=3), Checkpoints(100, None)], steps=20)
    last = tmp_path / "broken" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "broken", first, [PostHoc(every=3), Checkpoints(100, None)], steps=stop)
    fit(tmp_path / "broken", second, [PostHoc(every=3), Checkpoints(100, None)], steps=20, checkpoint=last)
    a, b = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "broken"))
    assert a["snapshots"] == b["snapshots"]
    assert list(a["snapshots"]) == [3, 6, 9, 12, 15, 18]
    for key in ("ema/0.05", "ema/0.1", "state_dict"):
        assert same(list(a[key].values()), list(b[key].values()))


def test_snapshots_of_later_steps_and_half_written_ones_go(tmp_path):
    """As a run leaves them that was killed after its last checkpoint, while it wrote."""
    checkpoints = tmp_path / "checkpoints"
    fit(tmp_path, module(), [PostHoc(every=3), Checkpoints(100, None)], steps=7)
    later, partial = place(checkpoints, 9), checkpoints / "snapshots" / ".step_0000012.tmp.1.ckpt"
    write_archive({"ema/0.05": {}}, later)
    partial.write_bytes(b"PK")
    fit(tmp_path, module(), [PostHoc(every=100), Checkpoints(100, None)], steps=11, checkpoint=checkpoints / "last.ckpt")
    assert sorted(path.name for path in (checkpoints / "snapshots").iterdir()) == ["step_0000003.ckpt", "step_0000006.ckpt"]
    assert list(read_checkpoint(checkpoints / "last.ckpt")["snapshots"]) == [3, 6]


def test_a_run_goes_on_without_snapshots_that_are_lost(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    fit(tmp_path, module(), [PostHoc(every=2), Checkpoints(100, None)], steps=8)
    place(checkpoints, 2).unlink()
    place(checkpoints, 4).write_bytes(place(checkpoints, 6).read_bytes())
    model = module()
    fit(tmp_path, model, [PostHoc(every=2), Checkpoints(100, None)], steps=12, checkpoint=checkpoints / "last.ckpt")
    assert list(read_checkpoint(checkpoints / "last.ckpt")["snapshots"]) == [6, 8, 10, 12]
    solver_of(tmp_path, model).solved(0.07)


# What is refused


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "cut short":
        path.write_bytes(content[:-100])
    elif how == "one bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(place(path.parents[1], 6).read_bytes())


@pytest.mark.parametrize("how", ["missing", "cut short", "one bit", "of another step"])
def test_a_snapshot_that_is_not_there_as_it_was_written_is_named(how, tmp_path):
    model = module()
    fit(tmp_path, model, [PostHoc(every=2), Checkpoints(100, None)], steps=8)
    damage(path := place(tmp_path / "checkpoints", 4), how)
    solver = solver_of(tmp_path, model)
    with pytest.raises(UserError, match=f"{path}: .*{'missing' if how == 'missing' else 'damaged'}.*ema/0.05, ema/0.1") as said:
        solver.solved(0.07)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("ema/abc", {}), ("ema/0.050", {}), ("ema/0.9", {}), ("snapshots", {3: "no"}), ("snapshots", {0: "0" * 64})],
)
def test_an_edited_checkpoint_is_refused(key, value, tmp_path):
    path, model = tmp_path / "checkpoints" / "last.ckpt", module()
    fit(tmp_path, model, [PostHoc(every=2), Checkpoints(100, None)], steps=8)
    write_archive(read_checkpoint(path) | {key: value}, path)
    with pytest.raises(UserError, match=f"a damaged checkpoint: .*{key}"):
        solver_of(tmp_path, model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"every": 0}, "every=0: allowed is int >= 1 or null"),
        ({"sigma_rel": [0.05, 0.05]}, r"sigma_rel=\[0.05, 0.05\]: each length once"),
        ({"sigma_rel": []}, "sigma_rel=.*not empty"),
        ({"sigma_rel": [0.0]}, "sigma_rel=.*allowed"),
        ({"sigma_rel": [0.3]}, "sigma_rel=.*allowed"),
        ({"dtype": "bfloat16"}, "dtype=bfloat16: allowed is one of float32, float16"),
    ],
)
def test_values_outside_their_domain_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        PostHoc(**arguments)


def test_a_run_has_between_one_and_a_thousand_snapshots():
    PostHoc(every=10).check(10)
    PostHoc(every=10).check(10_000)
    PostHoc().check(1)
    with pytest.raises(ValueError, match="every=11: a run of 10 steps ends before"):
        PostHoc(every=11).check(10)
    with pytest.raises(ValueError, match=r"every=9: .* allowed is 10 or more"):
        PostHoc(every=9).check(10_000)
