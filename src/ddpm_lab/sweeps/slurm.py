"""Arms of a sweep as jobs of SLURM, submitted and watched by submitit.

A job has as many tasks as the arm has processes, which find each other as under srun (processes.py). Each task runs train.py
within the process that srun started: a signal then comes to it once, however SLURM follows what a job starts. A job is never
requeued, so that its number means one execution; the same sweep goes on with what was cut short.
"""

import fcntl
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from omegaconf import DictConfig

from ddpm_lab.config.preflight import Arm
from ddpm_lab.errors import UserError, require
from ddpm_lab.sweeps.launchers import headed, read_from
from ddpm_lab.sweeps.record import Entry
from ddpm_lab.sweeps.report import reason

LOOK_EVERY = 2.0
"""Seconds between looks at a job's files; submitit asks SLURM itself less and less often, at last every ten minutes."""
WAIT_FOR_FILES = 30.0
"""Seconds that a shared disk may take to show what a job wrote before it ended."""
COMMANDS = ("sbatch", "srun", "scancel", "squeue", "sacct")
_KEYS = {"time": "minutes", "cpus-per-task": "cpus", "mem": "memory_gb", "gpus-per-node": "gpu"}
_KEYS |= {key: key for key in ("partition", "account", "qos", "constraint")}
_OURS = {"array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue", "signal"}


@dataclass
class Slurm:
    """Jobs, all of them in the queue at once unless told otherwise. What may be asked of SLURM stands in the yaml."""

    arms: Sequence[Arm]
    partition: str | None
    account: str | None
    qos: str | None
    minutes: int | None
    notice: int
    cpus: int
    memory_gb: float | None
    gpu: str | None
    constraint: str | None
    more: Sequence[str]
    setup: Sequence[str]

    def __post_init__(self) -> None:
        check_slurm("launcher=slurm")
        self._more = dict(_option(word) for word in self.more)
        self.at_once = self.arms[0].config.sweep.n_jobs or len(self.arms)
        trainers = [arm.config.trainer for arm in self.arms]
        if any(trainer.devices is None for trainer in trainers):
            raise UserError("trainer.devices=null: a job needs to know its processes: say how many, trainer.devices=N")
        if self.gpu is not None and not any(map(_on_gpu, trainers)):
            raise UserError(f"launcher.gpu={self.gpu}: no run of this sweep uses a GPU: add trainer=gpu, or leave it out")

    def start(self, entry: Entry, trainer: DictConfig, command: list[str], log: BinaryIO) -> "Job":
        place, before = Path(log.name).absolute(), Path(log.name).stat().st_size
        begin = headed(log, command)
        executor = self.executor(place.parent, f"{place.parent.name}.{entry.number}", trainer)
        with _clean_environment():
            try:
                job = executor.submit(run_arm, command, str(place))
            except RuntimeError as error:  # of sbatch
                log.truncate(before)
                _tidy(executor.folder)
                raise UserError(f"launcher=slurm: {' '.join(str(error).split())}") from error
        entry.job = job.job_id
        return Job(entry, job, place, begin)

    def executor(self, folder: Path, name: str, trainer: DictConfig) -> Any:
        """What submits one arm; its files are under .submitit/ of the sweep."""
        from submitit import SlurmExecutor

        executor = SlurmExecutor(folder / ".submitit")
        own = {"signal": f"TERM@{self.notice}", "no-requeue": True}
        gpus = trainer.devices if self.gpu is None else f"{self.gpu}:{trainer.devices}"
        executor.update_parameters(
            job_name=name,
            nodes=1,
            ntasks_per_node=trainer.devices,
            cpus_per_task=self.cpus,
            gpus_per_node=gpus if _on_gpu(trainer) else None,
            time=self.minutes,
            mem=None if self.memory_gb is None else f"{round(1024 * self.memory_gb)}M",
            partition=self.partition,
            account=self.account,
            qos=self.qos,
            constraint=self.constraint,
            setup=list(self.setup) or None,
            srun_args=[f"--cpus-per-task={self.cpus}", "--kill-on-bad-exit=1"],  # srun inherits neither
            additional_parameters=self._more | own,
        )
        return executor


class Job:
    """One in the queue, or running; `job` is submitit's."""

    def __init__(self, entry: Entry, job: Any, log: Path, begin: int) -> None:
        self.entry, self.job, self.log, self.begin, self.before = entry, job, log, begin, entry.seconds
        self.ran: float | None = None  # as it says itself, at its end
        self.signals, self.known = 0, False  # `known`: its exit code is
        self._looked = -float("inf")
        self._first: float | None = None
        self._over: float | None = None

    @classmethod
    def again(cls, entry: Entry, trainer: DictConfig, log: Path) -> "Job":
        """What an earlier sweep submitted."""
        from submitit import SlurmJob

        assert entry.job is not None
        job = SlurmJob(folder=log.absolute().parent / ".submitit", job_id=entry.job, tasks=list(range(trainer.devices)))
        printed = log.read_bytes() if log.exists() else b""
        command = max(0, printed.rfind(b"\n$ ") + 1)
        return cls(entry, job, log.absolute(), printed.find(b"\n", command) + 1)

    def poll(self) -> int | None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return None
        self._looked = now
        if self._first is None and self.log.stat().st_size > self.begin:
            self._first = now
        if not self.job.done():
            return None
        self._over = self._over or now
        tasks = [self.job.task(i) for i in range(self.job.num_tasks)]
        written = [task for task in tasks if task.paths.result_pickle.exists()]
        if len(written) < len(tasks) and self.job.state == "COMPLETED" and now - self._over < WAIT_FOR_FILES:
            return None
        return self._code(written, len(tasks))

    def _code(self, written: Sequence[Any], tasks: int) -> int:
        """The first that is not 0; 1 where a task ended without leaving any."""
        found = [task.result() if task.exception() is None else (1, 0.0) for task in written]
        self.ran = max((seconds for _, seconds in found), default=0.0)
        codes = [code for code, _ in found if code]
        self.known = bool(codes) or len(written) == tasks
        return codes[0] if codes else 0 if self.known else 1

    def send_signal(self, number: int) -> None:
        """What waits leaves the queue, what runs is told by SIGTERM; the second time both are ended by SLURM."""
        self.signals += 1
        for words in [["--state=PENDING"], ["--signal=TERM"]] if self.signals == 1 else [[]]:
            subprocess.run(
                ["scancel", *words, self.job.job_id], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )

    def printed(self, start: int) -> bytes:
        return read_from(self.log, start)

    def seconds(self) -> float:
        """Without the time in the queue."""
        so_far = 0.0 if self._first is None else time.monotonic() - self._first
        return self.before + (so_far if self.ran is None else self.ran)

    def reason(self, code: int, printed: str) -> str:
        if not self.known:
            return f"job {self.job.job_id} ended as {self.job.state}; what SLURM says: {self.job.task(0).paths.stderr}"
        if code == 128 + signal.SIGTERM and not self.signals:
            return f"SLURM stopped job {self.job.job_id}, at its time limit or for another's sake; {reason(code, printed)}"
        return reason(code, printed)


def in_queue(sweep: Path) -> set[str]:
    """The user's jobs that wait or run. Raises UserError where SLURM cannot be asked."""
    check_slurm(f"{sweep}: runs of it were submitted to SLURM, and may be in its queue")
    asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%A"], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise UserError(f"{sweep}: runs of it may be in SLURM's queue, which cannot be read: {' '.join(asked.stderr.split())}")
    return set(asked.stdout.split())


def check_slurm(what: str) -> None:
    """Raises UserError where `what` needs SLURM, and it cannot be used."""
    require("submitit", "slurm", f"{what}: ")
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        raise UserError(f"{what}: this machine has no {', '.join(missing)}; start it where SLURM's commands are")


def _option(word: str) -> tuple[str, str | bool]:
    """`--nice=100` or `--exclusive`, as submitit takes it."""
    match = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.+))?", word)
    if match is None:
        raise UserError(f"launcher.more: {word}: allowed is an option of sbatch, --name or --name=value")
    name, value = match.groups()
    if name in _KEYS:
        raise UserError(f"launcher.more: {word}: write launcher.{_KEYS[name]}=... instead")
    if name in _OURS:
        raise UserError(f"launcher.more: {word}: --{name} is set by the sweep itself")
    return name, True if value is None else value


def _on_gpu(trainer: DictConfig) -> bool:
    """`auto` too: SLURM gives a job no GPU that it does not ask for."""
    return trainer.accelerator != "cpu"


def _clean_environment() -> Any:
    """Where this is a job itself: what describes it must not describe the new ones."""
    from submitit.helpers import clean_env

    return clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext()


def _tidy(folder: Path) -> None:
    """Remove what submitit wrote for a job that was refused: the others' files have a number."""
    for path in folder.iterdir():
        if not path.is_symlink() and (path.name.startswith(".submission_file_") or re.fullmatch(r"[0-9a-f]+\.pkl", path.name)):
            path.unlink()


def run_arm(command: Sequence[str], log: str) -> tuple[int, float]:
    """In the job: what `command`, a Python with a script or `-m` and a module, does, in this very process; its exit code, and
    the seconds it took. What goes wrong unforeseen is raised, so that srun ends the other processes."""
    started = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2):  # submitit would requeue, or look away
        signal.signal(number, signal.SIG_DFL)
    with _printing_to(Path(log)):
        try:
            _run(list(command[1:]))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            raise
    return code, time.monotonic() - started


def _run(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """The first task also holds the lock, as the process of an arm does: where the disk knows locks, there is one writer."""
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
            for number, own in zip((1, 2), before, strict=True):
                os.dup2(own, number)
                os.close(own)
