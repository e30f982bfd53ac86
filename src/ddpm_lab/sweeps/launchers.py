"""How the arms of a sweep are started and watched: here as processes of this machine, in slurm.py as jobs."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

from omegaconf import DictConfig

from ddpm_lab import processes
from ddpm_lab.config.preflight import Arm
from ddpm_lab.errors import UserError
from ddpm_lab.sweeps.record import Entry
from ddpm_lab.sweeps.report import reason


class Started(Protocol):
    """An arm that was started."""

    entry: Entry
    begin: int
    """Where in the log its output begins."""

    def poll(self) -> int | None:
        """Its exit code; None as long as it runs."""
        ...

    def send_signal(self, number: int) -> None: ...

    def printed(self, start: int) -> bytes:
        """The log from byte `start`."""
        ...

    def seconds(self) -> float:
        """For how long it has run, what ran of this arm before included."""
        ...

    def reason(self, code: int, printed: str) -> str:
        """Why it ended with `code`, if not well."""
        ...


class Launcher(Protocol):
    """`at_once`: how many arms it may have started that have not ended."""

    at_once: int

    def start(self, entry: Entry, trainer: DictConfig, command: list[str], log: BinaryIO) -> Started:
        """What is printed goes to `log`. Raises UserError where the arm cannot be started now."""
        ...


def chosen(arms: Sequence[Arm]) -> Launcher:
    """The one that the configuration names; raises UserError where it cannot work here."""
    from ddpm_lab.sweeps.slurm import Slurm

    config = arms[0].config.launcher
    if any(arm.config.launcher != config for arm in arms):
        raise UserError("launcher: the runs of a sweep are started in one way; choose one for all")
    kinds = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in (Local, Slurm)}
    if config._target_ not in kinds:
        raise UserError(f"launcher._target_={config._target_}: allowed is one of {', '.join(kinds)}")
    return kinds[config._target_](arms, **{str(key): value for key, value in config.items() if key != "_target_"})


def headed(log: BinaryIO, command: Sequence[str]) -> int:
    """Write the command to the log; where its output will begin."""
    log.write(f"$ {shlex.join(command)}\n".encode())
    log.flush()
    return Path(log.name).stat().st_size


def read_from(log: Path, start: int) -> bytes:
    with log.open("rb") as file:
        file.seek(start)
        return file.read()


class Local:
    """Processes of this machine, one at a time unless told otherwise: CUDA devices and cores are shared out among them."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        self.at_once = arms[0].config.sweep.n_jobs or 1
        self._started: list[_Process] = []

    def start(self, entry: Entry, trainer: DictConfig, command: list[str], log: BinaryIO) -> "_Process":
        devices = self._dealt(trainer)
        self._started.append(_Process(entry, command, log, self._environment(devices), devices))
        return self._started[-1]

    @cached_property
    def _devices(self) -> list[str]:
        return cuda_devices()

    def _dealt(self, trainer: DictConfig) -> list[str]:
        """The CUDA devices that have least to do; none where the arm shall see what there is."""
        if self.at_once == 1 or trainer.accelerator == "cpu" or trainer.devices is None or trainer.devices > len(self._devices):
            return []
        used = [device for process in self._started if process.child.returncode is None for device in process.devices]
        return sorted(self._devices, key=used.count)[: trainer.devices]

    def _environment(self, devices: Sequence[str]) -> dict[str, str]:
        """With CUDA devices, and with a share of the cores: many threads for each of several processes would slow all."""
        environment = {key: value for key, value in os.environ.items() if key != processes.FOLDER}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        if self.at_once > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // self.at_once)))
        return environment


class _Process:
    """In a session of its own; it inherits the log with its lock, and holds it as long as it lives."""

    def __init__(
        self, entry: Entry, command: list[str], log: BinaryIO, environment: dict[str, str], devices: list[str]
    ) -> None:
        self.entry, self.devices, self.before, self.started = entry, devices, entry.seconds, time.monotonic()
        self.log, self.begin = Path(log.name), headed(log, command)
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def poll(self) -> int | None:
        return self.child.poll()

    def send_signal(self, number: int) -> None:
        self.child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def printed(self, start: int) -> bytes:
        return read_from(self.log, start)

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def reason(self, code: int, printed: str) -> str:
        return reason(code, printed)


def cuda_devices() -> list[str]:
    """Of this machine, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device for device in given.split(",") if device]
    from torch.cuda import device_count

    return [str(i) for i in range(device_count())]
