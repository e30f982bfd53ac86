"""How jobs end: what is asked of SLURM, how long it is waited for, and what is said of it. SLURM's commands pretend."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pretend_sweep import PRETENDS, only, starts, states

from ddpm_lab.sweeps.launcher import headed
from ddpm_lab.sweeps.queue import JobState, Queue, seconds

pytest.importorskip("submitit")
DEAF = PRETENDS.replace("    sys.exit(128 + number)", "    Path(folder / 'received').touch()")


@pytest.fixture
def run(queue, pretending, monkeypatch):
    """Runs a command line whose runs are jobs."""
    start = pretending(PRETENDS)
    monkeypatch.setattr("ddpm_lab.sweeps.slurm.LOOK_EVERY", 0.05)
    monkeypatch.setattr("ddpm_lab.sweeps.slurm.WAIT_FOR_FILES", {True: 1.0, False: 0.2})
    monkeypatch.setattr("ddpm_lab.sweeps.queue.ASK_EVERY", 0.2)
    return lambda line, **tasks: start(f"launcher=slurm {line}", **tasks)


def once(pattern: str, do) -> threading.Thread:
    """Calls `do` when there is such a file."""

    def wait_and_do() -> None:
        while not list(Path("outputs/multirun").glob(pattern)):
            time.sleep(0.01)
        do()

    Path("outputs/multirun").mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=wait_and_do)
    thread.start()
    return thread


def entry() -> dict:
    return json.loads((only() / "sweep.json").read_text())["arms"][0]


def killing(queue: Path) -> None:
    """Runs are told to kill themselves."""
    (queue.parent / "train.py").write_text(PRETENDS.replace("    sys.exit(2)", "    os.kill(os.getpid(), 9)"))


@pytest.mark.parametrize(
    ("text", "expected"), [("0:07", 7), ("59:01", 3541), ("1:00:00", 3600), ("2-03:04:05", 183845), ("INVALID", 0)]
)
def test_elapsed_time_is_read_as_squeue_writes_it(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("state", "alive"), [("SUSPENDED", True), ("COMPLETING", True), ("STOPPED", True), ("PREEMPTED", False), ("TIMEOUT", False)]
)
def test_what_is_not_an_end_is_alive(state, alive):
    queue = Queue()
    queue.jobs = {"7": JobState(state, 1.0, "None")}
    assert queue.alive("7") == alive
    assert not queue.alive("8")


def test_a_queue_that_does_not_answer_stays_as_it_was_and_is_told_of_once(queue, monkeypatch, capsys):
    monkeypatch.setattr("ddpm_lab.sweeps.queue.ASK_EVERY", 0.0)
    (queue / "7.state").write_text("RUNNING")
    asked = Queue()
    asked.look()
    answers = (queue.parent / "bin" / "squeue").read_text()
    (queue.parent / "bin" / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error >&2\nexit 1\n")
    asked.look()
    asked.look()
    assert asked.alive("7")
    assert capsys.readouterr().out.count("slurm_load_jobs error\n") == 1
    (queue.parent / "bin" / "squeue").write_text(answers)
    (queue / "7.state").write_text("PREEMPTED")
    asked.look()
    assert (asked.alive("7"), asked.error) == (False, "")


def test_slurm_counts_a_run_that_failed_as_failed(run, queue):
    assert run("seed=1 trainer=ddp trainer.devices=2 trainer.accelerator=cpu", _0="fail")[0] == 1
    assert states(only()) == [("failed", 2)]
    while [path.read_text() for path in queue.glob("*.state")] != ["FAILED"]:
        time.sleep(0.01)
    assert len(list((only() / ".submitit").glob("*_result.pkl"))) == 2


def test_a_job_that_is_killed_keeps_its_seconds(run, queue):
    killing(queue)
    _, printed = run("seed=1", _0="fail")
    assert " ended as FAILED; SLURM's own messages: " in printed
    assert entry()["seconds"] == 93784


@pytest.mark.parametrize(
    ("accounting", "said"), [(True, "ended as FAILED;"), (False, "has ended, and SLURM no longer knows why;")]
)
def test_a_job_that_squeue_has_forgotten_has_ended(run, queue, accounting, said):
    killing(queue)
    (queue / "forgets").touch()
    if not accounting:
        (queue / "no_accounting").touch()
    code, printed = run("seed=1", _0="fail")
    assert code == 1
    assert said in printed


def test_jobs_that_wait_say_why_once(run, queue, heard, monkeypatch):
    monkeypatch.setattr("ddpm_lab.sweeps.slurm.SAY_WHY_AFTER", 0.5)
    (queue / "hold").touch()
    thread = once("*/.submitit/*_submitted.pkl", lambda: (time.sleep(3), os.kill(os.getpid(), signal.SIGINT)))
    code, printed = run("seed=1,2")
    thread.join()
    assert code == 130
    assert printed.count("waits in SLURM's queue: Resources\n") == 1


@pytest.mark.soak
def test_a_job_that_does_not_end_after_a_signal_is_left_to_slurm_and_found_again(run, queue, heard, monkeypatch):
    monkeypatch.setattr("ddpm_lab.sweeps.slurm.PATIENCE", (0.5, 0.5))
    (queue.parent / "train.py").write_text(DEAF.replace("time.sleep(60)", "time.sleep(8)"))
    thread = once("*/0/ready", lambda: os.kill(os.getpid(), signal.SIGINT))
    code, printed = run("seed=1", _0="wait")
    thread.join()
    assert code == 130
    (job,) = (path.stem for path in queue.glob("*.state"))
    assert f"[0] seed=1: job {job} has not ended yet and is left to SLURM; the same command finds it\n" in printed
    assert (entry()["job"], entry()["state"]) == (job, "stopped")
    code, printed = run("seed=1")
    assert code == 0
    assert f"job {job} of an earlier sweep" in printed
    assert "left to" not in printed
    assert len(starts(only(), 0)) == 1


def test_a_command_begins_a_line_of_the_log(tmp_path):
    path = tmp_path / "0.log"
    for before, expected in ((b"", b"$ a b\n"), (b"cut sho", b"cut sho\n$ a b\n"), (b"whole\n", b"whole\n$ a b\n")):
        path.write_bytes(before)
        with path.open("ab") as log:
            begin = headed(log, ["a", "b"])
        assert path.read_bytes() == expected
        assert begin == len(expected)


@pytest.mark.parametrize(("given", "threads"), [({}, "3"), ({"OMP_NUM_THREADS": "2"}, "2")])
def test_a_task_uses_the_cores_that_it_was_given(tmp_path, given, threads):
    (tmp_path / "train.py").write_text("import os\nprint(os.environ['OMP_NUM_THREADS'])\n")
    (tmp_path / "0.log").touch()
    code = (
        f"from ddpm_lab.sweeps.arm import run_arm\nassert run_arm(['python', {str(tmp_path / 'train.py')!r}], '0.log')[0] == 0"
    )
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"} | given | {"SLURM_CPUS_PER_TASK": "3"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "0.log").read_text() == f"{threads}\n"
