"""Sweeps whose arms are jobs of SLURM: submitit and its scripts are real, SLURM's commands pretend, as do most arms."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from helpers import TINY, command
from pretend_sweep import PRETENDS, only, starts, states

from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint

pytest.importorskip("submitit")
SWEEP = """
import sys
from ddpm_lab.cli import sweep
from ddpm_lab.config import preflight
from ddpm_lab.sweeps import queue, runner, slurm
sweep.program, runner.POLL, slurm.LOOK_EVERY = lambda: [sys.executable, "train.py"], 0.05, 0.05
queue.ASK_EVERY = 0.2
sys.exit(sweep.sweep(preflight.preflight(["-m", "launcher=slurm", *sys.argv[1:]]), []))
"""


@pytest.fixture
def run(queue, pretending, monkeypatch):
    """Runs a command line whose runs are jobs."""
    start = pretending(PRETENDS)
    monkeypatch.setattr("ddpm_lab.sweeps.runner.POLL", 0.05)
    monkeypatch.setattr("ddpm_lab.sweeps.runner.TRY_AGAIN", 1.0)
    monkeypatch.setattr("ddpm_lab.sweeps.slurm.LOOK_EVERY", 0.05)
    monkeypatch.setattr("ddpm_lab.sweeps.slurm.WAIT_FOR_FILES", {True: 1.0, False: 0.2})
    monkeypatch.setattr("ddpm_lab.sweeps.queue.ASK_EVERY", 0.2)
    return lambda line, launcher="slurm", **tasks: start(f"launcher={launcher} {line}", **tasks)


def until(pattern: str) -> Path:
    while not (found := list(Path("outputs/multirun").glob(pattern))):
        time.sleep(0.01)
    return found[0]


def send(number: int, pattern: str) -> threading.Thread:
    """A signal to this process once there is such a file."""

    def wait_and_send() -> None:
        until(pattern)
        os.kill(os.getpid(), number)

    Path("outputs/multirun").mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=wait_and_send)
    thread.start()
    return thread


def ended(queue: Path) -> list[str]:
    return [path.read_text() for path in sorted(queue.glob("*.state"))]


def test_arms_are_jobs_all_at_once_and_what_they_print_is_in_their_logs(run, queue):
    code, printed = run("seed=1,2,3", _0="meet", _1="meet", _2="fail")
    folder = only()
    assert code == 1
    assert states(folder) == [("done", 0), ("done", 0), ("failed", 2)]
    assert f"[2] seed=3: exit code 2: error: the loss is not finite\n    {folder}/2.log\n" in printed
    command, *output = (folder / "2.log").read_text().splitlines()
    assert command.startswith(f"$ {sys.executable} {queue.parent}/train.py seed=3 sweep=none 'sweep.arms=[]' launcher=local ")
    assert output == ["error: the loss is not finite"]
    jobs = [path.stem for path in sorted(queue.glob("*.state"))]
    assert all(f"[{i}] seed={i + 1} … (job {job})\n" in printed for i, job in enumerate(jobs))
    assert all(arm["job"] is None for arm in json.loads((folder / "sweep.json").read_text())["arms"])
    assert run("seed=1,2,3")[0] == 0
    assert [len(starts(folder, i)) for i in range(3)] == [1, 1, 2]


def test_so_many_at_a_time_if_received(run, queue):
    assert run("seed=1,2 sweep.n_jobs=1", _1="meet")[0] == 0
    _, second = (path.stem for path in sorted(queue.glob("*.state")))
    assert int(second) / 1e6 > (only() / "0" / "summary.json").stat().st_mtime


def test_an_arm_of_two_processes_is_a_job_of_two_tasks(run):
    code, _ = run("seed=1 trainer=ddp trainer.devices=2 trainer.accelerator=cpu")
    assert code == 0
    assert sorted(start["rank"] for start in starts(only(), 0)) == ["0", "1"]


def test_a_job_that_measures_is_submitted_when_the_one_that_trains_has_ended(run, queue):
    assert run("variance=beta,beta_tilde seed=1,2", _0="meet", _1="meet")[0] == 0
    folder, submitted = only(), [int(path.stem) / 1e6 for path in sorted(queue.glob("*.state"))]
    for trained, measured in ((0, 2), (1, 3)):
        (start,) = starts(folder, measured)
        assert (
            f"run.trained_in='{folder}/{trained}'" in start["words"] or f"run.trained_in={folder}/{trained}" in start["words"]
        )
    assert submitted[2] > min((folder / number / "summary.json").stat().st_mtime for number in "01")


def test_within_an_allocation_its_description_is_not_handed_on(run, queue, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert run("seed=1")[0] == 0
    assert [json.loads(path.read_text()) for path in queue.glob("*.inherited")] == [[]]
    assert os.environ["SLURM_NTASKS"] == "4"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_jobs_save_and_the_same_command_goes_on(number, run, queue, heard):
    thread = send(number, "*/0/ready")
    code, printed = run("seed=1", _0="wait")
    thread.join()
    folder = only()
    assert code == 128 + number
    assert states(folder) == [("stopped", 128 + 15)]
    assert "SLURM stopped" not in printed
    code, printed = run("seed=1")
    assert code == 0
    assert "[0] seed=1 goes on (job " in printed
    assert starts(folder, 0)[1]["words"] == [f"resume={folder}/0"]


def test_what_waits_in_the_queue_leaves_it_at_a_signal(run, queue, heard):
    (queue / "hold").touch()
    thread = send(signal.SIGINT, "*/.submitit/*_submitted.pkl")
    code, printed = run("seed=1")
    thread.join()
    assert code == 130
    assert ended(queue) == ["CANCELLED"]
    assert states(only()) == [("stopped", 1)]
    assert "[0] seed=1: stopped (" in printed


def test_a_second_signal_ends_jobs_at_once(run, queue, heard):
    deaf = PRETENDS.replace("    sys.exit(128 + number)", "    Path(folder / 'received').touch()")
    (queue.parent / "train.py").write_text(deaf)
    threads = [send(signal.SIGINT, "*/0/ready"), send(signal.SIGINT, "*/0/received")]
    code, _ = run("seed=1", _0="wait")
    for thread in threads:
        thread.join()
    assert code == 130
    assert ended(queue) == ["CANCELLED"]


@pytest.mark.slow
def test_the_time_limit_is_received_and_the_same_command_goes_on(run, queue):
    (queue / "limit").write_text("3")
    code, printed = run("seed=1", _0="wait")
    assert code == 1
    assert states(only()) == [("failed", 143)]
    assert "SLURM stopped job" in printed
    assert "exit code 143" in printed
    (queue / "limit").unlink()
    assert run("seed=1")[0] == 0
    assert starts(only(), 0)[1]["words"] == [f"resume={only()}/0"]


def test_a_job_that_is_killed_is_received_by_its_state(run, queue):
    killed = PRETENDS.replace('if task == "fail":', 'if task == "kill":\n    os.kill(os.getpid(), 9)\nif task == "fail":')
    (queue.parent / "train.py").write_text(killed)
    code, printed = run("seed=1,2", _0="kill")
    assert code == 1
    assert states(only()) == [("failed", 1), ("done", 0)]
    assert " ended as FAILED; " in printed


@pytest.mark.soak
@pytest.mark.parametrize("launcher", ["slurm", "local"])
def test_a_job_that_outlived_its_sweep_is_waited_for_and_not_started_twice(run, queue, launcher):
    naps = PRETENDS.replace("time.sleep(60)", "time.sleep(6)")
    (queue.parent / "train.py").write_text(naps)
    killed = subprocess.Popen([sys.executable, "-c", SWEEP, "seed=1"], env=os.environ | {"TASKS": '{"0": "wait"}'})
    until("*/0/ready")
    killed.kill()
    killed.wait()
    code, printed = run("seed=1", launcher)
    assert code == 0
    assert printed.count("of an earlier sweep") == 1
    assert "[0] seed=1: job " in printed
    assert len(starts(only(), 0)) == 1
    assert states(only()) == [("done", 0)]


def test_a_job_that_ended_unseen_is_no_hindrance(run, queue):
    assert run("seed=1", _0="fail")[0] == 1
    record = only() / "sweep.json"
    record.write_text(re.sub(r'"sha256": ".*",', "", record.read_text()).replace('"job": null', '"job": "77"'))
    assert run("seed=1", launcher="local")[0] == 0
    assert len(starts(only(), 0)) == 2


def test_where_the_queue_cannot_be_asked_nothing_is_started(run, queue, monkeypatch):
    assert run("seed=1", _0="fail")[0] == 1
    record = only() / "sweep.json"
    record.write_text(re.sub(r'"sha256": ".*",', "", record.read_text()).replace('"job": null', '"job": "77"'))
    (queue.parent / "bin" / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"SLURM's queue.*: slurm_load_jobs error"):
        run("seed=1", launcher="local")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"submitted to SLURM.* sbatch"):
        run("seed=1", launcher="local")
    assert len(starts(only(), 0)) == 1


def test_a_queue_that_is_full_takes_the_next_when_one_has_ended(run, queue):
    (queue / "room").write_text("2")
    code, printed = run("seed=1,2,3", _0="meet", _1="meet")
    assert code == 0
    assert printed.count("QOSMaxSubmitJobPerUserLimit; asking again as others end\n") == 1
    assert states(only()) == [("done", 0)] * 3
    assert (only() / "2.log").read_text().count("$ ") == 1
    assert len(list((only() / ".submitit").glob("*.pkl"))) == 2 * 3


def test_what_slurm_refuses_is_one_line(run, queue, capsys):
    with pytest.raises(UserError, match=r"^launcher=slurm: sbatch: error: invalid partition specified: nope$"):
        run("seed=1,2 launcher.partition=nope")
    assert capsys.readouterr().err == ""
    assert states(only()) == [("waiting", None)] * 2
    assert run("seed=1,2")[0] == 0


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_arms_of_one_and_of_two_processes_train(queue):
    """As jobs, under Lightning's own reading of SLURM, and to the same weights as without it."""
    one, two = TINY, ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    for name, words in (("one", one), ("two", [*TINY, *two])):
        for place in ("slurm", "local"):
            arguments = ["-m", *words, "net.dropout=0", f"launcher={place}", f"sweep.name={place}_{name}"]
            done = command(*arguments, cwd=Path.cwd())
            assert done.returncode == 0, done.stdout + done.stderr
        ours, theirs = (Path(f"outputs/multirun/{place}_{name}/0") for place in ("slurm", "local"))
        x, y = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (ours, theirs))
        assert x["processes"] == y["processes"] == (1 if name == "one" else 2)
        assert all(torch.equal(value, y["state_dict"][key]) for key, value in x["state_dict"].items())
        assert not {"sweep", "launcher"} & x["config"].keys()
        assert (ours / "summary.json").exists()
