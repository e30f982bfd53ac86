"""`python compare.py FOLDER …`: which choice is better, by how much, and how sure we are."""

import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddpm_lab.cli.arguments import read, run, there
from ddpm_lab.compare.group import Group, is_group, parse_group
from ddpm_lab.config.options import conf_dir, nearest, option_names
from ddpm_lab.errors import UserError
from ddpm_lab.files import SUMS, write_text
from ddpm_lab.plain import visible

if TYPE_CHECKING:
    from ddpm_lab.compare.questions import Questions
    from ddpm_lab.compare.report import ComparisonReport
    from ddpm_lab.compare.run_folder import Skipped

USAGE = """\
Compare trained runs: which choice is better, by how much, and how sure are we?

  python compare.py outputs/multirun/2026-01-01_12-00-00   every run below a folder
  python compare.py outputs/digits outputs/multirun        below several
  python compare.py wandb:PROJECT/GROUP                    runs on Weights & Biases, by group; or ENTITY/PROJECT/GROUP
  python compare.py mlflow:EXPERIMENT                      runs of MLflow at MLFLOW_TRACKING_URI; or EXPERIMENT/GROUP
  python compare.py trackio:PROJECT                        runs of trackio on this machine; or PROJECT/GROUP
  python compare.py FOLDER baseline=schedule=linear        against which choice: its label, values or run folder
  python compare.py FOLDER out=report level=0.99           where to write, and the level of intervals and verdicts
  python compare.py FOLDER same_within=0.01,fd:2%          which differences are nothing in practice: bits/dim, or NAME:SIZE
  python compare.py FOLDER resolve=0.01 power=0.8          which differences further seeds should show: how many are needed
  python compare.py FOLDER plan resolve=0.01               the command lines that train these seeds, and their hours
  python compare.py FOLDER looks=any                       intervals that hold while seeds are added until something shows
  python compare.py FOLDER figures=pdf                     the plots of the page as files too: pdf, svg, png
  python compare.py FOLDER columns=bound_bpd,parameters    columns of table.tex, by the names in table.csv
  python compare.py FOLDER all=true                        print every comparison, also of more than eight choices
  python compare.py explain RUN published=ddpm_cifar10     which knob it is: a run against a published result

What differs between the configurations is found; runs that differ by their seed alone are replicates. Evaluations of runs
(eval/*/evaluation.json) are compared as well. Written are index.html (one file that needs no network), table.csv, table.md and
table.tex, to FOLDER/compare (of a group alone: outputs/compare/GROUP) unless out= says where. What a run sent to a
tracker is fetched to ~/.cache/ddpm-lab (or DDPM_LAB_CACHE), and again only where it has changed.
"""
KEYS = ("baseline", "out", "level", "figures", "columns", "all", "same_within", "resolve", "power", "looks")
PLAN = "plan"
FORMATS = ("pdf", "svg", "png")
EXPLAIN = "explain"
"""The first word of a command that explains one run. A folder of that name is ./explain."""


class Arguments(NamedTuple):
    sources: list[Path | Group]
    """Folders, and groups of runs online."""
    baseline: str | None
    out: Path
    level: float
    figures: tuple[str, ...] = ()
    """Formats of the plots as files."""
    questions: "Questions | None" = None
    plan: bool = False
    """Print what would train the seeds that are needed, and nothing else."""
    columns: tuple[str, ...] = ()
    """Of the LaTeX table; all where none is named."""
    all: bool = False
    """Print every comparison."""


def main() -> None:
    run(_main, USAGE)


def _main(argv: list[str]) -> None:
    if argv[0] == EXPLAIN:
        from ddpm_lab.cli import explain

        return explain.explain_run(argv[1:])
    asked, started = parsed(argv), time.time()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not speed up any step
    from ddpm_lab.compare.page import page_of
    from ddpm_lab.compare.printed import check_columns, console, write_tables
    from ddpm_lab.compare.report import report

    folders, skipped = _folders(asked.sources)
    names = option_names([conf_dir()])
    compared = report(folders, asked.baseline, asked.level, names, skipped, asked.questions)
    if asked.plan:
        from ddpm_lab.cli.more_seeds import planned

        print("\n".join(map(visible, planned(compared, names, [conf_dir()]))))
        return
    check_columns(compared, asked.columns)
    command = ["python", "compare.py", *argv]
    page = page_of(compared, list(map(str, asked.sources)), command, asked.figures)  # first: adds to the problems printed
    try:
        write_tables(compared, asked.out, asked.columns)
        drawn = _draw(compared, asked.figures, asked.out) if asked.figures else 0
        write_text(asked.out / "index.html", page)
    except OSError as error:
        raise UserError(f"out={asked.out}: cannot be written ({error.strerror})") from error
    finally:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(map(visible, console(compared, width, asked.all))), flush=True)
    if unverified := compared.unverified:
        others = f" and {len(unverified) - 1} more" if len(unverified) > 1 else ""
        print(
            f"\n{visible(str(unverified[0].path))}{others}: without {SUMS}, so a file that was changed since is not recognised"
        )
    more = f", figures/ ({drawn} of {', '.join(asked.figures)})" if drawn else ""
    runs = f"{len(compared.runs)} run{'s' * (len(compared.runs) != 1)}"
    print(f"\n{runs}, {time.time() - started:.1f} s; written: {asked.out / 'index.html'}, table.csv, table.md, table.tex{more}")


def _draw(compared: "ComparisonReport", kinds: Sequence[str], out: Path) -> int:
    """Writes the plots of the page below `out`, in each format. Returns how many."""
    from ddpm_lab.compare.drawn import write_figures
    from ddpm_lab.compare.page import figures_folder, figures_of

    written = []
    for study in compared.studies:
        figures = [figure for of_kind in figures_of(study).values() for figure in of_kind]
        for kind in kinds:
            written += write_figures(figures, kind, out / figures_folder(compared, study))
    return len(written)


def _folders(sources: Sequence[Path | Group]) -> "tuple[list[Path], list[Skipped]]":
    """Groups are fetched. Returns folders, and the runs that could not be fetched."""
    folders, skipped = [], []
    for source in sources:
        if isinstance(source, Path):
            folders.append(source)
            continue
        from ddpm_lab.compare.online import fetch_group

        group, fetched = fetch_group(source)
        folders += fetched.folders
        skipped += fetched.skipped
        count = f"{len(fetched.folders)} run folders, {fetched.loaded} of {fetched.files} files fetched"
        print(f"{group}: {count}\n", flush=True)
    return folders, skipped


def parsed(argv: list[str]) -> Arguments:
    """Folders, groups, and key=value. Raises UserError for anything else."""
    others, given = read([word for word in argv if word != PLAN or there(PLAN)], KEYS)
    wrong = [argument for argument in others if not there(argument) and not is_group(argument)]
    if wrong:
        raise UserError(f"{wrong[0]}: no such folder; allowed are run folders, and folders above them")
    if not others:
        raise UserError("which runs? Name a folder, as in: python compare.py outputs/multirun")
    sources = [Path(os.path.expanduser(argument)) if there(argument) else parse_group(argument) for argument in others]
    places = [source / "compare" for source in sources if isinstance(source, Path)]
    places += [Path("outputs/compare", source.parts[-1]) for source in sources if isinstance(source, Group)]
    out = Path(os.path.expanduser(given["out"])) if given.get("out") else places[0]
    text = given.get("level", "0.95")
    if not re.fullmatch(r"0?\.\d+", text) or not 0.5 <= float(text) <= 0.999:  # beyond it the bootstrap has too few draws
        raise UserError(f"level={text}: allowed is a number from 0.5 to 0.999, as 0.95")
    if (every := given.get("all", "false")) not in ("true", "false"):
        raise UserError(f"all={every}: allowed is true, false")
    plan, columns = PLAN in argv and not there(PLAN), _list(given.get("columns", ""))
    asked = _questions(given, plan)
    return Arguments(sources, given.get("baseline"), out, float(text), _formats(given), asked, plan, columns, every == "true")


def _formats(given: Mapping[str, str]) -> tuple[str, ...]:
    """Of figures=."""
    kinds = _list(given.get("figures", ""))
    if "figures" in given and (wrong := [kind for kind in kinds or [""] if kind not in FORMATS]):
        close = nearest(wrong[0], FORMATS)
        meant = f"; did you mean figures={close}?" if close else ""
        raise UserError(f"figures={given['figures']}: allowed is {', '.join(FORMATS)}, one or several{meant}")
    return kinds


def _list(text: str) -> tuple[str, ...]:
    """The words between commas, each once."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _questions(given: Mapping[str, str], plan: bool) -> "Questions":
    from ddpm_lab.compare.questions import Questions, sizes

    power, looks = given.get("power", "0.8"), given.get("looks", "one")
    if not re.fullmatch(r"0?\.\d+", power) or not 0.5 <= float(power) <= 0.99:
        raise UserError(f"power={power}: allowed is a number from 0.5 to 0.99, as 0.8")
    if looks not in ("one", "any"):
        raise UserError(f"looks={looks}: allowed is one, any")
    if looks == "any" and (plan or given.keys() & {"resolve", "power"}):
        raise UserError(f"looks=any: {'plan' if plan else 'resolve, power'}: a number of seeds is planned for looks=one")
    margins, resolve = (sizes(key, given[key]) if key in given else () for key in ("same_within", "resolve"))
    return Questions(margins, resolve, float(power), looks == "any")


if __name__ == "__main__":
    main()
