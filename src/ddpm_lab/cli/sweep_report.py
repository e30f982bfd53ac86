"""What a sweep says while it runs: a line as an arm starts and ends, and at the end what failed."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

from ddpm_lab.cli.sweep_record import Entry, Sweep


class Report:
    """Prints to the console. `at_once` is how many arms run side by side; `show`: also what they print."""

    def __init__(self, sweep: Sweep, at_once: int, show: bool) -> None:
        self.sweep, self.at_once, self.shows = sweep, at_once, show
        common = set.intersection(*(set(entry.overrides) for entry in sweep.entries))
        own = [" ".join(word for word in entry.overrides if word not in common) for entry in sweep.entries]
        self._names = [
            name or " ".join(entry.overrides) or "as the defaults are" for name, entry in zip(own, sweep.entries, strict=True)
        ]
        self._errors: dict[int, str] = {}
        self._told: set[int] = set()
        self._shown: dict[int, int] = {}

    def begin(self) -> None:
        entries, folder = self.sweep.entries, self.sweep.folder
        n = f"{len(entries)} run{'s' if len(entries) > 1 else ''}"
        if not self.sweep.found:
            say(f"{n} under {folder}")
        elif self._count("done") < len(entries):
            say(f"going on with {folder}: {self._count('done')} of {n} done; for a new sweep instead: sweep.name=NAME")
        else:
            say(f"{folder} is complete: {n}; for a new sweep: sweep.name=NAME")
        for entry in entries:
            if entry.state == "done":
                say(f"{self.name(entry)}: {numbers(self.sweep.place(entry))}")

    def start(self, entry: Entry, goes_on: bool) -> None:
        say(f"{self.name(entry)} {'goes on' if goes_on else '…'}")

    def wait(self, entry: Entry) -> None:
        if entry.number not in self._told:
            say(f"{self.name(entry)}: a process of an earlier sweep, which was killed, is still at it; waiting for its end")
            self._told.add(entry.number)

    def show(self, entry: Entry, printed: Callable[[int], bytes], begin: int) -> None:
        """What has come to the log of an arm, by whole lines."""
        if self.shows:
            start = max(begin, self._shown.get(entry.number, 0))
            text, newline, _ = printed(start).rpartition(b"\n")
            self._shown[entry.number] = start + len(text + newline)
            for line in text.decode(errors="replace").splitlines():
                say(f"[{entry.number}]   {line}".rstrip())

    def end(self, entry: Entry, error: str) -> None:
        """`error` is empty where all went well."""
        self._errors[entry.number] = error
        what = f"{entry.state}: {error}" if error else numbers(self.sweep.place(entry))
        say(f"{self.name(entry)}: {what} ({duration(entry.seconds)}); {self._progress()}")

    def finish(self, stopped: bool) -> None:
        failed = [entry for entry in self.sweep.entries if entry.state == "failed"]
        done = f"{self._count('done')} of {len(self.sweep.entries)} done"
        if failed:
            say(f"\n{len(failed)} failed:")
        for entry in failed:
            say(f"{self.name(entry)}: {self._errors[entry.number]}\n    {self.sweep.log(entry)}")
        if stopped:
            say(f"stopped, {done}; the same command goes on from here")
        else:
            say(f"{done}: {self.sweep.folder}" + ("; the same command tries the others again" if failed else ""))
            say(f"side by side: python compare.py {self.sweep.folder}")

    def name(self, entry: Entry) -> str:
        return f"[{entry.number}] {self.label(entry)}"

    def label(self, entry: Entry) -> str:
        """The overrides that tell it apart."""
        return self._names[entry.number]

    def _count(self, state: str) -> int:
        return sum(entry.state == state for entry in self.sweep.entries)

    def _progress(self) -> str:
        total = len(self.sweep.entries)
        left = total - self._count("done") - self._count("failed")
        known = [entry.seconds for entry in self.sweep.entries if entry.state == "done" and entry.seconds]
        rounds = -(-left // self.at_once)
        time = f", about {duration(rounds * sum(known) / len(known))} left" if known and left else ""
        return f"{total - left} of {total} over{time}"


def say(text: str) -> None:
    print(text, flush=True)


def numbers(folder: Path) -> str:
    """The headline of a finished run: its bound, and each distance of its samples."""
    try:
        metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    except FileNotFoundError:  # fast_dev_run
        return "works"
    found = []
    if "bound_bpd" in metrics:
        bound = metrics["bound_bpd"]
        se = f" ± {bound['standard_error']:.4f}" if "standard_error" in bound else ""
        found.append(f"{bound['value']:.4f}{se} bits/dim")
    distances = [key for key in metrics if re.fullmatch(r"(\w+_)?(fd|fid)(@\d+)?", key)]
    return ", ".join([*found, *(f"{key} {metrics[key]['value']:.4f}" for key in distances)]) or "done"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def reason(code: int, printed: str) -> str:
    """Why a process ended with `code`: its own last word, or the signal that ended it."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in re.split(r"[\r\n]+", printed) if line.strip()]
    found = [
        match[1]
        for line in lines
        if (match := re.search(r"(\berror( \(process \d+\))?: .*|^[\w.]*(Error|Exception)\b.*)", line))
    ]
    return f"exit code {code}: {(found or lines or ['it said nothing'])[-1]}"
