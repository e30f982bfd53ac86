"""A sweep on disk: <run.root>/multirun/<name>/ with sweep.json, which lists its arms, and for each its run folder and its log.

What state an arm is in, its run folder says: sweep.json adds what a folder cannot tell, an exit code, or that it waits.
"""

import fcntl
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.cli.preflight import Arm
from ddpm_lab.errors import UserError
from ddpm_lab.resume import finished

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
    """The arms in `folder`, held by this process alone as long as a `with` around it lasts. `found`: it was there before."""

    def __init__(self, folder: Path, entries: list[Entry], found: bool) -> None:
        self.folder, self.entries, self.found = folder, entries, found
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("w")
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

    def save(self) -> None:
        partial = (self.folder / NAME).with_suffix(".tmp")
        partial.write_text(json.dumps({"arms": [asdict(entry) for entry in self.entries]}, indent=1, ensure_ascii=False) + "\n")
        partial.replace(self.folder / NAME)


def opened(arms: Sequence[Arm]) -> Sweep:
    """The unfinished sweep of these arms, the latest if there are several, or a new one; where a name was given, that one."""
    given, root = arms[0].config.sweep.name, Path(arms[0].config.run.root) / "multirun"
    if len({arm.config.run.root for arm in arms}) > 1:
        raise UserError("run.root: the runs of a sweep share one place; give it once")
    new = [
        Entry(i, arm.overrides, identity(arm.config), arm.config.trainer.max_steps, arm.config.trainer.fast_dev_run)
        for i, arm in enumerate(arms)
    ]
    folders = [root / given] if given else sorted((path.parent for path in root.glob(f"*/{NAME}")), key=_age)
    for folder in folders:
        entries = _read(folder)
        same = entries is not None and sorted(e.config for e in entries) == sorted(e.config for e in new)
        if entries and same and (given or any(entry.state != "done" for entry in entries)):
            return Sweep(folder, entries, found=True)
    if given and folders[0].exists():
        raise UserError(
            f"sweep.name={given}: {folders[0]} holds something else, and nothing is overwritten: choose another name"
        )
    return _made(folders[0] if given else _free(root / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")), new)


def _made(folder: Path, entries: list[Entry]) -> Sweep:
    try:
        sweep = Sweep(folder, entries, found=False)
        sweep.save()
    except OSError as error:
        raise UserError(f"run.root: {folder} cannot be made or written to ({error.strerror}): choose another folder") from error
    return sweep


def identity(config: DictConfig) -> str:
    """The same for configurations that make the same run, wherever it is written."""
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    content = {key: value for key, value in plain.items() if key not in ("run", "sweep", "launcher")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> list[Entry] | None:
    """The arms there, their states as their folders have them; None where there is no sweep."""
    try:
        stored = json.loads((folder / NAME).read_text())
        entries = [Entry(**entry) for entry in stored["arms"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    for entry in entries:
        if finished(folder / str(entry.number), entry.max_steps):
            entry.state, entry.exit_code = "done", 0
        elif entry.state == "running" or (entry.state == "done" and not entry.fast_dev_run):
            entry.state = "stopped"
    return entries


def _age(folder: Path) -> float:
    return -(folder / NAME).stat().st_mtime


def _free(path: Path) -> Path:
    """`path`, or with a number where another sweep took it in the same second."""
    numbered = (path.with_name(f"{path.name}_{i}") for i in range(2, 10**6))
    return path if not path.exists() else next(p for p in numbered if not p.exists())
