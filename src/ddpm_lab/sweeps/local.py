"""Runs of a sweep as processes of this machine."""

import os
import signal
import subprocess
import time
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from ddpm_lab import processes
from ddpm_lab.domains import checked
from ddpm_lab.sweeps.launcher import Started, headed
from ddpm_lab.sweeps.plan import Plan, PlannedRun
from ddpm_lab.sweeps.state import Entry


@checked
class Local:
    """Processes of this machine, one at a time unless `sweep.n_jobs` says more. They share its CUDA devices and cores."""

    def __init__(self, *, plan: Plan) -> None:
        self.at_once = plan.n_jobs or 1
        self._started: list[Process] = []

    def start(self, entry: Entry, run: PlannedRun, command: list[str], log: BinaryIO) -> "Process":
        devices = self._devices_for(run)
        self._started.append(Process(entry, command, log, self._environment(devices), devices))
        return self._started[-1]

    @cached_property
    def _devices(self) -> list[str]:
        """CUDA devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        if given is not None:
            return [device for device in given.split(",") if device]
        from torch.cuda import device_count

        return [str(i) for i in range(device_count())]

    def _devices_for(self, run: PlannedRun) -> list[str]:
        """The CUDA devices with the fewest runs; none if the run may see all there are."""
        if self.at_once == 1 or not run.on_gpu or run.devices is None or run.devices > len(self._devices):
            return []
        used = [device for process in self._started if process.child.returncode is None for device in process.devices]
        return sorted(self._devices, key=used.count)[: run.devices]

    def _environment(self, devices: list[str]) -> dict[str, str]:
        """With CUDA devices, and with a share of the cores: as many threads as cores for each process would slow all down."""
        environment = {key: value for key, value in os.environ.items() if key != processes.FOLDER}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        if self.at_once > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // self.at_once)))
        return environment


class Process(Started):
    """In a session of its own. It inherits the log as its output, with the lock on it, and holds both while it lives."""

    def __init__(
        self, entry: Entry, command: list[str], log: BinaryIO, environment: dict[str, str], devices: list[str]
    ) -> None:
        super().__init__(entry, Path(log.name), headed(log, command))
        self.devices, self.started = devices, time.monotonic()
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )

    def poll(self) -> int | None:
        return self.child.poll()

    def send_signal(self, number: int) -> None:
        self.child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def ran(self) -> float:
        return time.monotonic() - self.started
