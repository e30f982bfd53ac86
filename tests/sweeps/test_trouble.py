"""What a sweep meets that nobody wishes for: closed terminals, full disks, files cut short, edited, or written wrong."""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import TINY
from pretend_sweep import only, states

import ddpm_lab
from ddpm_lab.cli.sweep import sweep
from ddpm_lab.cli.train import branched
from ddpm_lab.config.grammar import BASE
from ddpm_lab.config.options import conf_dir
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError
from ddpm_lab.sweeps.state import Entry, Sweep, _read


class Closed:
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    flush = write


def test_a_terminal_that_is_closed_ends_nothing(run, heard, monkeypatch):
    monkeypatch.setenv("TASKS", "{}")
    monkeypatch.setattr(sys, "stdout", Closed())
    assert sweep(preflight(["-m", "seed=1,2", "sweep.name=read"]), []) == 0
    assert states(Path("outputs/multirun/read")) == [("done", 0)] * 2

    def hang_up():
        while not Path("outputs/multirun/left/0/ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGHUP)

    thread = threading.Thread(target=hang_up)
    thread.start()
    monkeypatch.setenv("TASKS", json.dumps({"0": "wait"}))
    assert sweep(preflight(["-m", "seed=1,2", "sweep.name=left"]), []) == 128 + signal.SIGHUP
    thread.join()
    assert states(Path("outputs/multirun/left")) == [("stopped", 128 + 15), ("waiting", None)]  # told to save


def test_a_disk_that_is_full_leaves_nobody_unwatched(run, monkeypatch):
    save, saved = Sweep.save, []

    def full(self):
        saved.append(1)
        if len(saved) > 2:
            while not (self.folder / "0" / "ready").exists():
                time.sleep(0.01)
            raise OSError(28, "No space left on device")
        save(self)

    monkeypatch.setattr(Sweep, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run("seed=1,2 sweep.n_jobs=2", _0="wait", _1="wait")
    saved_by_signal = only() / "0" / "checkpoints" / "last.ckpt"
    for _ in range(500):
        if saved_by_signal.exists():
            break
        time.sleep(0.01)
    assert saved_by_signal.exists()


def test_what_is_the_same_run_is_trained_once(run):
    code, printed = run("seed=1,1,2 variance=auto,beta")  # of loss=simple auto is beta
    assert code == 0
    assert printed.count("the same run") == 4
    assert len(states(only())) == 2


@pytest.mark.parametrize("summary", ["", "garbage", "[]", '{"step": 1900}x', "{}"])
def test_a_summary_that_cannot_be_read_is_none_and_stops_no_sweep(run, summary):
    assert run("seed=1,2 sweep.name=a")[0] == 0
    (Path("outputs/multirun/a/0/summary.json")).write_text(summary)
    (Path("outputs/multirun/a/0/checkpoints/last.ckpt")).touch()
    assert run("seed=3 sweep.name=b")[0] == 0
    code, printed = run("seed=1,2 sweep.name=a")
    assert code == 0
    assert "[0] seed=1 goes on" in printed
    assert "[1] seed=2: 3.2500" in printed


@pytest.mark.parametrize(
    "edit",
    [
        {"config": None},
        {"max_steps": "x"},
        {"number": 7},
        {"overrides": None},
        {"seconds": "long"},
        {"unknown": 1},
        {"network_of": "0"},
    ],
)
def test_a_list_of_arms_that_was_edited_is_no_sweep(run, edit):
    assert run("seed=1,2 sweep.name=a")[0] == 0
    path = Path("outputs/multirun/a/sweep.json")
    content = json.loads(path.read_text())
    del content["sha256"]
    content["arms"][0] |= edit
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"sweep\.name=a"):
        run("seed=1,2 sweep.name=a")
    code, printed = run("seed=1,2")
    assert code == 0
    assert f"note: {path} " in printed


def test_a_flipped_bit_of_the_list_is_refused_or_changes_nothing(tmp_path):
    entries = [Entry(i, [f"seed={i}"], "0" * 64, 3, False, seconds=1.5, exit_code=1, state="failed") for i in range(2)]
    with Sweep(tmp_path / "a", entries, existed=False):
        path = tmp_path / "a" / "sweep.json"
    whole, chance = path.read_bytes(), random.Random(0)
    assert _read(path.parent)[0] == entries
    refused = 0
    for bit in chance.sample(range(8 * len(whole)), 300):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            read = _read(path.parent)[0]
        except ValueError:
            refused += 1
            continue
        assert read == entries
    assert refused > 200


def test_a_list_of_a_version_without_its_sum_is_read(tmp_path):
    entries = [Entry(0, ["seed=0"], "0" * 64, 3, False)]
    with Sweep(tmp_path / "a", entries, existed=False):
        path = tmp_path / "a" / "sweep.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert _read(path.parent)[0] == entries


def test_what_was_measured_is_never_removed(run):
    assert run("seed=1,2 sweep.name=a")[0] == 0
    Path("outputs/multirun/a/0/summary.json").write_text('{"step": 3, "metrics": {}}')
    Path("outputs/multirun/a/0/checkpoints/last.ckpt").unlink()
    with pytest.raises(UserError, match=r"^outputs/multirun/a/0: measured"):
        run("seed=1,2 sweep.name=a")
    assert Path("outputs/multirun/a/0/summary.json").exists()


WRONG = {
    "lacks": ("arms: ['seed=1,2']", r"^sweep=lacks: .*lacks\.yaml needs a line: defaults: \[none, _self_\]$"),
    "empty": ("", r"^sweep=empty: .*empty\.yaml has no keys"),
    "typo": (
        "defaults: [none, _self_]\narm: ['seed=1,2']",
        r"^sweep\.arm=.*Did you mean sweep\.arms\?",
    ),
    "nowhere": ("defaults: [none, _self_]\narms: ['optim.lr=${schedule.nope}']", r"^.*schedule\.nope"),
    "itself": ("defaults: [itself, _self_]", r"itself"),
    "hydra": (
        "defaults: [none, _self_]\narms: ['hydra.verbose=true']",
        r"^sweep\.arms: hydra\.verbose=true: this is about the",
    ),
    "jobs": (
        "defaults: [none, _self_]\narms: ['sweep.n_jobs=2 seed=1']",
        r"^sweep\.arms: sweep\.n_jobs=2: this is about the sweep",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_file_of_ones_own_is_one_line(name, tmp_path):
    (tmp_path / "own" / "sweep").mkdir(parents=True)
    (tmp_path / "own" / "sweep" / f"{name}.yaml").write_text(WRONG[name][0])
    with pytest.raises(UserError, match=WRONG[name][1]) as refused:
        preflight([f"--config-dir={tmp_path / 'own'}", "-m", f"sweep={name}"])
    assert "\n" not in str(refused.value)


def test_a_file_of_ones_own_takes_names_of_other_codebases_and_an_experiment_may_be_a_sweep(tmp_path):
    own = tmp_path / "own"
    (own / "sweep" / "sub").mkdir(parents=True)
    (own / "experiment").mkdir()
    (own / "sweep" / "sub" / "mine.yaml").write_text(
        "defaults: [/sweep/none@_here_, _self_]\narms: ['schedule=squaredcos_cap_v2 seed=1,2']"
    )
    (own / "experiment" / "self.yaml").write_text(
        "# @package _global_\ndefaults: [/experiment/smoke, _self_]\nsweep:\n  arms: ['seed=1,2']\n"
    )
    arms = preflight([f"--config-dir={own}", "-m", "sweep=sub/mine"])
    assert [arm.overrides for arm in arms] == [["schedule=cosine", f"seed={seed}", "sweep=sub/mine"][:2] for seed in (1, 2)]
    arms = preflight([f"--config-dir={own}", "-m", "experiment=self"])
    assert len(arms) == 2
    (alone,) = preflight([f"--config-dir={own}", *arms[0].overrides, *BASE])  # as the sweep starts it
    assert alone.config.seed == 1
    with pytest.raises(UserError, match=r"add -m, or sweep\.arms=\[\] for its base alone"):
        preflight([f"--config-dir={own}", "experiment=self"])


def test_a_place_for_runs_of_a_sweep_is_not_theirs_to_choose():
    with pytest.raises(UserError, match=r"^run\.experiment=foo: the runs of a sweep"):
        preflight(["-m", "seed=1,2", "run.experiment=foo"])


def test_a_branched_run_keeps_its_own_length_and_trainer(run_of):
    first = run_of(*TINY)
    steps = ddpm_lab.load(first).config["trainer"]["max_steps"]
    (arm,) = preflight(["-m", f"resume={first}", "sampler=ancestral", "sweep.name=b"])
    assert arm.config.trainer.max_steps != steps  # the command line's own
    branch = branched(arm, [conf_dir()])
    assert (branch.config.trainer.max_steps, branch.config.sweep.name, branch.config.run.root) == (steps, "b", "outputs")
    assert branch.config.sampler._target_.endswith("Ancestral")
    assert branch.config.resume == str(first / "checkpoints" / "last.ckpt")
