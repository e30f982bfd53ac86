"""Runs of trackio, in its databases on this machine: those of TRACKIO_DIR, or where trackio keeps its own."""

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from ddpm_lab.compare.group import Group
from ddpm_lab.compare.remote import RemoteFile, RemoteRun, errors_of, refuse_unknown
from ddpm_lab.errors import require
from ddpm_lab.tracking import FILES

one_line_errors = errors_of("check TRACKIO_DIR")


def runs_of(group: Group) -> tuple[Group, list[RemoteRun]]:
    """The runs of a project, or of a group of it. Raises UserError where there is no such project."""
    require("trackio", "trackio", f"{group}: ")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    with one_line_errors(str(group)):
        if not SQLiteStorage.get_project_db_path(group.project).exists():
            raise refuse_unknown(str(group), "project", SQLiteStorage.get_projects())
        runs = list(trackio.Api().runs(group.project))
        if group.name:
            runs = [run for run in runs if (run.config or {}).get("_Group") == group.name]
    return group, [RemoteRun(run.id, run.name, lambda run=run: _files(run), one_line_errors) for run in runs]


def _files(run: Any) -> list[RemoteFile]:
    """Those of the artifact in which the logger keeps files of the run folder."""
    from trackio import cas
    from trackio.sqlite_storage import SQLiteStorage

    artifact = SQLiteStorage.get_artifact_manifest(run.project, f"run-{run.id}", "latest")
    if artifact is None or artifact["type"] != FILES:
        return []
    changed = datetime.fromisoformat(artifact["created_at"]).timestamp()

    def load(root: Path, entry: dict[str, Any]) -> None:
        target = root / entry["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(cas.blob_path(run.project, cas.validate_digest(entry["digest"])), target)

    return [
        RemoteFile(
            entry["path"],
            entry["size"],
            [entry["digest"], artifact["created_at"]],
            changed,
            lambda root, entry=entry: load(root, entry),
        )
        for entry in artifact["manifest"]
        if "ref" not in entry  # a file elsewhere
    ]
