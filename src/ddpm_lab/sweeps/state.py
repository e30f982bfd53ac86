"""A sweep on disk: <run.root>/multirun/<name>/ with sweep.json, which lists its runs, and for each its run folder and its log.

The state of a run is what its folder says. sweep.json adds what a folder cannot say: an exit code, or that a run waits.
"""

import fcntl
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

from ddpm_lab.errors import UserError
from ddpm_lab.files import new_folder, read_json, write_json
from ddpm_lab.sweeps.plan import Plan, PlannedRun, SearchPlan, hashed

NAME = "sweep.json"


@dataclass
class Entry:
    """One run. `state`: waiting, running, done, failed or stopped. `seconds`: sum over all its executions."""

    number: int
    overrides: list[str]
    config: str
    """`PlannedRun.identity`."""
    max_steps: int
    fast_dev_run: bool
    state: str = "waiting"
    exit_code: int | None = None
    seconds: float = 0.0
    job: str | None = None
    """Its number in SLURM's queue, until the sweep has seen it end."""
    network_of: int | None = None
    """Number of the run whose network it measures; None if it trains its own."""
    __pydantic_config__: ClassVar = {"strict": True, "extra": "forbid"}  # sweep.json may have been edited


@dataclass
class Listed:
    """What sweep.json has: the runs, and the hash of what is searched, if it is a search."""

    arms: list[Entry]
    search: str | None = None
    sha256: str | None = None
    """Of all else, as plain containers; None in sweeps of versions before 0.2."""


class Sweep:
    """The runs in `folder`, which is made unless it `existed`. The lock on it is held until the end of the `with` block.
    `search`: hash of what is searched, if it is a search."""

    def __init__(self, folder: Path, entries: list[Entry], existed: bool, search: str | None = None) -> None:
        self.folder, self.entries, self.existed, self.search = folder, entries, existed, search
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not existed:
                self.save()
        except BlockingIOError as error:
            self._lock.close()
            raise UserError(
                f"{folder}: another process runs this sweep; start a second one under another name: sweep.name=NAME"
            ) from error
        except OSError as error:
            raise _unwritable(folder, error) from error

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def place(self, entry: Entry) -> Path:
        """Run folder."""
        return self.folder / str(entry.number)

    def checkpoint(self, entry: Entry) -> Path:
        return self.place(entry) / "checkpoints" / "last.ckpt"

    def log(self, entry: Entry) -> Path:
        """What its processes print."""
        return self.folder / f"{entry.number}.log"

    def opened_log(self, entry: Entry) -> BinaryIO:
        """For appending."""
        try:
            return self.log(entry).open("ab")
        except OSError as error:
            raise _unwritable(self.log(entry), error) from error

    def save(self) -> None:
        searched = {"search": self.search} if self.search else {}
        content = {**searched, "arms": [asdict(entry) for entry in self.entries]}
        write_json(self.folder / NAME, {"sha256": hashed(content), **content}, indent=1)


def opened(plan: Plan) -> Sweep:
    """The unfinished sweep of these runs, the latest of several, or a new one; with a name, the one of that name. A search is
    unfinished while it has fewer runs than trials."""
    name, search = plan.name, space(plan.runs, plan.search) if plan.search else None
    trials = plan.search.trials if plan.search else 0
    new = [] if search else [entry_of(i, run) for i, run in enumerate(plan.runs)]
    latest_first = sorted(plan.place.glob(f"*/{NAME}"), key=lambda path: path.stat().st_mtime, reverse=True)
    folders = [plan.place / name] if name else [path.parent for path in latest_first]
    for folder in folders:
        try:
            entries, searched = _read(folder)
        except ValueError as damage:
            if name:
                raise UserError(f"sweep.name={name}: {damage}; choose another name") from damage
            print(f"note: {damage}, and is passed over", flush=True)
            continue
        same = searched == search and (search or sorted(e.config for e in entries) == sorted(e.config for e in new))
        if same and (name or len(entries) < trials or any(entry.state != "done" for entry in entries)):
            return Sweep(folder, entries, True, search)
    if name and folders[0].exists():
        raise UserError(f"sweep.name={name}: {folders[0]} holds another sweep, and nothing is overwritten: choose another name")
    return Sweep(folders[0] if name else new_folder(plan.place, "run.root"), new, False, search)


def entry_of(number: int, run: PlannedRun) -> Entry:
    return Entry(number, run.overrides, run.identity, run.max_steps, run.fast_dev_run)


def space(corners: Sequence[PlannedRun], search: SearchPlan) -> str:
    """Hash of what is searched, and how. Values that are equal and typed differently make another search."""
    runs = sorted([run.identity, *sorted(run.overrides)] for run in corners)
    logarithms = sorted(key for key, span in search.spans.items() if span.log)
    return hashed([runs, logarithms, sorted(search.spans), search.metric, search.method, search.seed])


def finished(folder: Path, max_steps: int) -> bool:
    """Whether the run there was trained for so many steps, and measured. A summary that cannot be read does not count."""
    try:
        return bool(read_json(folder / "summary.json")["step"] >= max_steps)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"run.root: {path} cannot be made or written to ({error.strerror}): choose another folder")


def _read(folder: Path) -> tuple[list[Entry], str | None]:
    """The runs there, their states as their folders have them, and the hash of what is searched; none if there is no sweep.
    Raises ValueError for a sweep.json that is not as it was written."""
    from pydantic import TypeAdapter

    try:
        content = (folder / NAME).read_bytes()
    except OSError:
        return [], None
    damage = ValueError(f"{folder / NAME} was changed or damaged since it was written")
    try:
        stored, plain = TypeAdapter(Listed).validate_json(content), json.loads(content)
    except ValueError as error:
        raise damage from error
    listed = all(entry.number == i for i, entry in enumerate(stored.arms))
    if not listed or plain.pop("sha256", None) not in (None, hashed(plain)):
        raise damage
    for entry in stored.arms:
        if finished(folder / str(entry.number), entry.max_steps):
            entry.state, entry.exit_code = "done", 0
        elif entry.state == "running" or (entry.state == "done" and not entry.fast_dev_run):
            entry.state = "stopped"
    return stored.arms, stored.search
