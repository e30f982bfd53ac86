"""From folders to studies, and from studies to lines and files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddpm_lab.compare.choices import Arm, Names, chosen, compared, evaluated_arms, having, trained_arms
from ddpm_lab.compare.effects import effects
from ddpm_lab.compare.folders import RunFolder, Skipped, read_runs
from ddpm_lab.compare.judge import judged
from ddpm_lab.compare.sentences import AVERAGED, cautions, effect_sentence, sentences
from ddpm_lab.compare.table import Study, aligned, markdown, rows, tex, write_csv
from ddpm_lab.errors import UserError

TRAINED, EVALUATED = "As trained", "As evaluated"


@dataclass
class Report:
    runs: list[RunFolder]
    skipped: list[Skipped]
    studies: list[Study]
    not_plotted: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return (
            [f"{skip.path}: {skip.why}; skipped" for skip in self.skipped]
            + [p for run in self.runs for p in run.problems]
            + self.not_plotted
        )


def report(
    folders: Sequence[Path], baseline: str | None, level: float, names: Names, skipped: Sequence[Skipped] = ()
) -> Report:
    """Raises UserError where there is nothing to compare. `skipped` was left out before."""
    runs, here = read_runs(folders)
    found = Report(runs, [*skipped, *here], [])
    if not runs:
        where = f"{', '.join(map(str, folders))}: " if folders else ""
        raise UserError("\n".join([f"{where}no run that has ended", *(f"  {p}" for p in found.problems)]))
    for title, arms in ((TRAINED, trained_arms(runs)), (EVALUATED, evaluated_arms(runs))):
        if arms:
            found.studies.append(_study(title, arms, baseline, level, names, last=title == EVALUATED and bool(found.studies)))
    return found


def _study(title: str, arms: Sequence[Arm], baseline: str | None, level: float, names: Names, last: bool) -> Study:
    together = compared(arms, names)
    meant = having(together.choices, baseline) if last and baseline is not None else []
    if last and baseline is not None and len(meant) != 1:  # it is one of the trained choices
        against = [*meant, *together.choices][0]
        what = f"{len(meant)} evaluated choices have that" if meant else "no evaluated choice has that"
        together.notes.append(f"baseline={baseline}: {what}; here it is the first{' of them' * bool(meant)}: {against.label}")
    else:
        against = chosen(together.choices, baseline)
    found = judged(together, against, level)
    columns = [column for column in found.columns if column.measure.judged]
    return Study(title, together, against, found, level, effects(together, columns, against, level))


def lines(found: Report) -> list[str]:
    """For the console: tables, then what is supported."""
    told = []
    for study in found.studies:
        told += ["", f"{study.title} ({_about(study)})", "", *aligned(rows(study)), ""]
        told += [f"  {text}" for _, text in sentences(study.judged, study.level)]
        told += [f"  {AVERAGED}"] * bool(study.effects) + [f"    {effect_sentence(effect)}" for effect in study.effects]
        told += [f"  note: {text}" for text in cautions(study.compared, study.judged)]
    return told[1:] + [""] * bool(found.problems) + [f"note: {text}" for text in found.problems]


def _about(study: Study) -> str:
    paired = "paired by seed" + " where they share one" * any(found.apart for found in study.judged.comparisons)
    over = f"means with {100 * study.level:g}% intervals over seeds; differences to {study.baseline.label}, {paired}"
    return f"{over}; * best mean"


def write_tables(found: Report, folder: Path) -> None:
    write_csv(found.studies, folder / "table.csv")
    md, latex = [], []
    for study in found.studies:
        told = [f"- {text}" for _, text in sentences(study.judged, study.level)]
        told += ["", AVERAGED, ""] * bool(study.effects) + [f"- {effect_sentence(effect)}" for effect in study.effects]
        md += [
            f"## {study.title}",
            "",
            f"{_about(study)[0].upper()}{_about(study)[1:]}.",
            "",
            *markdown(rows(study)),
            "",
            *told,
            "",
        ]
        latex += [*tex(rows(study), f"{study.title}: {_about(study)}".replace("; * best mean", "; best mean in bold")), ""]
    (folder / "table.md").write_text("\n".join(md), encoding="utf-8", errors="backslashreplace")
    (folder / "table.tex").write_text(
        "\n".join(["% needs \\usepackage{booktabs}", *latex]), encoding="utf-8", errors="backslashreplace"
    )


def options_by_target(files: Mapping[str, Mapping[str, str | None]]) -> Names:
    """Of {group: {option: _target_}}: the option that a target stands for. Of several, the one that the others build on has
    the shortest name."""
    found: dict[tuple[str, str], str] = {}
    for group, options in files.items():
        for option, target in sorted(options.items(), key=lambda pair: len(pair[0])):
            if target is not None:
                found.setdefault((group, target), option)
    return found
