"""`python train.py -m`: every arm of a sweep in a process of its own, one after another or `sweep.n_jobs` at once.

A process can be several (trainer=ddp), can run out of memory or be killed, and takes no other arm with it. Each is started as a
user would start it, `train.py OVERRIDES`, or `train.py resume=FOLDER` where it has a checkpoint; in a session of its own, so
that Ctrl-C comes to it once, from here. It holds a lock on its log as long as it lives, whatever happened to who started it.
"""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
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

from ddpm_lab.cli import processes
from ddpm_lab.cli.preflight import Arm
from ddpm_lab.cli.sweep_record import Entry, Sweep, identity, opened
from ddpm_lab.cli.sweep_report import Report, reason, say
from ddpm_lab.errors import UserError
from ddpm_lab.resume import finished

POLL = 0.1
"""Seconds between looks at the processes."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def sweep(arms: Sequence[Arm], passed_on: Sequence[str]) -> int:
    """Run what is not done yet; the exit code: 0 if all is, 1 if an arm failed, 128 + n if stopped by signal n."""
    if processes.started() > 1:
        raise UserError("-m: a sweep starts its processes itself: start it once, without torchrun or srun, with trainer=ddp")
    if "WANDB_SWEEP_ID" in os.environ:
        raise UserError("-m: wandb agent starts one run at a time, and all arms would be that run: leave -m away")
    with opened(arms) as found:
        return _Runner(found, arms, passed_on).run()


class _Process:
    """One that runs an arm, and has the devices that it was dealt."""

    def __init__(
        self, entry: Entry, command: list[str], log: BinaryIO, environment: dict[str, str], devices: list[str]
    ) -> None:
        self.entry, self.devices, self.before, self.started = entry, devices, entry.seconds, time.monotonic()
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        self.log = Path(log.name)
        self.begin = self.log.stat().st_size
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def printed(self, start: int) -> bytes:
        """The log from byte `start`."""
        with self.log.open("rb") as file:
            file.seek(start)
            return file.read()

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started


class _Runner:
    def __init__(self, sweep: Sweep, arms: Sequence[Arm], passed_on: Sequence[str]) -> None:
        settings = arms[0].config.sweep
        self.sweep, self.at_once, self.passed_on = sweep, settings.n_jobs, list(passed_on)
        self.report = Report(sweep, self.at_once, settings.show)
        self.configs = {identity(arm.config): arm.config for arm in arms}
        on_gpu = any(config.trainer.accelerator != "cpu" for config in self.configs.values())
        self.devices = cuda_devices() if self.at_once > 1 and on_gpu else []
        self.waiting = [entry for entry in sweep.entries if entry.state != "done"]
        self.running: list[_Process] = []
        self.signal = 0

    def run(self) -> int:
        self.report.begin()
        if not self.waiting:
            return 0
        for entry in self.waiting:
            entry.state = "waiting" if entry.state == "failed" else entry.state
        with self._listening():
            while self.running or (self.waiting and not self.signal):
                self._fill()
                time.sleep(POLL)
                for process in list(self.running):
                    self._look(process)
        self.report.finish(bool(self.signal))
        return 128 + self.signal if self.signal else int(any(entry.state != "done" for entry in self.sweep.entries))

    def _fill(self) -> None:
        for entry in list(self.waiting):
            if self.signal or len(self.running) >= self.at_once:
                return
            with self.sweep.log(entry).open("ab") as log:
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
            shutil.rmtree(folder, ignore_errors=True)  # of one that ended before its first checkpoint
            words = [word for word in entry.overrides if not word.lstrip("+").startswith(("run.root=", "run.experiment="))]
            words += ["sweep=none", f"run.root={_quoted(folder.parents[1])}", f"run.experiment={_quoted(folder.parent.name)}"]
            words += [f"run.name={_quoted(folder.name)}", *self._together(entry)]
        entry.state, entry.exit_code = "running", None
        self.sweep.save()
        self.report.start(entry, goes_on)
        devices = self._dealt(entry)
        command = [*program(), *self.passed_on, *words]
        self.running.append(_Process(entry, command, log, self._environment(devices), devices))

    def _together(self, entry: Entry) -> list[str]:
        """For a logger that knows groups: the arms of a sweep are one, each named by what tells it apart, unless typed."""
        logger, own = self.configs[entry.config].logger, {"group": self.sweep.folder.name, "name": self.report.label(entry)}
        return [f"logger.{key}={_quoted(value)}" for key, value in own.items() if key in logger and logger[key] is None]

    def _look(self, process: _Process) -> None:
        code = process.child.poll()
        self.report.show(process.entry, process.printed, process.begin)
        if code is not None:
            self.running.remove(process)
            process.entry.seconds = round(process.seconds(), 2)
            self._over(process.entry, code, process.printed(process.begin).decode(errors="replace"))

    def _over(self, entry: Entry, code: int, printed: str) -> None:
        done = code == 0 and (entry.fast_dev_run or finished(self.sweep.place(entry), entry.max_steps))
        entry.state, entry.exit_code = "done" if done else "stopped" if self.signal else "failed", code
        self.sweep.save()
        self.report.end(entry, "" if done else reason(code, printed))

    def _dealt(self, entry: Entry) -> list[str]:
        """The CUDA devices that have least to do; none where the arm shall see what there is."""
        trainer = self.configs[entry.config].trainer
        if trainer.accelerator == "cpu" or trainer.devices is None or trainer.devices > len(self.devices):
            return []
        used = [device for process in self.running for device in process.devices]
        return sorted(self.devices, key=used.count)[: trainer.devices]

    def _environment(self, devices: Sequence[str]) -> dict[str, str]:
        """With CUDA devices, and with a share of the cores: many threads for each of several processes would slow all."""
        environment = {key: value for key, value in os.environ.items() if key != processes.FOLDER}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        if self.at_once > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // self.at_once)))
        return environment

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
        for process in self.running:
            process.child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


def program() -> list[str]:
    """How to start this program again."""
    started = Path(sys.argv[0])
    return [sys.executable, *([str(started)] if started.is_file() else ["-m", "ddpm_lab.cli.train"])]


def cuda_devices() -> list[str]:
    """Of this machine, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device for device in given.split(",") if device]
    from torch.cuda import device_count

    return [str(i) for i in range(device_count())]


def _quoted(text: Path | str) -> str:
    """As a value on the command line that is read as this very text."""
    try:
        plain = OverridesParser.create().parse_override(f"key={text}").value() == str(text)
    except HydraException:
        plain = False
    return str(text) if plain else QuotedString(str(text), Quote.single).with_quotes()
