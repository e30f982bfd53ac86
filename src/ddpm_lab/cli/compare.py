"""`python compare.py FOLDER …`: which choice is better, by how much, and how sure we are."""

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ddpm_lab.cli.options import conf_dir, groups, nearest, options, target
from ddpm_lab.errors import UserError

USAGE = """\
Compare trained runs: which choice is better, by how much, and how sure are we?

  python compare.py outputs/multirun/2026-01-01_12-00-00   every run below a folder
  python compare.py outputs/digits outputs/multirun        below several
  python compare.py FOLDER baseline=schedule=linear        against which choice: its label, values or run folder (the first)
  python compare.py FOLDER out=report level=0.99           where to write, and the level of intervals and verdicts

What differs between the configurations is found; runs that differ by their seed alone are replicates. Evaluations of runs
(eval/*/evaluation.json) are compared as well. Written are index.html (one file that needs no network), table.csv, table.md and
table.tex, to FOLDER/compare unless out= says where.
"""


class Asked(NamedTuple):
    folders: list[Path]
    baseline: str | None
    out: Path
    level: float


def main() -> None:
    """Exit codes: 0 done, 2 a mistake of the user's, 130 stopped."""
    try:
        _main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


def _main(argv: list[str]) -> None:
    if not argv or "--help" in argv or "-h" in argv:
        print(USAGE, end="")
        return
    asked, started = parsed(argv), time.time()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # nothing here is worth threads
    from ddpm_lab.compare.page import write_page
    from ddpm_lab.compare.report import lines, options_by_target, report, write_tables

    names = {
        group: {name: target(path) for name, path in options(group, [conf_dir()]).items()} for group in groups([conf_dir()])
    }
    found = report(asked.folders, asked.baseline, asked.level, options_by_target(names))
    print("\n".join(lines(found)), flush=True)
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
        write_tables(found, asked.out)
        write_page(found, asked.folders, asked.out / "index.html")
    except OSError as error:
        raise UserError(f"out={asked.out}: cannot be written ({error.strerror})") from error
    runs = f"{len(found.runs)} run{'s' * (len(found.runs) != 1)}"
    print(f"\n{runs}, {time.time() - started:.1f} s; written: {asked.out / 'index.html'}, table.csv, table.md, table.tex")


def parsed(argv: list[str]) -> Asked:
    """Folders, and key=value. Raises UserError for what is neither."""
    folders, given = [], {}
    for argument in argv:
        key, equals, value = argument.partition("=")
        if key in ("baseline", "out", "level") and equals:
            given[key] = value
        elif Path(argument).expanduser().exists():
            folders.append(Path(argument).expanduser())
        elif equals and "/" not in key:
            close = nearest(key, ("baseline", "out", "level"))
            raise UserError(
                f"{argument}: no such option.{f' Did you mean {close}=?' if close else ''} Options: baseline, out, level"
            )
        else:
            raise UserError(f"{argument}: no such folder; allowed are run folders, and folders above them")
    if not folders:
        raise UserError("which runs? Name a folder, as in: python compare.py outputs/multirun")
    out = Path(given["out"]).expanduser() if given.get("out") else folders[0] / "compare"
    return Asked(folders, given.get("baseline"), out, _level(given.get("level", "0.95")))


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = -1.0
    if not 0.5 <= level < 1:
        raise UserError(f"level={text}: allowed is a number of at least 0.5 and below 1, as 0.95")
    return level


if __name__ == "__main__":
    main()
