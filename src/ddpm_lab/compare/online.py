"""Runs of Weights & Biases as run folders in a cache.

The files of a wandb run hold its run folder: <folder>/config.yaml, summary.json and so on. Only files that a comparison reads
are fetched, and only where they have changed. The server chooses the names: one that could leave the cache is ignored.
"""

import os
import re
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ddpm_lab.compare.group import Group, connected, one_line_errors, runs_of
from ddpm_lab.compare.run_folder import Skipped, natural
from ddpm_lab.errors import UserError
from ddpm_lab.files import cache_root, read_json, write_json

READ = re.compile(
    r"config\.yaml|summary\.json|curves\.json|metrics\.csv|vlb_terms\.npz|samples/step_\d+\.png|eval/[^/]+/[^/]+\.(json|csv|png|npz)"
)
"""Files of a run folder that a comparison reads."""
INDEX = "files.json"
"""Beside a run's folder: the version of each file that was fetched."""
AT_A_TIME = 8
"""Runs fetched in parallel: nearly all of the time is spent waiting."""


@dataclass
class Fetched:
    """What was fetched of a group, or of one of its runs."""

    folders: list[Path] = field(default_factory=list)
    """In natural order of their names, as on the disk."""
    skipped: list[Skipped] = field(default_factory=list)
    files: int = 0
    loaded: int = 0
    """Of the files, those that were not in the cache."""


def fetch_group(group: Group) -> tuple[Group, Fetched]:
    """The group with its entity, and its runs as folders. Raises UserError where the group cannot be reached."""
    group, runs = runs_of(group, connected(str(group)))
    place = cache_root().joinpath("wandb", *(quote(str(part), safe=" =,@+") for part in group))
    made = Fetched()
    try:
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            for one in pool.map(lambda run: _fetched(run, Path(f"{group}/{run.name or run.id}"), place), runs):
                made.folders += one.folders
                made.skipped += one.skipped
                made.files += one.files
                made.loaded += one.loaded
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}); DDPM_LAB_CACHE names another place") from error
    made.folders.sort(key=lambda folder: natural(folder.name))
    return group, made


def _fetched(run: Any, name: Path, place: Path) -> Fetched:
    if not re.fullmatch(r"[\w-][\w.-]*", run.id):
        return Fetched(skipped=[Skipped(name, f"its id {run.id!r} names no folder")])
    with one_line_errors(str(name)):
        files = wanted(run.files(per_page=200))
    if not files:
        why = "it has no files of a run folder (config.yaml, summary.json): not sent by ddpm-lab, or not yet"
        return Fetched(skipped=[Skipped(name, why)])
    loaded = _update(place / run.id, files, str(name))
    folders = dict.fromkeys(place / run.id / key.partition("/")[0] for key in files)
    return Fetched(list(folders), files=len(files), loaded=loaded)


def wanted(files: Iterable[Any]) -> dict[str, Any]:
    """By name, those of folders that have a configuration; of pictures of samples, the last."""
    readable = {file.name: file for file in files if _is_read(file.name)}
    last = {name.partition("/")[0]: name for name in sorted(readable) if "/samples/" in name}
    pictures = {name for name in readable if "/samples/" in name} - set(last.values())
    kept = (name for name in readable if f"{name.partition('/')[0]}/config.yaml" in readable)
    return {name: readable[name] for name in kept if name not in pictures}


def _is_read(name: str) -> bool:
    folder, _, inner = name.partition("/")
    plain = name.isprintable() and "\\" not in name and not any(part[:1] in ("", ".") for part in name.split("/"))
    return plain and bool(folder) and READ.fullmatch(inner) is not None


def _update(place: Path, files: dict[str, Any], run: str) -> int:
    """Fetches what is not here or has changed, removes what is gone; returns how many were fetched."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        known = dict(read_json(place / INDEX))
    except (OSError, ValueError, TypeError):
        known = {}
    for name in known.keys() - files.keys():
        if _is_read(name):
            (place / name).unlink(missing_ok=True)
    here = {name: known[name] for name, file in files.items() if known.get(name) == _version(file) and (place / name).is_file()}
    loaded = 0
    try:
        for name in files.keys() - here.keys():
            _load(files[name], place, run)
            here[name] = _version(files[name])
            loaded += 1
    finally:
        write_json(place / INDEX, dict(sorted(here.items())), indent=1)
    return loaded


def _version(file: Any) -> list[Any]:
    return [file.updated_at, file.md5, file.size]


def _load(file: Any, place: Path, run: str) -> None:
    """Writes beside the target, then renames. The file keeps its time, which orders evaluations."""
    target = place / file.name
    with tempfile.TemporaryDirectory(dir=place, prefix=".partial-") as partial:
        with one_line_errors(f"{run}: {file.name}"):
            file.download(root=partial, replace=True).close()
        path = Path(partial) / file.name
        if file.size and path.stat().st_size != file.size:
            raise UserError(f"{run}: {file.name}: {path.stat().st_size} bytes of {file.size} came; the same command goes on")
        with suppress(ValueError):  # a time that the server does not say
            changed = datetime.fromisoformat(file.updated_at or "").timestamp()
            os.utime(path, (changed, changed))
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
