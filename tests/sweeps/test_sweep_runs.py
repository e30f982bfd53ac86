"""Sweeps that train: what was killed and started again equals what was not, and an arm may be several processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Process
from helpers import ROOT, SMALL_NET, TINY, command, digest, environment, trained

from ddpm_lab.models.checkpoint import read_checkpoint

pytestmark = pytest.mark.timeout(600)

SWEEP = [
    "-m", "experiment=smoke", *SMALL_NET, "schedule=linear,cosine", "schedule.T=10", "net.dropout=0.2",
    "callbacks.frechet_curve.every=1", "callbacks.checkpoints.last_every=2", "trainer.log_every=3",
    "trainer.max_steps=60", "trainer.validate_every=30",
]  # fmt: skip


def only(cwd: Path) -> Path:
    (folder,) = (cwd / "outputs" / "multirun").iterdir()
    return folder


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "train/images_per_s"} for row in csv.DictReader(file)]


def measured(run: Path) -> dict[str, dict]:
    return json.loads((run / "summary.json").read_text())["metrics"]


def pid_of(run: Path) -> int:
    """Of the process that writes in a run folder: the one that holds its log."""
    log = (run.parent / f"{run.name}.log").stat()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "fd" / "1").stat().st_ino == log.st_ino:
                return int(process.name)
        except OSError:
            continue
    raise AssertionError("nobody is there")


def until_checkpoint(process: subprocess.Popen, cwd: Path, number: str, step: int) -> Path:
    """The run folder of an arm that has trained for `step` steps and has a checkpoint."""
    while process.poll() is None:
        for run in (cwd / "outputs" / "multirun").glob(f"*/{number}"):
            table = run / "metrics.csv"
            if (run / "checkpoints" / "last.ckpt").exists() and table.exists() and f"\n{step}," in table.read_text():
                return run
        time.sleep(0.01)
    raise AssertionError("it ended before it could be killed")


def until_line(process: subprocess.Popen, text: str) -> str:
    """What the process prints, to the line that has the text."""
    lines = ""
    assert process.stdout is not None
    for line in process.stdout:
        lines += line
        if text in line:
            return lines
    raise AssertionError(lines)


def start(cwd: Path) -> subprocess.Popen:
    return Process([sys.executable, ROOT / "train.py", *SWEEP], cwd=cwd, env=environment(), stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Where the sweep ran that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert command(*SWEEP, cwd=folder).returncode == 0
    return folder


@pytest.mark.soak
def test_killed_and_started_again_equals_unbroken(whole, tmp_path):
    """First an arm alone is killed, then all of the sweep, then the sweep but not its arm."""
    broken = tmp_path
    process = start(broken)
    os.kill(pid_of(until_checkpoint(process, broken, "0", 6)), signal.SIGKILL)
    run = until_checkpoint(process, broken, "1", 9)
    process.kill()
    os.kill(pid_of(run), signal.SIGKILL)
    assert "[0] schedule=linear: failed: ended by SIGKILL" in process.communicate()[0]
    process = start(broken)
    run = pid_of(until_checkpoint(process, broken, "0", 15))
    os.kill(run, signal.SIGSTOP)  # or it might end before the next command looks
    process.kill()
    process.communicate()
    process = start(broken)
    lines = until_line(process, "of an earlier sweep")
    os.kill(run, signal.SIGCONT)
    rest, _ = process.communicate()
    assert process.returncode == 0, rest
    assert "[1] schedule=cosine goes on" in lines + rest
    for arm in "01":
        a, b = only(whole) / arm, only(broken) / arm
        assert digest(a) == digest(b)
        assert rows(a) == rows(b)
        assert measured(a) == measured(b)


@pytest.mark.soak
def test_ctrl_c_and_the_same_command_equal_unbroken(whole, tmp_path):
    stopped = tmp_path
    process = start(stopped)
    until_checkpoint(process, stopped, "0", 9)
    process.send_signal(signal.SIGINT)
    printed = process.communicate()[0]
    assert process.returncode == 130
    assert "stopped, 0 of 2 done; the same command goes on from here" in printed
    assert "stopped at step" in (only(stopped) / "0" / "train.log").read_text()
    assert command(*SWEEP, cwd=stopped).returncode == 0
    assert [digest(only(whole) / arm) for arm in "01"] == [digest(only(stopped) / arm) for arm in "01"]


def test_a_sweep_makes_one_run_folder_for_each_arm_and_a_mistake_of_one_stops_no_other(tmp_path):
    done = command("-m", *TINY, "trainer.accumulate=3,2", "sweep.n_jobs=2", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    sweep = only(tmp_path)
    assert not (sweep / "0").exists()
    assert "[0] trainer.accumulate=3: exit code 2: error: data.batch_size=16: the whole batch" in done.stdout
    config = read_checkpoint(sweep / "1" / "checkpoints" / "last.ckpt")["config"]
    assert config["trainer"]["accumulate"] == 2
    assert "sweep" not in config
    assert (sweep / "1" / "summary.json").exists()


@pytest.mark.soak
def test_arms_of_two_processes_each(tmp_path):
    """With Hydra's launcher every second process would run the whole sweep; here each pair trains its arm, as one would."""
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "net.dropout=0", "trainer.precision=64-true"]
    done = command("-m", *TINY, *two, "schedule=linear,cosine", "sweep.n_jobs=2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for arm, schedule in enumerate(("linear", "cosine")):
        alone = trained(tmp_path / schedule, *TINY, "net.dropout=0", "trainer.precision=64-true", f"schedule={schedule}")
        x, y = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (alone, only(tmp_path) / str(arm)))
        assert y["processes"] == 2
        for name, value in x["state_dict"].items():
            torch.testing.assert_close(y["state_dict"][name], value, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_a_network_that_is_trained_once_has_the_numbers_of_each_choice_trained_alone(tmp_path):
    choices = ["variance=beta", "variance=beta_tilde"]
    done = command("-m", *TINY, "sampler=ancestral", "variance=beta,beta_tilde", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1] variance=beta_tilde … the network of [0]" in done.stdout
    for number, choice in enumerate(choices):
        alone, arm = trained(tmp_path / choice, *TINY, "sampler=ancestral", choice), only(tmp_path) / str(number)
        assert digest(alone) == digest(arm)
        assert measured(alone) == measured(arm)
    assert measured(only(tmp_path) / "0") != measured(only(tmp_path) / "1")
