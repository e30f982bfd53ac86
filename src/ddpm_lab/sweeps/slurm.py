"""`launcher=slurm`: each run of a sweep is a job of SLURM, submitted and watched by submitit.

A job has as many tasks as the run has processes, which find each other as under srun (processes.py). Each task runs train.py
within the process that srun started: a signal then reaches it exactly once, however SLURM follows what a job starts. A job is
never requeued, so its number stands for one execution; the same sweep goes on with what was cut short.
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
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from annotated_types import Ge

from ddpm_lab.domains import PositiveFloat, PositiveInt, Text, checked
from ddpm_lab.errors import UserError, require
from ddpm_lab.sweeps.launcher import Started, headed
from ddpm_lab.sweeps.plan import Plan, PlannedRun
from ddpm_lab.sweeps.state import Entry

LOOK_EVERY = 2.0
"""Seconds between looks at a job's files; submitit asks SLURM itself less and less often, at last every ten minutes."""
WAIT_FOR_FILES = 30.0
"""Seconds that a shared disk may take to show what a job wrote before it ended."""
COMMANDS = ("sbatch", "srun", "scancel", "squeue", "sacct")
_KEYS = {"time": "minutes", "cpus-per-task": "cpus", "mem": "memory_gb", "gpus-per-node": "gpu"}
_KEYS |= {key: key for key in ("partition", "account", "qos", "constraint")}
_OURS = {"array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue", "signal"}


@checked
@dataclass
class Slurm:
    """Jobs, all in the queue at once unless `sweep.n_jobs` says fewer. Arguments are options of sbatch: `minutes` is --time,
    `cpus` --cpus-per-task, `memory_gb` --mem of a job. `gpu`: kind of the GPUs, one for each process. `notice`: seconds before
    the time limit at which a run saves and ends, at least 30. `more`: other options, as written there. `setup`: lines of shell
    that run first. None leaves an option to SLURM."""

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    minutes: PositiveInt | None = None
    notice: Annotated[int, Ge(30)] = 120
    cpus: PositiveInt = 4
    memory_gb: PositiveFloat | None = None
    gpu: Text | None = None
    constraint: Text | None = None
    more: tuple[Text, ...] = ()
    setup: tuple[Text, ...] = ()
    _: KW_ONLY
    plan: Plan

    def __post_init__(self) -> None:
        check_slurm("launcher=slurm")
        self._more = dict(_option(word) for word in self.more)
        runs = self.plan.runs
        self.at_once = self.plan.n_jobs or len(runs)
        if any(run.devices is None for run in runs):
            raise UserError("trainer.devices=null: a job needs a number of processes: trainer.devices=N")
        if self.gpu is not None and not any(run.on_gpu for run in runs):
            raise UserError(f"launcher.gpu={self.gpu}: no run of this sweep uses a GPU: add trainer=gpu, or leave it out")

    def start(self, entry: Entry, run: PlannedRun, command: list[str], log: BinaryIO) -> "Job":
        place, before = Path(log.name).absolute(), Path(log.name).stat().st_size
        begin = headed(log, command)
        executor = self.executor(place.parent, f"{place.parent.name}.{entry.number}", run)
        with _clean_environment():
            try:
                job = executor.submit(run_arm, command, str(place))
            except RuntimeError as error:  # of sbatch
                log.truncate(before)
                _tidy(executor.folder)
                raise UserError(f"launcher=slurm: {' '.join(str(error).split())}") from error
        entry.job = job.job_id
        return Job(entry, job, place, begin)

    def executor(self, folder: Path, name: str, run: PlannedRun) -> Any:
        """submitit's executor for one job. Its files are under .submitit/ of the sweep."""
        from submitit import SlurmExecutor

        executor = SlurmExecutor(folder / ".submitit")
        gpus = run.devices if self.gpu is None else f"{self.gpu}:{run.devices}"
        executor.update_parameters(
            job_name=name,
            nodes=1,
            ntasks_per_node=run.devices,
            cpus_per_task=self.cpus,
            gpus_per_node=gpus if run.on_gpu else None,
            time=self.minutes,
            mem=None if self.memory_gb is None else f"{round(1024 * self.memory_gb)}M",
            partition=self.partition,
            account=self.account,
            qos=self.qos,
            constraint=self.constraint,
            setup=list(self.setup) or None,
            srun_args=[f"--cpus-per-task={self.cpus}", "--kill-on-bad-exit=1"],  # srun inherits neither
            additional_parameters=self._more | {"signal": f"TERM@{self.notice}", "no-requeue": True},
        )
        return executor


class Job(Started):
    """In the queue, or running. `job` is submitit's."""

    def __init__(self, entry: Entry, job: Any, log: Path, begin: int) -> None:
        super().__init__(entry, log, begin)
        self.job, self.signals, self.code_known = job, 0, False
        self._measured: float | None = None  # seconds, by the job itself
        self._looked = -float("inf")
        self._first: float | None = None
        self._over: float | None = None

    @classmethod
    def again(cls, entry: Entry, run: PlannedRun, log: Path) -> "Job":
        """A job that an earlier sweep submitted."""
        from submitit import SlurmJob

        assert entry.job is not None
        assert run.devices is not None
        job = SlurmJob(folder=log.absolute().parent / ".submitit", job_id=entry.job, tasks=list(range(run.devices)))
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
        """The first exit code that is not 0; 1 if a task left none."""
        results = [task.result() if task.exception() is None else (1, 0.0) for task in written]
        self._measured = max((seconds for _, seconds in results), default=0.0)
        codes = [code for code, _ in results if code]
        self.code_known = bool(codes) or len(written) == tasks
        return codes[0] if codes else 0 if self.code_known else 1

    def send_signal(self, number: int) -> None:
        """A job that waits leaves the queue, one that runs gets SIGTERM. The second time SLURM ends both."""
        self.signals += 1
        for words in [["--state=PENDING"], ["--signal=TERM"]] if self.signals == 1 else [[]]:
            subprocess.run(["scancel", *words, self.job.job_id], capture_output=True, check=False)

    def ran(self) -> float:
        """The time in the queue does not count."""
        so_far = 0.0 if self._first is None else time.monotonic() - self._first
        return so_far if self._measured is None else self._measured

    def reason(self, code: int) -> str:
        if not self.code_known:
            return f"job {self.job.job_id} ended as {self.job.state}; SLURM's own messages: {self.job.task(0).paths.stderr}"
        if code == 128 + signal.SIGTERM and not self.signals:
            return f"SLURM stopped job {self.job.job_id}, at its time limit or by preemption; {super().reason(code)}"
        return super().reason(code)


def in_queue(sweep: Path) -> set[str]:
    """Numbers of the user's jobs that wait or run. Raises UserError if SLURM cannot be asked."""
    check_slurm(f"{sweep}: runs of it were submitted to SLURM, and may be in its queue")
    asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%A"], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise UserError(f"{sweep}: runs of it may be in SLURM's queue, which cannot be read: {' '.join(asked.stderr.split())}")
    return set(asked.stdout.split())


def check_slurm(reason: str) -> None:
    """Raises UserError that begins with `reason` if SLURM cannot be used here."""
    require("submitit", "slurm", f"{reason}: ")
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        raise UserError(f"{reason}: this machine has no {', '.join(missing)}; start it where SLURM's commands are")


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


def _clean_environment() -> Any:
    """Without the variables of the job that this process may itself be: they do not describe the new one."""
    from submitit.helpers import clean_env

    return clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext()


def _tidy(folder: Path) -> None:
    """Removes submitit's files of a job that was refused. Those of other jobs have a number in their names."""
    for path in folder.iterdir():
        if not path.is_symlink() and (path.name.startswith(".submission_file_") or re.fullmatch(r"[0-9a-f]+\.pkl", path.name)):
            path.unlink()


def run_arm(command: Sequence[str], log: str) -> tuple[int, float]:
    """Runs inside the job: executes `command`, a Python with a script or with -m and a module, in this very process. Returns
    its exit code and the seconds it took. An unforeseen exception is raised, so that srun ends the other processes."""
    started = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2):  # submitit would requeue, or ignore it
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
