"""What a sweep says while it runs: a line as an arm starts and ends, and at the end what failed."""

import contextlib
import json
import re
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from ddpm_lab.sweeps.record import Entry, Sweep

_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Report:
    """Prints to the console. `at_once`: how many arms run side by side; `show`: also what they print; `common`: the overrides
    that all arms share; `total`: how many arms there will be."""

    def __init__(self, sweep: Sweep, at_once: int, show: bool, common: set[str], total: int) -> None:
        self.sweep, self.at_once, self.shows, self.common, self.total = sweep, at_once, show, common, total
        self._errors: dict[int, str] = {}
        self._told: set[int] = set()
        self._shown: dict[int, int] = {}

    def begin(self) -> None:
        entries, folder = self.sweep.entries, self.sweep.folder
        n = f"{self.total} run{'s' if self.total > 1 else ''}"
        if not self.sweep.found:
            say(f"{n} under {folder}")
        elif self._count("done") < self.total:
            say(f"going on with {folder}: {self._count('done')} of {n} done; for a new sweep instead: sweep.name=NAME")
        else:
            say(f"{folder} is complete: {n}; for a new sweep: sweep.name=NAME")
        for entry in entries:
            if entry.state == "done":
                say(f"{self.name(entry)}: {numbers(self.sweep.place(entry))}")

    def start(self, entry: Entry, goes_on: bool) -> None:
        job = f" (job {entry.job})" if entry.job else ""
        say(f"{self.name(entry)} {'goes on' if goes_on else '…'}{job}")

    def wait(self, entry: Entry) -> None:
        if entry.number not in self._told:
            who = f"job {entry.job}" if entry.job else "a process"
            say(f"{self.name(entry)}: {who} of an earlier sweep, which was killed, is still at it; waiting for its end")
            self._told.add(entry.number)

    def show(self, entry: Entry, printed: Callable[[int], bytes], begin: int) -> None:
        """What has come to the log of an arm, by whole lines."""
        if self.shows:
            start = max(begin, self._shown.get(entry.number, 0))
            text, newline, _ = printed(start).rpartition(b"\n")
            self._shown[entry.number] = start + len(text + newline)
            for line in text.decode(errors="replace").split("\n"):
                if said := _CONTROL.sub("", line.rpartition("\r")[2]).rstrip():  # of a bar that is drawn over, the last
                    say(f"[{entry.number}]   {said}")

    def end(self, entry: Entry, error: str, running: Sequence[float]) -> None:
        """`error` is empty where all went well; `running`: for how many seconds the others have."""
        self._errors[entry.number] = error
        what = (
            numbers(self.sweep.place(entry)) if not error else entry.state if entry.state == "stopped" else f"failed: {error}"
        )
        say(f"{self.name(entry)}: {what} ({duration(entry.seconds)}); {self._progress(running)}")

    def finish(self, stopped: bool) -> None:
        failed = [entry for entry in self.sweep.entries if entry.state == "failed"]
        done = f"{self._count('done')} of {self.total} done"
        if failed:
            say(f"\n{len(failed)} failed:")
        for entry in failed:
            say(f"{self.name(entry)}: {self._errors[entry.number]}\n    {self.sweep.log(entry)}")
        for entry in self.sweep.entries:
            if entry.number in self._told and entry.state != "done":
                say(f"{self.name(entry)}: left to what is still at it")
        if stopped:
            say(f"stopped, {done}; the same command goes on from here")
            return
        say(f"{done}: {self.sweep.folder}" + ("; the same command tries the others again" if failed else ""))
        if not self.sweep.entries[0].fast_dev_run:
            say(f"side by side: python compare.py {shlex.quote(str(self.sweep.folder))}")

    def best(self, metric: str, ranking: Sequence[tuple[Entry, float]], passed_on: Sequence[str]) -> None:
        """Of a search."""
        say(f"best of {len(ranking)} by {metric}:" if ranking else "nothing was found")
        for entry, value in ranking[:3]:
            say(f"  {value:.4f}  {self.name(entry)}")
        if ranking:
            words = [*passed_on, *(word for word in ranking[0][0].overrides if not word.startswith("seed="))]
            once = ["sweep=none"] if any(word.startswith("experiment=") for word in words) else []
            again = shlex.join(["-m", *words, *once, "seed=1,2,3"])
            say(f"the best of many was lucky too; other seeds say how much: python train.py {again}")

    def name(self, entry: Entry) -> str:
        return f"[{entry.number}] {self.label(entry)}"

    def label(self, entry: Entry) -> str:
        """The overrides that tell it apart."""
        own = " ".join(word for word in entry.overrides if word not in self.common)
        return own or " ".join(entry.overrides) or "as the defaults are"

    def _count(self, state: str) -> int:
        return sum(entry.state == state for entry in self.sweep.entries)

    def _progress(self, running: Sequence[float]) -> str:
        left = self.total - self._count("done") - self._count("failed")
        known = [entry.seconds for entry in self.sweep.entries if entry.state == "done" and entry.seconds]
        time = f", about {duration(time_left(known, running, left, self.at_once))} left" if known and left else ""
        return f"{self.total - left} of {self.total} over{time}"


def time_left(known: Sequence[float], running: Sequence[float], left: int, at_once: int) -> float:
    """Seconds until `left` arms are over, of which some have been `running` for so long, if each takes the mean of those known
    and a place that is free takes the next."""
    mean = sum(known) / len(known)
    free = sorted([max(mean - seconds, 0.0) for seconds in running] + [0.0] * max(at_once - len(running), 0))
    for _ in range(left - len(running)):
        free = sorted([free[0] + mean, *free[1:]])
    return free[-1]


def say(text: str) -> None:
    """To whoever still reads: a terminal that was closed ends no sweep."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def numbers(folder: Path) -> str:
    """The headline of a finished run: its bound, and each distance of its samples."""
    try:
        metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    except FileNotFoundError:  # fast_dev_run
        return "works"
    except (ValueError, KeyError, TypeError):
        return "done"
    found = []
    if "bound_bpd" in metrics:
        bound = metrics["bound_bpd"]
        se = f" ± {bound['standard_error']:.4f}" if "standard_error" in bound else ""
        found.append(f"{bound['value']:.4f}{se} bits/dim")
    distances = [key for key in metrics if re.fullmatch(r"(\w+_)?(fd|fid)(@\d+)?", key)]
    told = {key: metrics[key]["value"] for key in distances}
    return ", ".join([*found, *(f"{key} {'–' if x is None else f'{x:.4f}'}" for key, x in told.items())]) or "done"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def reason(code: int, printed: str) -> str:
    """Why a process ended with `code`: its own last word, or the signal that ended it."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    if code == 0:
        return "it ended well, but left no summary.json that says so"
    lines = [line.strip() for line in re.split(r"[\r\n]+", printed) if line.strip()]
    found = [
        match[1]
        for line in lines
        if (match := re.search(r"(\berror( \(process \d+\))?: .*|^[\w.]*(Error|Exception)\b.*)", line))
    ]
    return f"exit code {code}: {(found or lines or ['it said nothing'])[-1]}"
