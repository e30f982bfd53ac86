"""Runs of Weights & Biases, MLflow and trackio as run folders in a cache.

The files of such a run hold its run folder: <folder>/config.yaml, summary.json and so on. Only files that a comparison reads
are fetched, and only where they have changed. The tracker chooses the names: one that could leave the cache is ignored.
"""

import os
import re
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from ddpm_lab.compare.group import Group
from ddpm_lab.compare.remote import RemoteFile, RemoteRun
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


def runs_of(group: Group) -> tuple[Group, list[RemoteRun]]:
    """Its runs, and the group with its entity where the tracker has entities. Loads the package of that tracker alone."""
    if group.tracker == "mlflow":
        from ddpm_lab.compare.mlflow_runs import runs_of as runs
    elif group.tracker == "trackio":
        from ddpm_lab.compare.trackio_runs import runs_of as runs
    else:
        from ddpm_lab.compare.wandb_runs import runs_of as runs
    return runs(group)


def fetch_group(group: Group) -> tuple[Group, Fetched]:
    """The group with its entity, and its runs as folders. Raises UserError where the group cannot be reached."""
    group, runs = runs_of(group)
    if not runs:
        raise UserError(f"{group}: no run there; a sweep's group is the name of its folder")
    place = cache_root().joinpath(group.tracker, *(quote(part, safe=" =,@+") for part in group.parts))
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


def _fetched(run: RemoteRun, name: Path, place: Path) -> Fetched:
    if not re.fullmatch(r"[\w-][\w.-]*", run.id):
        return Fetched(skipped=[Skipped(name, f"its id {run.id!r} names no folder")])
    with run.errors(str(name)):
        files = wanted(run.files())
    if not files:
        why = "it has no files of a run folder (config.yaml, summary.json): not sent by ddpm-lab, or not yet"
        return Fetched(skipped=[Skipped(name, why)])
    loaded = _update(place / run.id, files, run, str(name))
    folders = dict.fromkeys(place / run.id / key.partition("/")[0] for key in files)
    return Fetched(list(folders), files=len(files), loaded=loaded)


def wanted(files: Iterable[RemoteFile]) -> dict[str, RemoteFile]:
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


def _update(place: Path, files: dict[str, RemoteFile], run: RemoteRun, name_of_run: str) -> int:
    """Fetches what is not here or has changed, removes what is gone; returns how many were fetched."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        known = dict(read_json(place / INDEX))
    except (OSError, ValueError, TypeError):
        known = {}
    for name in known.keys() - files.keys():
        if _is_read(name):
            (place / name).unlink(missing_ok=True)
    here = {name: known[name] for name, file in files.items() if _is_same(file, known.get(name)) and (place / name).is_file()}
    loaded = 0
    try:
        for name in files.keys() - here.keys():
            with run.errors(f"{name_of_run}: {name}"):
                _load(files[name], place, name_of_run)
            here[name] = files[name].version
            loaded += 1
    finally:
        write_json(place / INDEX, dict(sorted(here.items())), indent=1)
    return loaded


def _is_same(file: RemoteFile, known: object) -> bool:
    return file.version is not None and file.version == known


def _load(file: RemoteFile, place: Path, run: str) -> None:
    """Writes beside the target, then renames. The file keeps its time, which orders evaluations."""
    target = place / file.name
    with tempfile.TemporaryDirectory(dir=place, prefix=".partial-") as partial:
        file.load(Path(partial))
        path = Path(partial) / file.name
        if file.size and path.stat().st_size != file.size:
            raise UserError(f"{run}: {file.name}: {path.stat().st_size} bytes of {file.size} came; the same command goes on")
        if file.changed is not None:
            os.utime(path, (file.changed, file.changed))
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
