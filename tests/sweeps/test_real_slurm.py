"""Sweeps on a real SLURM of this machine, which keeps no accounts: each ends in the weights and numbers of a run without it.

Needs root, and SLURM's daemons and commands. Jobs wait within a step for what a test does to them, so that nothing here
depends on how fast they are."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import FEW_HELD_OUT, ROOT, TINY, digest, environment

from ddpm_lab.sweeps.queue import seconds

NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sacct", "scontrol", "sinfo")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or not all(map(shutil.which, NEEDED)), reason="needs root and a SLURM to start"),
]
pytest.importorskip("submitit")
SCRIPT = Path(__file__).with_name("slurm.sh")
HOLDING = "# default, and a hold\ndefaults: [default, _self_]\nhold:\n  _target_: holding.Hold\n  folder: .\n  at: 3\n"
WORDS = [
    *(word for word in TINY if "trainer." not in word),
    *FEW_HELD_OUT,
    "trainer.max_steps=4",
    "trainer.validate_every=4",
    "trainer.log_every=1",
    "seed=1",
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> dict[str, str]:
    """The environment in which commands find it."""
    folder = tmp_path_factory.mktemp("slurm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] % 20000 + 10000  # below those that the system gives away
    paths = f"{SCRIPT.parent}:{os.environ.get('PYTHONPATH', '')}"
    try:
        subprocess.run([SCRIPT, "start", folder, str(port)], check=True, timeout=60)
        yield environment() | {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": paths}
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True, timeout=120)


@pytest.fixture(scope="module")
def expected(slurm, tmp_path_factory) -> str:
    """What a run without SLURM measures."""
    return local_run(slurm, tmp_path_factory.mktemp("local"))


def local_run(env: dict[str, str], place: Path, *more: str) -> str:
    command = [sys.executable, str(ROOT / "train.py"), *words(place), *more, "run.name=local"]
    subprocess.run(command, cwd=place, env=env, check=True, capture_output=True)
    return digest(place / "outputs" / "smoke" / "local")


def words(place: Path) -> list[str]:
    """The arguments for a run that can be held there."""
    (place / "own" / "callbacks").mkdir(parents=True, exist_ok=True)
    (place / "own" / "callbacks" / "holding.yaml").write_text(HOLDING)
    return [f"--config-dir={place}/own", *WORDS, "callbacks=holding", f"callbacks.hold.folder={place}"]


def until(condition: Callable[[], object], patience: float = 150) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


class Sweep:
    """One run, as a job. What happens to it is up to the test."""

    def __init__(self, place: Path, env: dict[str, str]) -> None:
        self.place, self.env, self.folder = place, env, place / "outputs" / "multirun" / "sweep"
        self.output = place / "printed"
        self.launchers: list[subprocess.Popen] = []

    def start(self, *more: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "train.py"), "-m", *words(self.place)]
        command += ["launcher=slurm", "launcher.cpus=1", "sweep.name=sweep", *more]
        with self.output.open("w") as output:
            self.launchers.append(subprocess.Popen(command, cwd=self.place, env=self.env, stdout=output, stderr=output))
        return self.launchers[-1]

    def ends(self, launcher: subprocess.Popen, code: int) -> str:
        assert launcher.wait(150) == code, self.output.read_text()
        return self.output.read_text()

    def again(self, *more: str) -> str:
        return self.ends(self.start(*more), 0)

    def call(self, *command: str, patience: float = 30) -> str:
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True, timeout=patience).stdout

    def job(self) -> str:
        return json.loads((self.folder / "sweep.json").read_text())["arms"][0]["job"]

    def state(self, job: str) -> str:
        return self.call("squeue", "--states=all", "--noheader", "--format=%T", f"--jobs={job}").strip()

    def limit_to_two_minutes_more(self, job: str) -> None:
        """SLURM warns up to 60 seconds earlier than told: a short limit from the start would warn before training."""
        used = self.call("squeue", "--noheader", "--Format=TimeUsed", f"--jobs={job}")
        self.call("scontrol", "update", f"JobId={job}", f"TimeLimit={int(seconds(used.strip())) // 60 + 2}")

    def running(self) -> str:
        """The job's number as soon as it runs."""
        until(lambda: (self.folder / "sweep.json").exists() and self.job())
        until(lambda: self.state(self.job()) == "RUNNING")
        return self.job()

    def in_step(self) -> str:
        """The job's number as soon as it waits within a step."""
        until((self.place / "held").exists)
        return self.job()

    def log(self) -> str:
        return (self.folder / "0.log").read_text()

    def release_when_told_to_stop(self, log: Callable[[], str]) -> None:
        until(lambda: "stopping after this step" in log())
        (self.place / "hold").unlink()

    def preempt(self) -> None:
        self.call("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", f"--output={self.place}/urgent", "--wrap=sleep 3")

    def digest(self) -> str:
        return digest(self.folder / "0")


@pytest.fixture
def sweep(slurm, tmp_path) -> Sweep:
    sweep = Sweep(tmp_path, slurm)
    yield sweep
    for launcher in sweep.launchers:  # of a test that failed
        launcher.kill()
        launcher.wait()


@pytest.fixture
def holding(sweep) -> Sweep:
    """Its job waits within a step until the file `hold` goes."""
    (sweep.place / "hold").touch()
    return sweep


def test_to_the_end(sweep, expected):
    sweep.again()
    assert sweep.digest() == expected
    assert sweep.job() is None


def test_a_launcher_that_is_killed(holding, expected):
    first = holding.start()
    job = holding.in_step()
    first.kill()
    first.wait()
    second = holding.start()
    until(lambda: f"job {job} of an earlier sweep" in holding.output.read_text())
    (holding.place / "hold").unlink()
    holding.ends(second, 0)
    assert holding.digest() == expected
    assert holding.log().count("$ ") == 1


def test_preempted_before_training(sweep, expected):
    launcher = sweep.start("launcher.partition=scavenge")
    job = sweep.running()
    sweep.preempt()
    printed = sweep.ends(launcher, 1)
    before_python, in_python = f"job {job} ended as PREEMPTED; ", f"SLURM stopped job {job}, at its time limit or by preemption"
    assert before_python in printed or in_python in printed
    sweep.again()
    assert sweep.digest() == expected


def test_preempted_in_training(holding, expected):
    launcher = holding.start("launcher.partition=scavenge")
    job = holding.in_step()
    holding.preempt()
    holding.release_when_told_to_stop(holding.log)
    printed = holding.ends(launcher, 1)
    assert f"SLURM stopped job {job}, at its time limit or by preemption; exit code 143" in printed
    assert "goes on (job" in holding.again()
    assert holding.digest() == expected


def test_the_time_limit(holding, expected):
    launcher = holding.start("launcher.minutes=9", "launcher.notice=90")
    holding.limit_to_two_minutes_more(holding.in_step())
    holding.release_when_told_to_stop(holding.log)
    assert "exit code 143" in holding.ends(launcher, 1)
    assert "goes on (job" in holding.again()
    assert holding.digest() == expected


def test_suspended(holding, expected):
    launcher = holding.start()
    job = holding.in_step()
    holding.call("scontrol", "suspend", job)
    until(lambda: holding.state(job) == "SUSPENDED")
    time.sleep(25)  # longer than SLURM is left unasked
    assert launcher.poll() is None
    assert holding.job() == job
    holding.call("scontrol", "resume", job)
    (holding.place / "hold").unlink()
    holding.ends(launcher, 0)
    assert holding.digest() == expected


def test_control_c_twice(holding, expected):
    launcher = holding.start()
    holding.in_step()
    launcher.send_signal(signal.SIGINT)
    until(lambda: "stopping after this step" in holding.log())
    time.sleep(6)  # within five seconds SIGTERM is the one before
    launcher.send_signal(signal.SIGINT)
    assert "0 of 1 done; the same command goes on from here" in holding.ends(launcher, 130)
    assert holding.job() is None
    (holding.place / "hold").unlink()
    holding.again()
    assert holding.digest() == expected


def test_a_job_that_is_requeued(holding, slurm, expected):
    script = holding.place / "script.sh"
    arguments = " ".join([*words(holding.place), "callbacks.checkpoints.last_every=1"])
    script.write_text(f"#!/bin/bash\nexec {sys.executable} {ROOT}/train.py {arguments}\n")
    output = holding.place / "printed"
    job = holding.call(
        "sbatch", "--requeue", f"--output={output}", "--open-mode=append", f"--chdir={holding.place}", str(script)
    )
    job = re.search(r"\d+", job)[0]
    until((holding.place / "held").exists)
    until(lambda: holding.state(job) == "RUNNING")
    holding.call("scontrol", "requeue", job)
    holding.release_when_told_to_stop(output.read_text)
    until(lambda: holding.state(job) == "COMPLETED")
    (folder,) = (holding.place / "outputs" / "smoke").iterdir()
    assert folder.name == f"slurm-{job}"
    assert "going on from" in (folder / "train.log").read_text()
    assert digest(folder) == expected


def test_two_nodes(sweep, tmp_path_factory):
    expected = local_run(
        sweep.env, tmp_path_factory.mktemp("two"), "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"
    )
    several = ["trainer=ddp_multinode", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2", "run.name=nodes"]
    train = [sys.executable, str(ROOT / "train.py"), *words(sweep.place), *several]
    address = "--export=ALL,MASTER_ADDR=127.0.0.1"  # of the first node, whose name no other machine has to know
    sweep.call("srun", "--nodes=2", "--ntasks-per-node=1", address, f"--chdir={sweep.place}", *train, patience=200)
    assert digest(sweep.place / "outputs" / "smoke" / "nodes") == expected
