"""A run of a sweep inside its job: what each task of SLURM's does, and the result that it leaves as a file."""

import atexit
import fcntl
import os
import pickle
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

WAIT_FOR_OTHERS = 20.0
"""Seconds that the first task of a run that failed waits for the results of the others."""


class Result(NamedTuple):
    """How a task ended. `fault`: the last line of an exception that nobody expected."""

    code: int
    seconds: float
    fault: str = ""


def result_path(folder: Path, job: str, task: int) -> Path:
    """Where submitit writes what a task returns. It is there as soon as it is complete."""
    return folder / f"{job}_{task}_result.pkl"


def read_result(path: Path) -> Result:
    outcome, content = pickle.loads(path.read_bytes())
    return Result(*content) if outcome == "success" else Result(1, 0.0, content.strip().splitlines()[-1])


def run_arm(command: Sequence[str], log: str) -> tuple[int, float]:
    """Executes `command`, a Python with a script or with -m and a module, in this very process. Returns its exit code and the
    seconds it took. An unforeseen exception is raised, so that srun ends the other processes."""
    started, code = time.monotonic(), 0
    for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2):  # submitit would requeue, or ignore it
        signal.signal(number, signal.SIG_DFL)
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        os.environ.setdefault("OMP_NUM_THREADS", cpus)
    failed: list[int] = []
    atexit.register(_leave, failed)  # what is registered later is called earlier
    with _printing_to(Path(log)):
        try:
            _run(list(command[1:]))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            raise
    failed += [code] if code else []
    return code, time.monotonic() - started


def _leave(failed: list[int]) -> None:
    """Ends the first task with the exit code of a run that failed, for which SLURM counts the job as failed. srun then ends the
    other tasks, so it waits for their results, and for their own end a moment longer."""
    if not failed:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if os.environ.get("SLURM_PROCID", "0") != "0":
        os._exit(0)
    folder, job, tasks = Path(os.environ["SUBMITIT_FOLDER"]), os.environ["SLURM_JOB_ID"], int(os.environ["SLURM_NTASKS"])
    until = time.monotonic() + WAIT_FOR_OTHERS
    while time.monotonic() < until and not all(result_path(folder, job, task).exists() for task in range(tasks)):
        time.sleep(0.1)
    time.sleep(1.0 if tasks > 1 else 0.0)
    os._exit(failed[0])


def _run(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """Output goes to the log. The first task holds the lock on it, as a process of Local does, if the file system has locks."""
    with path.open("ab") as log:
        if os.environ.get("SLURM_PROCID", "0") == "0":
            fcntl.flock(log, fcntl.LOCK_EX)
        before = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), before, strict=True):
                os.dup2(copy, number)
                os.close(copy)
