"""What SLURM says of the user's jobs: one question for all of them, asked again every ten seconds."""

import re
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from ddpm_lab.sweeps.report import say

ASK_EVERY = 10.0
"""Seconds between questions to SLURM."""
ASK_AGAIN = 5.0
"""The same once a signal was sent."""
TIMEOUT = 10.0
"""Seconds that one command of SLURM may take."""
SQUEUE = ["squeue", "--me", "--states=all", "--noheader", "--format=%A|%T|%M|%r"]
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
"""States of a job that is over. In every other one, SUSPENDED included, it is alive."""


class JobState(NamedTuple):
    """What SLURM says of a job. `seconds`: how long it has run; `reason`: why it waits."""

    state: str
    seconds: float
    reason: str


class Queue:
    """A snapshot of the user's jobs. If SLURM does not answer, the last one stays. `taken`: when it was asked for, by
    time.monotonic()."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobState] = {}
        self.taken = self._asked = -float("inf")
        self.error = ""
        self._every, self._to_end, self._to_stop = ASK_EVERY, list[str](), list[str]()
        self._given = {"None"}  # reasons to wait

    def look(self) -> None:
        """Passes signals on. Takes a new snapshot if the last one is old."""
        self._send()
        if (now := time.monotonic()) - self._asked < self._every:
            return
        before = self.error
        self.error, answer = _asked(SQUEUE)
        self._asked = time.monotonic()
        if self.error and not before:
            say(f"SLURM's queue cannot be read, and is asked again: {self.error}")
        if not self.error:
            lines = [line.split("|", 3) for line in answer.splitlines() if line.count("|") >= 3]
            self.jobs = {job: JobState(state, seconds(elapsed), reason) for job, state, elapsed, reason in lines}
            self.taken = now

    def alive(self, job: str) -> bool:
        return job in self.jobs and self.jobs[job].state not in ENDED

    def ended_well(self, job: str) -> bool:
        return job in self.jobs and self.jobs[job].state == "COMPLETED"

    def seconds(self, job: str) -> float:
        """How long a job has run; 0 if nothing is known of it."""
        if job not in self.jobs:
            return 0.0
        since = time.monotonic() - self.taken if self.jobs[job].state == "RUNNING" else 0.0
        return self.jobs[job].seconds + since

    def why_waiting(self, job: str) -> str:
        """Empty if the job does not wait, or if this reason was given before."""
        known = self.jobs.get(job)
        if known is None or known.state != "PENDING" or known.reason in self._given:
            return ""
        self._given.add(known.reason)
        return known.reason

    def end_of(self, job: str) -> str:
        """The state in which a job ended, or that nobody knows it."""
        if job in self.jobs:
            return f"ended as {self.jobs[job].state}"
        error, state = _asked(["sacct", "-j", job, "-X", "-n", "-P", "-o", "State"])
        return f"ended as {state.split()[0]}" if state.split() and not error else "has ended, and SLURM no longer knows why"

    def stop(self, job: str, at_once: bool) -> None:
        """A job that waits leaves the queue, one that runs gets SIGTERM; `at_once`: SLURM ends it."""
        (self._to_end if at_once else self._to_stop).append(job)

    def _send(self) -> None:
        """One command for all jobs. Those that wait leave first: none starts between the two."""
        if self._to_stop:
            _asked(["scancel", "--state=PENDING", *self._to_stop])
            _asked(["scancel", "--signal=TERM", *self._to_stop])
        if self._to_end:
            _asked(["scancel", *self._to_end])
        if self._to_stop or self._to_end:
            self._every, self._to_stop, self._to_end = min(self._every, ASK_AGAIN), [], []


def _asked(command: Sequence[str]) -> tuple[str, str]:
    """The error, in one line, and the answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split()), ""
    return (" ".join(done.stderr.split()) or f"exit code {done.returncode}") if done.returncode else "", done.stdout


def seconds(elapsed: str) -> float:
    """Of days-hours:minutes:seconds, as squeue writes them; days and hours may lack. 0 for a text that is none."""
    if not (match := re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", elapsed)):
        return 0.0
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + rest)
