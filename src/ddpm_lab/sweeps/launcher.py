"""What a launcher does: start the runs of a sweep and watch them. local.py starts processes, slurm.py jobs."""

import re
import shlex
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from ddpm_lab.sweeps.plan import PlannedRun
from ddpm_lab.sweeps.state import Entry


class Started(ABC):
    """A run that was started. `begin`: where in the log its output begins, in bytes."""

    def __init__(self, entry: Entry, log: Path, begin: int) -> None:
        self.entry, self.log, self.begin, self.before = entry, log, begin, entry.seconds

    @abstractmethod
    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    @abstractmethod
    def send_signal(self, number: int) -> None: ...

    @abstractmethod
    def ran(self) -> float:
        """How many seconds this execution has run."""

    def given_up(self) -> bool:
        """Whether it is left to itself, as it has not ended in time after a signal."""
        return False

    def news(self) -> str:
        """What there is to say of it now, once."""
        return ""

    def seconds(self) -> float:
        """How long it has run, earlier executions of the same run included."""
        return self.before + self.ran()

    def printed(self, start: int) -> bytes:
        """The log from byte `start`."""
        with self.log.open("rb") as file:
            file.seek(start)
            return file.read()

    def reason(self, code: int) -> str:
        """Why it ended with `code`, if not well."""
        return reason(code, self.printed(self.begin).decode(errors="replace"))


class Launcher(Protocol):
    """`at_once`: how many runs may be started and not yet ended."""

    at_once: int

    def start(self, entry: Entry, run: PlannedRun, command: list[str], log: BinaryIO) -> Started:
        """Output goes to `log`. Raises UserError if the run cannot be started now."""
        ...


def headed(log: BinaryIO, command: Sequence[str]) -> int:
    """Writes the command to the log, on a line of its own. Returns the byte at which its output will begin."""
    cut_short = Path(log.name).read_bytes()[-1:] not in (b"", b"\n")
    log.write(b"\n" * cut_short + f"$ {shlex.join(command)}\n".encode())
    log.flush()
    return Path(log.name).stat().st_size


def reason(code: int, printed: str) -> str:
    """Why a process ended with `code`: the signal that ended it, or its last error, or its last line."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    if code == 0:
        return "exit code 0, but there is no summary.json of a complete run"
    lines = [line.strip() for line in re.split(r"[\r\n]+", printed) if line.strip()]
    pattern = r"(\berror( \(process \d+\))?: .*|^[\w.]*(Error|Exception)\b.*)"
    errors = [match[1] for line in lines if (match := re.search(pattern, line))]
    return f"exit code {code}: {(errors or lines or ['no output'])[-1]}"
