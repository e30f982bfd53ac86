"""`launcher=slurm`: each run of a sweep is a job of SLURM, submitted by submitit and watched through squeue (queue.py).

A job has as many tasks as the run has processes, which find each other as under srun (processes.py). Each task runs train.py
within the process that srun started: a signal then reaches it exactly once, however SLURM follows what a job starts. A job is
never requeued, so its number stands for one execution; the same sweep goes on with what was cut short.
"""

import os
import re
import shutil
import signal
import time
from contextlib import nullcontext, redirect_stderr
from dataclasses import KW_ONLY, dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from annotated_types import Ge

from ddpm_lab.domains import PositiveFloat, PositiveInt, Text, checked
from ddpm_lab.errors import UserError, require
from ddpm_lab.sweeps.arm import Result, read_result, result_path, run_arm
from ddpm_lab.sweeps.launcher import Started, headed
from ddpm_lab.sweeps.plan import Plan, PlannedRun
from ddpm_lab.sweeps.queue import Queue
from ddpm_lab.sweeps.state import Entry

LOOK_EVERY = 2.0
"""Seconds between looks at a job's files."""
WAIT_FOR_FILES = {True: 30.0, False: 3.0}
"""Seconds that a shared disk may take to show what a job wrote before it ended; of one that ended well, something is there."""
PATIENCE = (50.0, 40.0)
"""Seconds that jobs are waited for after a first and a second signal. SLURM kills what it ends after 30 s (KillWait)."""
SAY_WHY_AFTER = 60.0
"""Seconds in the queue after which a job says why it waits."""
START_UP = 60
"""Seconds until a run trains."""
FOLDER = ".submitit"
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
        least = (self.notice + START_UP) // 60 + 1
        if self.minutes is not None and self.minutes < least:
            raise UserError(
                f"launcher.minutes={self.minutes}: a run starts for a minute, and saves launcher.notice={self.notice} seconds "
                f"before that limit: allowed is at least {least}, or a smaller launcher.notice"
            )
        self.queue = Queue()
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
        with _clean_environment(), redirect_stderr(StringIO()):  # submitit prints there what it raises
            try:
                job = executor.submit(run_arm, command, str(place))
            except RuntimeError as error:  # of sbatch
                log.truncate(before)
                _tidy(executor.folder)
                raise UserError(f"launcher=slurm: {_refusal(str(error))}") from error
        assert run.devices is not None
        entry.job = job.job_id
        return Job(entry, run.devices, self.queue, place, begin)

    def executor(self, folder: Path, name: str, run: PlannedRun) -> Any:
        """submitit's executor for one job. Its files are under .submitit/ of the sweep."""
        from submitit import SlurmExecutor

        executor = SlurmExecutor(folder / FOLDER)
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
    """In the queue, or running, as `tasks` tasks."""

    def __init__(self, entry: Entry, tasks: int, queue: Queue, log: Path, begin: int) -> None:
        super().__init__(entry, log, begin)
        assert entry.job is not None
        self.number, self.tasks, self.queue = entry.job, tasks, queue
        self.submitted, self.signals, self.results = time.monotonic(), 0, dict[int, Result]()
        self._looked, self._until, self._over, self._ran = -float("inf"), float("inf"), float("inf"), 0.0

    @classmethod
    def again(cls, entry: Entry, run: PlannedRun, queue: Queue, log: Path) -> "Job":
        """A job that an earlier sweep submitted, and that is alive in `queue`."""
        assert run.devices is not None
        printed = log.read_bytes() if log.exists() else b""
        command = max(0, printed.rfind(b"\n$ ") + 1)
        job = cls(entry, run.devices, queue, log.absolute(), printed.find(b"\n", command) + 1)
        job.submitted = -float("inf")
        return job

    def poll(self) -> int | None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return None
        self._looked = now
        self.queue.look()
        for task in set(range(self.tasks)) - self.results.keys():
            if (path := self._path(task)).exists():
                self.results[task] = read_result(path)
        if not (self._complete() or self._has_ended(now)):
            return None
        codes = [result.code for _, result in sorted(self.results.items()) if result.code]
        return codes[0] if codes else 0 if self._complete() else 1

    def _path(self, task: int) -> Path:
        return result_path(self.log.parent / FOLDER, self.number, task)

    def _complete(self) -> bool:
        return len(self.results) == self.tasks

    def _has_ended(self, now: float) -> bool:
        """Whether SLURM says so, for long enough that a shared disk shows what the job wrote."""
        if self.queue.taken < self.submitted or self.queue.alive(self.number):
            self._over = float("inf")
            return False
        self._over = min(self._over, now)
        return now - self._over >= WAIT_FOR_FILES[self.queue.ended_well(self.number)]

    def send_signal(self, number: int) -> None:
        """The second time SLURM ends the job."""
        self.signals, self._looked = self.signals + 1, -float("inf")
        if self.signals <= len(PATIENCE):
            self._until = time.monotonic() + PATIENCE[self.signals - 1]
        self.queue.stop(self.number, at_once=self.signals > 1)

    def given_up(self) -> bool:
        return time.monotonic() > self._until

    def ran(self) -> float:
        """The time in the queue does not count."""
        if self._complete():
            return max(result.seconds for result in self.results.values())
        self._ran = self.queue.seconds(self.number) or self._ran
        return self._ran

    def news(self) -> str:
        waits = time.monotonic() - self.submitted >= SAY_WHY_AFTER and self.queue.why_waiting(self.number)
        return f"job {self.number} waits in SLURM's queue: {waits}" if waits else ""

    def reason(self, code: int) -> str:
        if fault := next((result.fault for result in self.results.values() if result.fault), ""):
            return f"exit code {code}: {fault}"
        if not (self._complete() or any(result.code for result in self.results.values())):
            messages = self.log.parent / FOLDER / f"{self.number}_0_log.err"
            return f"job {self.number} {self.queue.end_of(self.number)}; SLURM's own messages: {messages}"
        if code == 128 + signal.SIGTERM and not self.signals:
            return f"SLURM stopped job {self.number}, at its time limit or by preemption; {super().reason(code)}"
        return super().reason(code)


def asked(sweep: Path, queue: Queue) -> Queue:
    """The queue, with a first snapshot. Raises UserError if SLURM cannot be asked."""
    check_slurm(f"{sweep}: runs of it were submitted to SLURM, and may be in its queue")
    queue.look()
    if queue.error:
        raise UserError(f"{sweep}: runs of it may be in SLURM's queue, which cannot be read: {queue.error}")
    return queue


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


def _refusal(text: str) -> str:
    """Of what sbatch printed, the first error."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), " ".join(lines))


def _clean_environment() -> Any:
    """Without the variables of the job that this process may itself be: they do not describe the new one."""
    from submitit.helpers import clean_env

    return clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext()


def _tidy(folder: Path) -> None:
    """Removes submitit's files of a job that was refused. Those of other jobs have a number in their names."""
    for path in folder.iterdir():
        if not path.is_symlink() and (path.name.startswith(".submission_file_") or re.fullmatch(r"[0-9a-f]+\.pkl", path.name)):
            path.unlink()
