"""`python train.py -m`: every run of a sweep in a process of its own, one after another or `sweep.n_jobs` at once.

A run may be several processes (trainer=ddp), run out of memory or be killed, and takes no other with it. Each is started by a
command line that a user could type: `train.py OVERRIDES`, or `train.py resume=FOLDER` if it has a checkpoint, or with
`run.trained_in=FOLDER` if another run has trained its network. It holds a lock on its log while it lives, even if the sweep
that started it is killed.
"""

import fcntl
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from ddpm_lab import signals
from ddpm_lab.errors import UserError
from ddpm_lab.sweeps.launcher import Launcher, Started
from ddpm_lab.sweeps.plan import Plan
from ddpm_lab.sweeps.quoting import argument
from ddpm_lab.sweeps.report import Report, say
from ddpm_lab.sweeps.search import Search
from ddpm_lab.sweeps.sharing import Sharing
from ddpm_lab.sweeps.state import Entry, Sweep, entry_of, finished, opened

POLL = 0.1
"""Seconds between looks at the processes."""
TRY_AGAIN = 30.0
"""Seconds until a full launcher is asked again. A run that has just ended may hold its place twice as long."""
GRACE = 60.0
"""Seconds that runs have to save and end if the sweep itself cannot go on."""


def run_sweep(plan: Plan, launcher: Launcher) -> int:
    """Runs what is not done yet. Returns the exit code: 0 if all is done, 1 if a run failed, 128 + n if stopped by signal n."""
    with opened(plan) as sweep:
        return _Runner(sweep, plan, launcher).run()


class _Runner:
    def __init__(self, sweep: Sweep, plan: Plan, launcher: Launcher) -> None:
        self.sweep, self.plan, self.launcher = sweep, plan, launcher
        self.search = Search(sweep, plan.runs, plan.search) if plan.search else None
        self.at_once = plan.n_jobs or 1 if self.search else launcher.at_once
        common = set.intersection(*(set(run.overrides) for run in plan.runs))
        total = max(self.search.trials, len(sweep.entries)) if self.search else len(plan.runs)
        self.report = Report(sweep, self.at_once, plan.show, common, total)
        self.waiting = [entry for entry in sweep.entries if entry.state != "done"]
        self.runs = {run.identity: run for run in plan.runs}
        if plan.search:
            self.runs |= {entry.config: plan.search.plan(entry.overrides) for entry in self.waiting}
        self.sharing = Sharing(sweep, self.runs)
        self.running: list[Started] = []
        self.signal = 0
        self.to_pass_on: list[int] = []
        self.not_before = self.last_end = -float("inf")

    def run(self) -> int:
        self.report.begin(self.plan.notes, self.sharing.measured_alone())
        self._ask()
        if self.waiting:
            with signals.heard(self._on_signal):
                self._watch()
            self.report.finish(bool(self.signal))
        if self.search:
            self.report.best(self.search.metric, self.search.ranking(), self.plan.again)
        return 128 + self.signal if self.signal else int(any(entry.state != "done" for entry in self.sweep.entries))

    def _watch(self) -> None:
        """Starts runs and looks after them until none is left, or after a signal until those under way have ended."""
        for entry in self.waiting:
            entry.state = "waiting" if entry.state == "failed" else entry.state
        self._rejoin()
        try:
            while self.running or (self.waiting and not self.signal):
                self._fill()
                self._pass_on()
                time.sleep(POLL)
                for process in list(self.running):
                    self._look(process)
                self._ask()
        except BaseException:  # as on a full disk: no run is left unwatched
            self._end()
            raise

    def _end(self) -> None:
        """Tells what runs to save and end, and gives it time to."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE
        while time.monotonic() < until and any(process.poll() is None for process in self.running):
            time.sleep(POLL)

    def _ask(self) -> None:
        """Asks a search for its next runs."""
        while self.search and not self.signal and len(self.running) + len(self.waiting) < self.at_once:
            run = self.search.ask()
            if run is None:
                return
            entry = entry_of(len(self.sweep.entries), run)
            self.runs[entry.config] = run
            self.sweep.entries.append(entry)
            self.waiting.append(entry)
            self.sweep.save()

    def _rejoin(self) -> None:
        """Watches the jobs that SLURM still has of a sweep that was killed."""
        submitted = [entry for entry in self.waiting if entry.job]
        if not submitted:
            return
        from ddpm_lab.sweeps.slurm import Job, Queue, Slurm, asked

        queue = asked(self.sweep.folder, self.launcher.queue if isinstance(self.launcher, Slurm) else Queue())
        for entry in submitted:
            if entry.job and queue.alive(entry.job):
                self.report.wait(entry)
                self.waiting.remove(entry)
                self.running.append(Job.again(entry, self.runs[entry.config], queue, self.sweep.log(entry)))
                entry.state = "running"
            else:
                entry.job = None

    def _fill(self) -> None:
        for entry in list(self.waiting):
            if self.signal or len(self.running) >= self.at_once or time.monotonic() < self.not_before:
                return
            if self.sharing.must_wait(entry, self.waiting):
                continue
            with self.sweep.opened_log(entry) as log:
                try:
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # held by a process of a sweep that was killed
                    self.report.wait(entry)
                    continue
                self.waiting.remove(entry)
                self._start(entry, log)

    def _start(self, entry: Entry, log: BinaryIO) -> None:
        if finished(self.sweep.place(entry), entry.max_steps):  # by a process of a sweep that was killed
            self._over(entry, 0, "")
            return
        goes_on = entry.network_of is None and self.sweep.checkpoint(entry).exists()
        words = [argument("resume", self.sweep.place(entry))] if goes_on else self._from_the_start(entry)
        try:
            process = self.launcher.start(entry, self.runs[entry.config], [*self.plan.program, *words], log)
        except UserError as error:
            self._later(entry, error)
            return
        self.running.append(process)
        entry.state, entry.exit_code = "running", None
        self.sweep.save()
        self.report.start(entry, goes_on)

    def _from_the_start(self, entry: Entry) -> list[str]:
        """The arguments of a run without a checkpoint of its own. Sets `network_of`."""
        folder, source = self.sweep.place(entry), self.sharing.source(entry)
        _clear(folder)
        entry.seconds, entry.network_of = 0.0, None if source is None else source.number
        words = [word for word in entry.overrides if not word.lstrip("+").startswith(("run.root=", "run.experiment="))]
        places = {"root": folder.parents[1], "experiment": folder.parent.name, "name": folder.name}
        words += [*self.plan.alone, *(argument(f"run.{key}", place) for key, place in places.items())]
        if source is not None:
            words.append(argument("run.trained_in", self.sweep.place(source)))
        names = {"group": self.sweep.folder.name, "name": self.report.label(entry)}
        return words + [argument(f"logger.{key}", names[key]) for key in self.runs[entry.config].unnamed]

    def _later(self, entry: Entry, error: UserError) -> None:
        """A full queue may take the run when another has ended. If none of this sweep can be in it, `error` is final."""
        now = time.monotonic()
        if not (self.running or self.signal or now < self.last_end + 2 * TRY_AGAIN):
            raise error
        if not self.signal and self.not_before < 0:
            say(f"{error}; asking again as others end")
        self.waiting.insert(0, entry)
        self.not_before = now + TRY_AGAIN

    def _look(self, process: Started) -> None:
        code = process.poll()
        self.report.show(process)
        if news := process.news():
            say(f"{self.report.name(process.entry)}: {news}")
        if code is None and process.given_up():
            self.running.remove(process)
            process.entry.state = "stopped"
            self.sweep.save()
            self.report.leave(process.entry)
        elif code is not None:
            self.running.remove(process)
            process.entry.seconds, self.last_end = round(process.seconds(), 2), time.monotonic()
            self._over(process.entry, code, process.reason(code))

    def _over(self, entry: Entry, code: int, why: str) -> None:
        done = code == 0 and (entry.fast_dev_run or finished(self.sweep.place(entry), entry.max_steps))
        entry.state, entry.exit_code, entry.job = "done" if done else "stopped" if self.signal else "failed", code, None
        self.sweep.save()
        self.report.end(entry, "" if done else why, [(process.entry, process.seconds()) for process in self.running])
        if self.search:
            self.search.tell(entry)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            say("\nstopping: what runs saves a checkpoint first; once more to stop at once")
        self.signal = self.signal or number
        self.to_pass_on.append(number)

    def _pass_on(self) -> None:
        """Not in the handler: a run that was being started when the signal came gets it too."""
        while self.to_pass_on:
            number = self.to_pass_on.pop(0)
            for process in self.running:
                process.send_signal(number)


def _clear(folder: Path) -> None:
    """Removes what a run left that ended before its first checkpoint. Measured numbers are never removed."""
    if (folder / "summary.json").exists():
        raise UserError(f"{folder}: measured, but not as this sweep asks for, and nothing is overwritten: move it away")
    shutil.rmtree(folder, ignore_errors=True)
