"""`python train.py -m`: every arm of a sweep in a process of its own, one after another or `sweep.n_jobs` at once.

A process can be several (trainer=ddp), can run out of memory or be killed, and takes no other arm with it. Each is started as a
user would start it, `train.py OVERRIDES`, or `train.py resume=FOLDER` where it has a checkpoint, by a launcher: here, or as a
job of SLURM. It holds a lock on its log as long as it lives, whatever happened to who started it.
"""

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from ddpm_lab import processes
from ddpm_lab.config.preflight import Arm
from ddpm_lab.config.resume import finished
from ddpm_lab.errors import UserError
from ddpm_lab.sweeps.launchers import Launcher, Started, chosen
from ddpm_lab.sweeps.record import Entry, Sweep, entry_of, identity, opened
from ddpm_lab.sweeps.report import Report, say
from ddpm_lab.sweeps.search import Search, check, is_search

POLL = 0.1
"""Seconds between looks at the processes."""
TRY_AGAIN = 30.0
"""Seconds until a launcher is asked again that could take no arm; what has just ended may hold its place for twice as long."""
GRACE = 60.0
"""Seconds that arms have to end where the sweep itself cannot go on."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def sweep(arms: Sequence[Arm], passed_on: Sequence[str]) -> int:
    """Run what is not done yet; the exit code: 0 if all is, 1 if an arm failed, 128 + n if stopped by signal n."""
    if processes.started() > 1:
        raise UserError("-m: a sweep starts its processes itself: start it once, without torchrun or srun, with trainer=ddp")
    if "WANDB_SWEEP_ID" in os.environ:
        raise UserError("-m: wandb agent starts one run at a time, and all arms would be that run: leave -m away")
    launcher = chosen(arms)
    if is_search(arms):
        check(arms)
    else:
        arms = _once(arms)
    with opened(arms) as found:
        return _Runner(found, arms, launcher, passed_on).run()


def _once(arms: Sequence[Arm]) -> list[Arm]:
    """Without those that are the same run as one before."""
    found: dict[str, Arm] = {}
    for arm in arms:
        first = found.setdefault(identity(arm.config), arm)
        if first is not arm:
            say(f"left out, as it is the same run as {' '.join(first.overrides)}: {' '.join(arm.overrides)}")
    return list(found.values())


class _Runner:
    def __init__(self, sweep: Sweep, arms: Sequence[Arm], launcher: Launcher, passed_on: Sequence[str]) -> None:
        settings = arms[0].config.sweep
        self.sweep, self.launcher, self.passed_on = sweep, launcher, list(passed_on)
        self.search = Search(sweep, arms, passed_on) if is_search(arms) else None
        self.at_once = settings.n_jobs or 1 if self.search else launcher.at_once
        common = set.intersection(*(set(arm.overrides) for arm in arms))
        total = max(self.search.trials, len(sweep.entries)) if self.search else len(arms)
        self.report = Report(sweep, self.at_once, settings.show, common, total)
        self.configs = {identity(arm.config): arm.config for arm in arms}
        self.waiting = [entry for entry in sweep.entries if entry.state != "done"]
        if self.search:
            self.configs |= {entry.config: self.search.arm(entry.overrides).config for entry in self.waiting}
        self.running: list[Started] = []
        self.signal = 0
        self.to_pass_on: list[int] = []
        self.not_before = self.last_end = -float("inf")

    def run(self) -> int:
        self.report.begin()
        self._ask()
        if not self.waiting:
            self._best()
            return 0
        for entry in self.waiting:
            entry.state = "waiting" if entry.state == "failed" else entry.state
        self._rejoin()
        with self._listening():
            try:
                while self.running or (self.waiting and not self.signal):
                    self._turn()
            except BaseException:  # a full disk, say: nothing is left behind that nobody watches
                self._end()
                raise
        self.report.finish(bool(self.signal))
        self._best()
        return 128 + self.signal if self.signal else int(any(entry.state != "done" for entry in self.sweep.entries))

    def _end(self) -> None:
        """What runs is told to save and end, and has some time for it."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE
        while time.monotonic() < until and any(process.poll() is None for process in self.running):
            time.sleep(POLL)

    def _turn(self) -> None:
        self._fill()
        self._pass_on()
        time.sleep(POLL)
        for process in list(self.running):
            self._look(process)
        self._ask()

    def _ask(self) -> None:
        """Of a search, the next arms."""
        while self.search and not self.signal and len(self.running) + len(self.waiting) < self.at_once:
            arm = self.search.ask()
            if arm is None:
                return
            entry = entry_of(len(self.sweep.entries), arm)
            self.configs[entry.config] = arm.config
            self.sweep.entries.append(entry)
            self.waiting.append(entry)
            self.sweep.save()

    def _best(self) -> None:
        if self.search:
            self.report.best(self.search.metric, self.search.ranking(), self.passed_on)

    def _rejoin(self) -> None:
        """Watch the jobs that SLURM still has of a sweep that was killed."""
        submitted = [entry for entry in self.waiting if entry.job]
        if not submitted:
            return
        from ddpm_lab.sweeps.slurm import Job, in_queue

        queue = in_queue(self.sweep.folder)
        for entry in submitted:
            if entry.job in queue:
                self.report.wait(entry)
                self.waiting.remove(entry)
                self.running.append(Job.again(entry, self.configs[entry.config].trainer, self.sweep.log(entry)))
                entry.state = "running"
            else:
                entry.job = None

    def _fill(self) -> None:
        for entry in list(self.waiting):
            if self.signal or len(self.running) >= self.at_once or time.monotonic() < self.not_before:
                return
            with self.sweep.opened_log(entry) as log:
                try:
                    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # a process of a sweep that was killed still runs it
                    self.report.wait(entry)
                    continue
                self.waiting.remove(entry)
                self._start(entry, log)

    def _start(self, entry: Entry, log: BinaryIO) -> None:
        folder = self.sweep.place(entry)
        if finished(folder, entry.max_steps):  # by such a process
            self._over(entry, 0, "")
            return
        goes_on = (folder / "checkpoints" / "last.ckpt").exists()
        if goes_on:
            words = [f"resume={_quoted(folder)}"]
        else:
            _clear(folder)
            entry.seconds = 0.0
            words = [word for word in entry.overrides if not word.lstrip("+").startswith(("run.root=", "run.experiment="))]
            words += ["sweep=none", "sweep.arms=[]", "launcher=local", f"run.root={_quoted(folder.parents[1])}"]
            words += [f"run.experiment={_quoted(folder.parent.name)}", f"run.name={_quoted(folder.name)}"]
            words += self._together(entry)
        try:
            process = self.launcher.start(entry, self.configs[entry.config].trainer, [*program(), *self.passed_on, *words], log)
        except UserError as error:
            self._later(entry, error)
            return
        self.running.append(process)
        entry.state, entry.exit_code = "running", None
        self.sweep.save()
        self.report.start(entry, goes_on)

    def _together(self, entry: Entry) -> list[str]:
        """For a logger that knows groups: the arms of a sweep are one, each named by what tells it apart, unless typed; also
        those that go on from a run with other names."""
        config, typed = self.configs[entry.config], {word.lstrip("+").partition("=")[0] for word in entry.overrides}
        own = {"group": self.sweep.folder.name, "name": self.report.label(entry)}
        free = [key for key in own if key in config.logger and (config.logger[key] is None or config.resume is not None)]
        return [f"logger.{key}={_quoted(own[key])}" for key in free if f"logger.{key}" not in typed]

    def _later(self, entry: Entry, error: UserError) -> None:
        """A queue that is full takes the next arm when one has ended; if none of ours can be in it, `error` is final."""
        now = time.monotonic()
        if not (self.running or self.signal or now < self.last_end + 2 * TRY_AGAIN):
            raise error
        if not self.signal and self.not_before < 0:
            say(f"{error}; asking again as others end")
        self.waiting.insert(0, entry)
        self.not_before = now + TRY_AGAIN

    def _look(self, process: Started) -> None:
        code = process.poll()
        self.report.show(process.entry, process.printed, process.begin)
        if code is not None:
            self.running.remove(process)
            process.entry.seconds, self.last_end = round(process.seconds(), 2), time.monotonic()
            self._over(process.entry, code, process.reason(code, process.printed(process.begin).decode(errors="replace")))

    def _over(self, entry: Entry, code: int, why: str) -> None:
        done = code == 0 and (entry.fast_dev_run or finished(self.sweep.place(entry), entry.max_steps))
        entry.state, entry.exit_code, entry.job = "done" if done else "stopped" if self.signal else "failed", code, None
        self.sweep.save()
        self.report.end(entry, "" if done else why, [process.seconds() for process in self.running])
        if self.search:
            self.search.tell(entry)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP]
        before = {number: signal.signal(number, self._on_signal) for number in heard}  # nohup has had it ignored
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            say("\nstopping: what runs saves a checkpoint first; once more to stop at once")
        self.signal = self.signal or number
        self.to_pass_on.append(number)

    def _pass_on(self) -> None:
        """Here and not as a signal comes, so that an arm which is being started then hears of it."""
        while self.to_pass_on:
            number = self.to_pass_on.pop(0)
            for process in self.running:
                process.send_signal(number)


def _clear(folder: Path) -> None:
    """What is left of one that ended before its first checkpoint. Numbers that were measured are nobody's to remove."""
    if (folder / "summary.json").exists():
        raise UserError(f"{folder}: measured, but not as this sweep asks for, and nothing is overwritten: move it away")
    shutil.rmtree(folder, ignore_errors=True)


def program() -> list[str]:
    """How to start this program again."""
    started = Path(sys.argv[0])
    return [sys.executable, *([str(started)] if started.is_file() else ["-m", "ddpm_lab.cli.train"])]


def _quoted(text: Path | str) -> str:
    """As a value on the command line that is read as this very text."""
    try:
        plain = OverridesParser.create().parse_override(f"key={text}").value() == str(text)
    except HydraException:
        plain = False
    return str(text) if plain else QuotedString(str(text), Quote.single).with_quotes()
