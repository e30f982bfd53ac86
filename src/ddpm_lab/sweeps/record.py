"""A sweep on disk: <run.root>/multirun/<name>/ with sweep.json, which lists its arms, and for each its run folder and its log.

What state an arm is in, its run folder says: sweep.json adds what a folder cannot tell, an exit code, or that it waits.
"""

import fcntl
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.config.preflight import Arm
from ddpm_lab.config.resume import finished
from ddpm_lab.errors import UserError
from ddpm_lab.files import new_folder

NAME = "sweep.json"


@dataclass
class Entry:
    """One arm. `state`: waiting, running, done, failed or stopped; `seconds`: of all its processes, one after another."""

    number: int
    overrides: list[str]
    config: str
    """SHA-256 of its whole configuration but for where it is written."""
    max_steps: int
    fast_dev_run: bool
    state: str = "waiting"
    exit_code: int | None = None
    seconds: float = 0.0
    job: str | None = None
    """Its number in SLURM's queue, until its end was seen."""


class Sweep:
    """The arms in `folder`, held by this process alone as long as a `with` around it lasts. `found`: it was there before;
    `search`: what is searched, as a hash, where the arms are a search's."""

    def __init__(self, folder: Path, entries: list[Entry], found: bool, search: str | None = None) -> None:
        self.folder, self.entries, self.found, self.search = folder, entries, found, search
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("w")
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise UserError(f"{folder}: another process is at this sweep; for a second one: sweep.name=NAME") from error

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def place(self, entry: Entry) -> Path:
        """The run folder of an arm."""
        return self.folder / str(entry.number)

    def log(self, entry: Entry) -> Path:
        """What the processes of an arm print."""
        return self.folder / f"{entry.number}.log"

    def opened_log(self, entry: Entry) -> BinaryIO:
        """To be added to."""
        try:
            return self.log(entry).open("ab")
        except OSError as error:
            raise _unwritable(self.log(entry), error) from error

    def save(self) -> None:
        partial = (self.folder / NAME).with_suffix(".tmp")
        content = {"search": self.search} if self.search else {}
        content |= {"arms": [asdict(entry) for entry in self.entries]}
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        partial.replace(self.folder / NAME)


def opened(arms: Sequence[Arm]) -> Sweep:
    """The unfinished sweep of these arms, the latest if there are several, or a new one; where a name was given, that one. Of a
    search the arms are the corners, and it is unfinished as long as it has fewer arms than trials."""
    settings, root = arms[0].config.sweep, Path(arms[0].config.run.root) / "multirun"
    given, trials = settings.name, settings.get("trials", 0)
    if len({arm.config.run.root for arm in arms}) > 1:
        raise UserError("run.root: the runs of a sweep share one place; give it once")
    search = _space(arms) if trials else None
    new = [] if search else [entry_of(i, arm) for i, arm in enumerate(arms)]
    folders = [root / given] if given else sorted((path.parent for path in root.glob(f"*/{NAME}")), key=_age)
    for folder in folders:
        entries, space = _read(folder)
        same = (
            search == space if search else space is None and sorted(e.config for e in entries) == sorted(e.config for e in new)
        )
        if same and (given or len(entries) < trials or any(entry.state != "done" for entry in entries)):
            return Sweep(folder, entries, True, search)
    if given and folders[0].exists():
        raise UserError(
            f"sweep.name={given}: {folders[0]} holds something else, and nothing is overwritten: choose another name"
        )
    return _made(folders[0] if given else new_folder(root), new, search)


def entry_of(number: int, arm: Arm) -> Entry:
    trainer = arm.config.trainer
    return Entry(number, arm.overrides, identity(arm.config), trainer.max_steps, trainer.fast_dev_run)


def _space(arms: Sequence[Arm]) -> str:
    """The same for searches of the same: among the same values as they are typed, by the same number, in the same way."""
    settings = arms[0].config.sweep
    corners = sorted([identity(arm.config), *sorted(arm.overrides)] for arm in arms)
    logarithms = sorted(key for key, span in arms[0].spans.items() if span.log)
    content = [corners, logarithms, sorted(arms[0].spans), settings.metric, settings.method, settings.seed]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _made(folder: Path, entries: list[Entry], search: str | None) -> Sweep:
    sweep = Sweep(folder, entries, False, search)
    try:
        sweep.save()
    except OSError as error:
        raise _unwritable(folder, error) from error
    return sweep


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"run.root: {path} cannot be made or written to ({error.strerror}): choose another folder")


def identity(config: DictConfig) -> str:
    """The same for configurations that make the same run, wherever it is written."""
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    content = {key: value for key, value in plain.items() if key not in ("run", "sweep", "launcher")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> tuple[list[Entry], str | None]:
    """The arms there, their states as their folders have them, and what is searched; nothing where there is no sweep."""
    try:
        stored = json.loads((folder / NAME).read_text())
        entries, search = [Entry(**entry) for entry in stored["arms"]], stored.get("search")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return [], None
    if not all(entry.number == i and _is_whole(entry) for i, entry in enumerate(entries)):
        return [], None
    for entry in entries:
        if finished(folder / str(entry.number), entry.max_steps):
            entry.state, entry.exit_code = "done", 0
        elif entry.state == "running" or (entry.state == "done" and not entry.fast_dev_run):
            entry.state = "stopped"
    return entries, search


def _is_whole(entry: Entry) -> bool:
    """Whether a file that may have been edited has the right kinds of values."""
    words = isinstance(entry.overrides, list) and all(isinstance(word, str) for word in entry.overrides)
    return (
        words and isinstance(entry.config, str) and isinstance(entry.max_steps, int) and isinstance(entry.seconds, int | float)
    )


def _age(folder: Path) -> float:
    return -(folder / NAME).stat().st_mtime
