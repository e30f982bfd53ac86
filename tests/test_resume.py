"""A run that was stopped and resumed is, to the bit, the run that was not."""

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Process
from helpers import ROOT, command, command_here, environment

from ddpm_lab.models.checkpoint import read_checkpoint

RUN = [
    "experiment=smoke",
    "trainer.validate_every=10",
    "trainer.log_every=3",
    "net.dropout=0.2",
    "schedule.T=20",
    "callbacks.checkpoints.last_every=4",
    "data.batch_size=100",
    "callbacks.frechet_curve.every=1",
    "data.conditional=true",
    "guidance=classifier_free",
    "trainer.max_steps=30",
]
TIMED = ("train/images_per_s",)


def start(cwd: Path, *arguments: str) -> subprocess.Popen:
    return Process(
        [sys.executable, ROOT / "train.py", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def logged_step(folder: Path) -> int:
    try:
        return int((folder / "metrics.csv").read_text().splitlines()[-1].split(",")[0])
    except (FileNotFoundError, ValueError, IndexError):
        return -1


def kill_at(process: subprocess.Popen, folder: Path, step: int, delay: float) -> None:
    """SIGKILL once metrics.csv has reached `step` and a checkpoint is there, `delay` seconds later."""
    while process.poll() is None:
        if logged_step(folder) >= step and (folder / "checkpoints" / "last.ckpt").exists():
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.wait()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(file)]


def assert_same(a, b, where="") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, EMA, optimiser, schedule of the learning rate, position in the data; and every logged number but times."""
    for name in ("last", "best"):
        x, y = (read_checkpoint(folder / "checkpoints" / f"{name}.ckpt") for folder in (a, b))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", *(k for k in x if k.startswith("ema/"))):
            assert_same(x[key], y[key], f"{name}:{key}")
    assert rows(a) == rows(b)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    done = command_here(*RUN, "run.name=whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "smoke" / "whole"


def interrupted_and_resumed(cwd: Path, kills: list[tuple[int, float]]) -> Path:
    folder = cwd / "outputs" / "smoke" / "broken"
    for i, (step, delay) in enumerate(kills):
        arguments = [*RUN, "run.name=broken"] if i == 0 else [f"resume={folder}"]
        process = start(cwd, *arguments)
        kill_at(process, folder, step, delay)
        assert process.returncode == -signal.SIGKILL, "finished before it could be killed"
    done = command(f"resume={folder}", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_killed_twice_and_resumed_equals_unbroken(unbroken, tmp_path):
    chance = random.Random(0)
    kills = [(chance.randrange(4, 14), 0.02), (chance.randrange(15, 24), 0.01)]
    assert_same_run(unbroken, interrupted_and_resumed(tmp_path, kills))


def test_ctrl_c_saves_a_whole_step_and_says_how_to_go_on(unbroken, tmp_path):
    folder = tmp_path / "outputs" / "smoke" / "stopped"
    process = start(tmp_path, *RUN, "run.name=stopped")
    while logged_step(folder) < 6 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert process.returncode == 128 + signal.SIGINT
    assert "go on with: python train.py resume=" in (folder / "train.log").read_text()
    assert command_here(f"resume={folder}", cwd=tmp_path).returncode == 0
    assert_same_run(unbroken, folder)


def test_from_another_checkpoint_or_name_a_new_folder_goes_on(unbroken, tmp_path):
    best = unbroken / "checkpoints" / "best.ckpt"
    done = command_here(f"resume={best}", "run.name=branch", "trainer.max_steps=31", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "smoke" / "branch"
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 31
    assert rows(folder)[: len(rows(unbroken))][:3] == rows(unbroken)[:3]


@pytest.mark.soak
def test_a_longer_run_is_the_same_whether_planned_or_extended(unbroken, tmp_path):
    planned = command_here(*RUN[:-1], "trainer.max_steps=36", "run.name=planned", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    extended = command_here(f"resume={unbroken}", "run.name=extended", "trainer.max_steps=36", cwd=tmp_path)
    assert extended.returncode == 0, extended.stderr
    a, b = (tmp_path / "outputs" / "smoke" / name for name in ("planned", "extended"))
    x, y = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (a, b))
    assert_same(x["state_dict"], y["state_dict"])
    assert rows(a) == rows(b)


@pytest.mark.soak
def test_a_learned_schedule_goes_on_as_the_network_does(tmp_path):
    words = ["schedule=learned", "schedule.learn_ends=true", "loss=vdm", "time=continuous", "timesteps=antithetic"]
    lengths = {"whole": 20, "first": 12}
    for name, steps in lengths.items():
        done = command_here(*RUN[:-1], *words, f"run.name={name}", f"trainer.max_steps={steps}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    whole, first = (tmp_path / "outputs" / "smoke" / name for name in lengths)
    assert command_here(f"resume={first}", "trainer.max_steps=20", cwd=tmp_path).returncode == 0
    assert_same_run(whole, first)
    state = read_checkpoint(whole / "checkpoints" / "last.ckpt")
    moved = [
        float((state["state_dict"][f"net.path.{name}"] - start).abs().max())
        for name, start in (("first", -13.3), ("centres", 0))
    ]
    assert min(moved) > 0
    assert not torch.equal(state["ema/0.9999"]["path.first"], state["state_dict"]["net.path.first"])
