"""`python dashboard.py project=… group=…`: a dashboard on Weights & Biases for the runs of a sweep."""

from pathlib import Path
from typing import NamedTuple

from ddpm_lab.cli.arguments import read, run
from ddpm_lab.compare.group import Group, connected, one_line_errors, parse_group, runs_of
from ddpm_lab.errors import UserError, require
from ddpm_lab.files import write_json

USAGE = """\
A dashboard on Weights & Biases for a group of runs: which choice is better, curves, samples, tables

  python dashboard.py project=ddpm-lab group=2026-01-01_12-00-00    a saved view of the project; its address is printed
  python dashboard.py project=ddpm-lab outputs/multirun/2026-01-01_12-00-00    the same, from the runs on this disk
  python dashboard.py project=… group=… entity=my-team name="Schedules"    of a team, and under a name of your own
  python dashboard.py project=… group=… out=dashboard.json    its specification to a file: no account, no network

The arms of a sweep share a group, the name of the sweep's folder. Runs are grouped by what differs between them but the seed;
panels show what they were measured by. Both are read from the runs: from the folder where one is named, else online. With out=
and no folder, neither is known: the schedule, loss and variance are taken, and the bound with the Fréchet distance in pixels.
"""
KEYS = ("project", "group", "entity", "name", "out")
ALTERNATIVE = "; out=FILE.json needs neither account nor network"


class DashboardArguments(NamedTuple):
    group: Group
    folder: Path | None
    name: str
    out: Path | None


def main() -> None:
    run(_main, USAGE)


def _main(argv: list[str]) -> None:
    asked = parsed(argv)
    require("wandb_workspaces", "dashboards")
    from ddpm_lab.compare.dashboard import content_of, specification, workspace

    group, runs = asked.group, None
    if asked.out is None:
        group, runs = runs_of(group, connected(str(group), ALTERNATIVE))
    view = workspace(group, asked.name, content_of(asked.folder, runs))
    if asked.out is None:
        with one_line_errors(str(group), ALTERNATIVE):
            print(f"saved: {view.save().url}")
        return
    try:
        write_json(asked.out, specification(view))
    except OSError as error:
        raise UserError(f"out={asked.out}: cannot be written ({error.strerror})") from error
    print(f"written: {asked.out}")


def parsed(argv: list[str]) -> DashboardArguments:
    """Raises UserError for what is not a folder or one of the keys."""
    others, given = read(argv, KEYS)
    folder = Path(others[0]).expanduser() if others else None
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder; allowed is the folder of a sweep, besides {', '.join(KEYS)}")
    if len(others) > 1:
        raise UserError(f"{others[1]}: one folder is enough, that of the sweep")
    if not given.get("project"):
        raise UserError("project= is missing: where the runs are, as in project=ddpm-lab (their logger.project)")
    name = given.get("group") or (folder.resolve().name if folder else "")
    if not name:
        raise UserError("group= is missing: which runs, by the name of their sweep's folder, as in group=2026-01-01_12-00-00")
    group = parse_group(str(Group(given.get("entity"), given["project"], name)))
    out = Path(given["out"]).expanduser() if given.get("out") else None
    return DashboardArguments(group, folder, given.get("name") or f"ddpm-lab {name}", out)
