"""weights=ema/0.07 of a run with ema=posthoc: wherever weights are named, in records and figures, and what is refused."""

import json
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from evaluation.support import DIGITS, Counted, copied, evaluate, kept, refusal
from helpers import command, command_here

from ddpm_lab import UserError, load
from ddpm_lab.cli.compare import main as compare
from ddpm_lab.cli.sample import main as sample
from ddpm_lab.compare.lines import over_lengths
from ddpm_lab.compare.report import Stage, report
from ddpm_lab.config.exported import export
from ddpm_lab.models.checkpoint import read_checkpoint, weights_sha256
from ddpm_lab.models.snapshots import place

OTHERS = ("trainer.max_steps", "trainer.validate_every")
RUN = (
    *(word for word in DIGITS if not word.startswith(OTHERS)),
    "trainer.validate_every=4",
    "ema=posthoc",
    "trainer.max_steps=8",
)
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
SAMPLED = ["sampler=ddim", "sampler.steps=2", "nll.chain=sampler", "nll.train_stride=0"]
LAST = Path("checkpoints", "last.ckpt")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def run(run_of, tmp_path):
    return copied(run_of(*RUN), tmp_path / "run")


def state(run: Path, weights: str | None = None) -> dict[str, torch.Tensor]:
    return load(run, weights).net.state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


# Which weights a run has


def test_a_length_is_opened_by_its_number(run):
    assert load(run).weights == load(run, "ema").weights == load(run, "ema/0.050").weights == "ema/0.05"
    opened = load(run, "ema/0.070")
    assert (opened.weights, opened.solved_from, opened.length) == ("ema/0.07", 2 * 8, 0.07)
    assert (load(run, "raw").length, load(run).length, load(run).solved_from) == (0.0, 0.05, None)
    assert equal(state(run, "ema/0.1"), read_checkpoint(run / LAST)["ema/0.1"])
    assert not equal(opened.net.state_dict(), state(run))


@pytest.mark.parametrize("weights", ["ema/0", "ema/0.9", "ema/0.001", "ema/nan", "ema/x", "ema/-0.05"])
def test_other_lengths_are_refused_with_those_that_there_are(weights, run, capsys):
    said = refusal(capsys, f"ckpt={run}", f"weights={weights}")
    assert f"weights={weights}: this checkpoint has ema, raw, ema/0.05, ema/0.1" in said
    assert "solved from 16 averages" in said


def test_a_run_of_another_average_says_which_it_has(run_of, capsys):
    said = refusal(capsys, f"ckpt={run_of(*DIGITS)}", "weights=ema/0.07")
    assert "weights=ema/0.07: this checkpoint has ema, raw, ema/0.9999" in said
    assert "ema=posthoc" in said


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_snapshot_that_is_gone_stops_what_needs_it_alone(how, run, capsys):
    path = place(run / "checkpoints", 3)
    path.unlink() if how == "missing" else path.write_bytes(path.read_bytes()[:-9])
    assert f"{path}: this snapshot is {how}" in refusal(capsys, f"ckpt={run}", "weights=ema/0.07")
    for weights in ("raw", "ema/0.05", "ema/0.1"):
        assert load(run, weights).weights == weights


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ema.every=0", "ema.every=0: allowed is int >= 1 or null"),
        ("ema.every=9", "ema.every=9: a run of 8 steps ends before its first snapshot"),
        ("ema.sigma_rel=[0.05,0.05]", "sigma_rel=[0.05, 0.05]: each length once"),
        ("ema.sigma_rel=[0.5]", "ema.sigma_rel=[0.5]: allowed is"),
        ("ema.dtype=float8", "ema.dtype=float8: allowed is one of float32, float16"),
        ("ema.decay=0.9", "ema.decay=0.9"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_training(words, said, tmp_path):
    done = command_here(*RUN, words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


# Where weights are named


def test_lengths_are_an_axis_of_evaluation_and_comparison(run, monkeypatch, tmp_path):
    counted = Counted(monkeypatch)
    told = evaluate(run, "-m", "weights=raw,ema/0.05,ema/0.050,ema,ema/0.07", *SAMPLED)
    assert counted.n == 3 * (1 + 2)  # equal weights are measured once
    weights = ["raw", "ema/0.05", "ema/0.05", "ema/0.05", "ema/0.07"]
    assert [arm["weights"] for arm in told.arms] == weights
    assert [told.record("bound_2", i)["weights"] for i in range(5)] == weights
    assert [told.record("pixels_fd", i).get("solved_from") for i in range(5)] == [None] * 4 + [16]
    assert [arm["setting"] for arm in told.arms] == [""] * 5
    assert len({told.value("bound_2", i) for i in range(5)}) == len(kept(run, "bound")) == 3
    rows = [line for line in (told.folder / "table.md").read_text().splitlines() if "| ema/0.07" in line]
    assert f"{told.value('bound_2', 4):.4f}" in rows[0]
    assert (told.folder / "lengths.png").exists()
    study = next(each for each in report([run], None, 0.95, {}).studies if each.stage is Stage.EVALUATED)
    assert [choice.label for choice in study.compared.choices] == ["weights=raw", "weights=ema/0.05", "weights=ema/0.07"]
    drawn = {figure.title: figure.data for figure in over_lengths(study) if figure}
    (bound,) = [data for title, data in drawn.items() if title.startswith("bits/dim")]
    assert bound[0]["x"] == [0.0, 0.05, 0.07]
    assert bound[0]["y"] == pytest.approx([told.value("bound_2", i) for i in (0, 1, 4)], rel=1e-5)
    assert not any(column.reported for column in study.judged)
    with patch.object(sys, "argv", ["compare.py", str(run), f"out={tmp_path / 'report'}"]):
        compare()
    assert "against the length of the average" in (tmp_path / "report" / "index.html").read_text()


def test_weights_that_do_not_differ_are_no_axis(run):
    told = evaluate(run, "weights=ema/0.07", *SAMPLED)
    assert told.content["weights"] == "ema/0.07"
    assert "weights" not in told.arms[0]
    assert told.record("bound_2")["solved_from"] == 16


def test_samples_and_exports_say_what_they_are_of(run, tmp_path):
    out = tmp_path / "drawn"
    with patch.object(sys, "argv", ["sample.py", f"ckpt={run}", "weights=ema/0.07", "n=2", "sampler.steps=2", f"out={out}"]):
        sample()
    record = json.loads((out / "samples.json").read_text())["record"]
    assert (record["weights"], record["solved_from"]) == ("ema/0.07", 16)
    export(str(run), "safetensors", str(tmp_path / "exported"), "ema/0.07")
    again = load(tmp_path / "exported" / "model.safetensors")
    assert (again.weights, again.solved_from) == ("ema/0.07", 16)
    assert equal(again.net.state_dict(), state(run, "ema/0.07"))
    assert "ema/0.07 (solved from 16 averages)" in (tmp_path / "exported" / "README.md").read_text()


def test_a_head_is_on_the_length_that_was_asked_for(run):
    given = ["head=ocm", f"base={run}", "model.weights=ema/0.07", "trainer.max_steps=2", "callbacks.samples=null"]
    done = command_here(*given, "callbacks.frechet_curve=null", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    head = load(run / "heads" / "ocm")
    assert head.config["model"]["weights"] == "ema/0.07"
    assert head.config["model"]["sha256"] == weights_sha256(load(run, "ema/0.07").net)
    with pytest.raises(UserError, match="train a head for this network"):
        load(run / "heads" / "ocm", base=load(run))


# Going on


def test_a_run_that_goes_on_elsewhere_takes_its_snapshots(run, tmp_path):
    done = command_here(f"resume={run / LAST}", "run.name=branch", "trainer.max_steps=10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (branch,) = tmp_path.glob("outputs/*/branch")
    listed = read_checkpoint(branch / LAST)["snapshots"]
    assert list(listed) == list(range(1, 11))
    assert listed.items() >= read_checkpoint(run / LAST)["snapshots"].items()
    assert load(branch, "ema/0.07").solved_from == 20


def test_the_log_says_what_snapshots_take_and_which_are_lost(run):
    assert "8 snapshots of averages, one every 1 steps: " in (run / "train.log").read_text()
    place(run / "checkpoints", 3).unlink()
    assert command_here(f"resume={run}", "trainer.max_steps=9", cwd=run.parent).returncode == 0
    assert "snapshots of steps 3 are missing or damaged" in (run / "train.log").read_text()
    assert load(run, "ema/0.07").solved_from == 2 * 8


@pytest.mark.soak
def test_two_processes_write_one_set_of_snapshots_and_resume_exactly(tmp_path):
    words = [*RUN[:-1], *TWO, "ema.every=2"]
    for name, steps in (("whole", 8), ("half", 5)):
        done = command(*words, f"trainer.max_steps={steps}", f"run.name={name}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    whole, half = (next(tmp_path.glob(f"outputs/*/{name}")) for name in ("whole", "half"))
    assert command(f"resume={half}", "trainer.max_steps=8", cwd=tmp_path).returncode == 0
    a, b = (read_checkpoint(folder / LAST)["snapshots"] for folder in (whole, half))
    assert a == b
    assert list(a) == [2, 4, 6, 8]
    assert equal(state(whole, "ema/0.07"), state(half, "ema/0.07"))
    shutil.rmtree(half)
