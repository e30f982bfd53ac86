"""Runs of MLflow, at the server or database of MLFLOW_TRACKING_URI."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddpm_lab.compare.group import Group
from ddpm_lab.compare.remote import RemoteFile, RemoteRun, errors_of, refuse_unknown
from ddpm_lab.errors import UserError, require
from ddpm_lab.tracking import GROUP, mlflow_client

SQLITE = "sqlite:///"
one_line_errors = errors_of("check MLFLOW_TRACKING_URI and the server")


def runs_of(group: Group) -> tuple[Group, list[RemoteRun]]:
    """The runs of an experiment, or of a group of it, oldest first. The whole text is an experiment where there is one of that
    name. Raises UserError where there is no such experiment."""
    require("mlflow", "mlflow", f"{group}: ")
    mlflow = mlflow_client()
    uri = mlflow.get_tracking_uri()
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():  # it would be made
        raise UserError(f"{group}: no database {uri}; MLFLOW_TRACKING_URI names that of the runs, or a server")
    with one_line_errors(str(group)):
        known = {experiment.name: experiment.experiment_id for experiment in mlflow.search_experiments()}
        if (whole := "/".join(group.parts)) in known:
            group = group._replace(project=whole, name="")
        if group.project not in known:
            raise refuse_unknown(str(group), "experiment", list(known))
        runs = mlflow.search_runs([known[group.project]], output_format="list", order_by=["attributes.start_time ASC"])
    client = mlflow.MlflowClient()
    asked = [run for run in runs if not group.name or run.data.tags.get(GROUP) == group.name]
    return group, [_run(client, run) for run in asked]


def _run(client: Any, run: Any) -> RemoteRun:
    return RemoteRun(run.info.run_id, run.info.run_name, lambda: list(_files(client, run)), one_line_errors)


def _files(client: Any, run: Any, folder: str | None = None) -> Iterator[RemoteFile]:
    """MLflow knows no version of a file: those of a run that has ended were written before its end."""
    ended = run.info.end_time
    for entry in client.list_artifacts(run.info.run_id, folder):
        if entry.is_dir:
            yield from _files(client, run, entry.path)
            continue
        version = None if ended is None else [ended, entry.file_size]
        yield RemoteFile(
            entry.path,
            entry.file_size,
            version,
            None if ended is None else ended / 1000,
            lambda root, path=entry.path: _load(client, run.info.run_id, path, root),
        )


def _load(client: Any, id: str, name: str, root: Path) -> None:
    """Where MLflow puts it depends on the server."""
    (root / name).parent.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        shutil.copyfile(client.download_artifacts(id, name, folder), root / name)
