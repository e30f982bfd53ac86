"""What a sweep prints: a line when a run starts and when it ends, and a summary at the end."""

import contextlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ddpm_lab.files import read_json
from ddpm_lab.sweeps.launcher import Started
from ddpm_lab.sweeps.state import Entry, Sweep

_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Report:
    """Prints to the console. `at_once`: how many runs go side by side; `show`: also what they print; `common`: overrides that
    all runs share; `total`: how many runs there will be."""

    def __init__(self, sweep: Sweep, at_once: int, show: bool, common: set[str], total: int) -> None:
        self.sweep, self.at_once, self.shows, self.common, self.total = sweep, at_once, show, common, total
        self.measured_alone = 0
        self._errors: dict[int, str] = {}
        self._awaited: set[int] = set()
        self._shown: dict[int, int] = {}

    def begin(self, notes: Sequence[str], measured_alone: int) -> None:
        """`measured_alone`: how many runs train no network of their own."""
        folder, self.measured_alone = self.sweep.folder, measured_alone
        n = f"{self.total} run{'s' if self.total > 1 else ''}"
        if not self.sweep.existed:
            say(f"{n} under {folder}")
        elif self._count("done") < self.total:
            say(f"going on with {folder}: {self._count('done')} of {n} done; for a new sweep instead: sweep.name=NAME")
        else:
            say(f"{folder} is complete: {n}; for a new sweep: sweep.name=NAME")
        if measured_alone:
            say(f"{measured_alone} of them would train the network of another: it is trained once, and measured by each")
        for note in notes:
            say(f"note: {note}")
        for entry in self.sweep.entries:
            if entry.state == "done":
                say(f"{self.name(entry)}: {numbers(self.sweep.place(entry))}")

    def start(self, entry: Entry, goes_on: bool) -> None:
        job = f" (job {entry.job})" if entry.job else ""
        shared = "" if entry.network_of is None else f" the network of [{entry.network_of}], measured alone"
        say(f"{self.name(entry)} {'goes on' if goes_on else '…'}{shared}{job}")

    def wait(self, entry: Entry) -> None:
        """For what an earlier sweep, which was killed, has left running."""
        if entry.number not in self._awaited:
            holder = f"job {entry.job}" if entry.job else "a process"
            say(f"{self.name(entry)}: {holder} of an earlier sweep, which was killed, still runs it; waiting for its end")
            self._awaited.add(entry.number)

    def leave(self, entry: Entry) -> None:
        """To SLURM, after a signal."""
        say(f"{self.name(entry)}: job {entry.job} has not ended yet and is left to SLURM; the same command finds it")
        self._awaited.discard(entry.number)

    def show(self, run: Started) -> None:
        """New whole lines of the log of a run. Of a progress bar that is drawn over, its last state."""
        if self.shows:
            number = run.entry.number
            start = max(run.begin, self._shown.get(number, 0))
            text, newline, _ = run.printed(start).rpartition(b"\n")
            self._shown[number] = start + len(text + newline)
            for raw in text.decode(errors="replace").split("\n"):
                if line := _CONTROL.sub("", raw.rpartition("\r")[2]).rstrip():
                    say(f"[{number}]   {line}")

    def end(self, entry: Entry, error: str, running: Sequence[tuple[Entry, float]]) -> None:
        """`error`: empty for a run that is done. `running`: the others, and the seconds that each has run."""
        self._errors[entry.number] = error
        self._awaited.discard(entry.number)
        if not error:
            outcome = numbers(self.sweep.place(entry))
        else:
            outcome = entry.state if entry.state == "stopped" else f"failed: {error}"
        say(f"{self.name(entry)}: {outcome} ({duration(entry.seconds)}); {self._progress(running)}")

    def finish(self, stopped: bool) -> None:
        failed = [entry for entry in self.sweep.entries if entry.state == "failed"]
        done = f"{self._count('done')} of {self.total} done"
        if failed:
            say(f"\n{len(failed)} failed:")
        for entry in failed:
            say(f"{self.name(entry)}: {self._errors[entry.number]}\n    {self.sweep.log(entry)}")
        for entry in self.sweep.entries:
            if entry.number in self._awaited and entry.state != "done":
                say(f"{self.name(entry)}: left to the process that still runs it")
        if stopped:
            say(f"stopped, {done}; the same command goes on from here")
            return
        say(f"{done}: {self.sweep.folder}" + ("; the same command tries the others again" if failed else ""))
        if not self.sweep.entries[0].fast_dev_run:
            say(f"side by side: python compare.py {shlex.quote(str(self.sweep.folder))}")

    def best(self, metric: str, ranking: Sequence[tuple[Entry, float]], again: Sequence[str]) -> None:
        """The first of a search's ranking. `again`: arguments to repeat in a command line."""
        say(f"best of {len(ranking)} by {metric}:" if ranking else f"no run has a finite {metric}")
        for entry, value in ranking[:3]:
            say(f"  {value:.4f}  {self.name(entry)}")
        if ranking:
            words = [*again, *(word for word in ranking[0][0].overrides if not word.startswith("seed="))]
            single = ["sweep=none"] if any(word.startswith("experiment=") for word in words) else []
            command = shlex.join(["-m", *words, *single, "seed=1,2,3"])
            say(f"the best of many is also lucky; measure it with other seeds: python train.py {command}")

    def name(self, entry: Entry) -> str:
        return f"[{entry.number}] {self.label(entry)}"

    def label(self, entry: Entry) -> str:
        """The overrides in which it differs from others."""
        differing = " ".join(word for word in entry.overrides if word not in self.common)
        return differing or " ".join(entry.overrides) or "defaults"

    def _count(self, state: str) -> int:
        return sum(entry.state == state for entry in self.sweep.entries)

    def _progress(self, running: Sequence[tuple[Entry, float]]) -> str:
        left = self.total - self._count("done") - self._count("failed")
        time = self._time_left(running, left) if left else None
        return f"{self.total - left} of {self.total} over" + ("" if time is None else f", about {duration(time)} left")

    def _time_left(self, running: Sequence[tuple[Entry, float]], left: int) -> float | None:
        """Seconds. A run that trains is expected to take the mean of those, one that measures the mean of those."""
        done = [entry for entry in self.sweep.entries if entry.state == "done" and entry.seconds]
        if not done:
            return None
        trained = [entry.seconds for entry in done if entry.network_of is None]
        measured = [entry.seconds for entry in done if entry.network_of is not None]
        training, measuring = fmean(trained or measured), fmean(measured or trained)
        begun = len(measured) + sum(entry.network_of is not None for entry, _ in running)
        waiting = left - len(running)
        to_measure = min(max(self.measured_alone - begun, 0), waiting)
        needed = [max((training if entry.network_of is None else measuring) - seconds, 0.0) for entry, seconds in running]
        return time_left([training] * (waiting - to_measure) + [measuring] * to_measure, needed, self.at_once)


def time_left(waiting: Sequence[float], running: Sequence[float], at_once: int) -> float:
    """Seconds until all runs have ended, if the next starts as soon as one ends. `waiting`: seconds that each is expected to
    take, in order; `running`: seconds that each of those under way still needs."""
    free = sorted([*running] + [0.0] * max(at_once - len(running), 0))
    for seconds in waiting:
        free = sorted([free[0] + seconds, *free[1:]])
    return free[-1]


def say(text: str) -> None:
    """Prints. A terminal that was closed ends no sweep."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def numbers(folder: Path) -> str:
    """The headline of a finished run: its bound, and each distance of its samples."""
    try:
        metrics: dict[str, Any] = read_json(folder / "summary.json")["metrics"]
    except FileNotFoundError:  # fast_dev_run
        return "works"
    except (ValueError, KeyError, TypeError):
        return "done"
    parts = []
    if "bound_bpd" in metrics:
        bound = metrics["bound_bpd"]
        se = f" ± {bound['standard_error']:.4f}" if "standard_error" in bound else ""
        parts.append(f"{bound['value']:.4f}{se} bits/dim")
    for key in metrics:
        if re.fullmatch(r"(\w+_)?(fd|fid)(@\d+)?", key):
            value = metrics[key]["value"]
            parts.append(f"{key} {'–' if value is None else f'{value:.4f}'}")
    return ", ".join(parts) or "done"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
