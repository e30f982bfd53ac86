"""`python compare.py FOLDER …`: which choice is better, by how much, and how sure we are."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddpm_lab.cli.arguments import read, run, there
from ddpm_lab.compare.group import PREFIX, Group, named
from ddpm_lab.config.options import conf_dir, groups, options, target
from ddpm_lab.errors import UserError

if TYPE_CHECKING:
    from ddpm_lab.compare.folders import Skipped

USAGE = """\
Compare trained runs: which choice is better, by how much, and how sure are we?

  python compare.py outputs/multirun/2026-01-01_12-00-00   every run below a folder
  python compare.py outputs/digits outputs/multirun        below several
  python compare.py wandb:PROJECT/GROUP                    runs on Weights & Biases, by group; or ENTITY/PROJECT/GROUP
  python compare.py FOLDER baseline=schedule=linear        against which choice: its label, values or run folder (the first)
  python compare.py FOLDER out=report level=0.99           where to write, and the level of intervals and verdicts

What differs between the configurations is found; runs that differ by their seed alone are replicates. Evaluations of runs
(eval/*/evaluation.json) are compared as well. Written are index.html (one file that needs no network), table.csv, table.md and
table.tex, to FOLDER/compare (of a group alone: outputs/compare/GROUP) unless out= says where. What a run sent to Weights and
Biases is fetched to ~/.cache/ddpm-lab/wandb (or DDPM_LAB_CACHE), and again only where it has changed.
"""


KEYS = ("baseline", "out", "level")


class Asked(NamedTuple):
    sources: list[Path | Group]
    """Folders, and groups of runs online."""
    baseline: str | None
    out: Path
    level: float


def main() -> None:
    run(_main, USAGE)


def _main(argv: list[str]) -> None:
    asked, started = parsed(argv), time.time()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # nothing here is worth threads
    from ddpm_lab.compare.page import page_of, write_page
    from ddpm_lab.compare.report import lines, options_by_target, report, write_tables

    names = {
        group: {name: target(path) for name, path in options(group, [conf_dir()]).items()} for group in groups([conf_dir()])
    }
    folders, skipped = _folders(asked.sources)
    found = report(folders, asked.baseline, asked.level, options_by_target(names), skipped)
    page = page_of(found, list(map(str, asked.sources)))  # before anything is said: what cannot be plotted is known then
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
        write_tables(found, asked.out)
        write_page(page, asked.out / "index.html")
    except OSError as error:
        raise UserError(f"out={asked.out}: cannot be written ({error.strerror})") from error
    finally:
        print("\n".join(lines(found)), flush=True)
    runs = f"{len(found.runs)} run{'s' * (len(found.runs) != 1)}"
    print(f"\n{runs}, {time.time() - started:.1f} s; written: {asked.out / 'index.html'}, table.csv, table.md, table.tex")


def _folders(sources: Sequence[Path | Group]) -> "tuple[list[Path], list[Skipped]]":
    """Of groups what was fetched, and which runs of them have nothing to fetch."""
    folders, skipped = [], []
    for source in sources:
        if isinstance(source, Path):
            folders.append(source)
            continue
        from ddpm_lab.compare.online import fetch
        from ddpm_lab.metrics.cache import root

        found = fetch(source, root())
        folders += found.folders
        skipped += found.skipped
        print(f"{found.group}: {len(found.folders)} run folders, {found.loaded} of {found.files} files fetched\n", flush=True)
    return folders, skipped


def parsed(argv: list[str]) -> Asked:
    """Folders, groups, and key=value. Raises UserError for what is none of them."""
    others, given = read(argv, KEYS)
    sources: list[Path | Group] = []
    for argument in others:
        path = Path(os.path.expanduser(argument))
        if not there(argument) and not argument.startswith(PREFIX):
            raise UserError(f"{argument}: no such folder; allowed are run folders, and folders above them")
        sources.append(path if there(argument) else named(argument))
    if not sources:
        raise UserError("which runs? Name a folder, as in: python compare.py outputs/multirun")
    folders = [source for source in sources if isinstance(source, Path)]
    own = folders[0] / "compare" if folders else Path("outputs/compare", next(s.name for s in sources if isinstance(s, Group)))
    out = Path(os.path.expanduser(given["out"])) if given.get("out") else own
    return Asked(sources, given.get("baseline"), out, _level(given.get("level", "0.95")))


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = -1.0
    if not 0.5 <= level <= 0.999:  # beyond it too few draws of a bootstrap are left
        raise UserError(f"level={text}: allowed is a number from 0.5 to 0.999, as 0.95")
    return level


if __name__ == "__main__":
    main()
