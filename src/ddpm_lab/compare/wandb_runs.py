"""Runs of Weights & Biases."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ddpm_lab.compare.group import Group, connected, one_line_errors
from ddpm_lab.compare.group import runs_of as runs_of_wandb
from ddpm_lab.compare.remote import RemoteFile, RemoteRun


def runs_of(group: Group) -> tuple[Group, list[RemoteRun]]:
    """The group with its entity, and its runs, oldest first. Raises UserError where there are none."""
    group, runs = runs_of_wandb(group, connected(str(group)))
    return group, [RemoteRun(run.id, run.name, lambda run=run: _files(run), one_line_errors) for run in runs]


def _files(run: Any) -> list[RemoteFile]:
    return [
        RemoteFile(
            file.name,
            file.size,
            [file.updated_at, file.md5, file.size],
            _seconds(file.updated_at),
            lambda root, file=file: _load(file, root),
        )
        for file in run.files(per_page=200)
    ]


def _load(file: Any, root: Path) -> None:
    file.download(root=str(root), replace=True).close()


def _seconds(time: str | None) -> float | None:
    with suppress(ValueError):  # a time that the server does not say
        return datetime.fromisoformat(time or "").timestamp()
    return None
