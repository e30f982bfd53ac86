"""From folders to studies: what was trained, and what was evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ddpm_lab.compare.choices import ComparedRun, OptionNames, as_evaluated, as_trained, baseline_of, grouped, matches
from ddpm_lab.compare.effects import effects
from ddpm_lab.compare.folders import Skipped, read_runs
from ddpm_lab.compare.judge import judge
from ddpm_lab.compare.run_folder import RunFolder
from ddpm_lab.compare.study import Stage, Study
from ddpm_lab.errors import UserError


@dataclass
class ComparisonReport:
    runs: list[RunFolder]
    skipped: list[Skipped]
    studies: list[Study] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """What was left out, with reasons."""
        texts = [f"{skip.path}: {skip.why}; skipped" for skip in self.skipped]
        texts += [problem for run in self.runs for problem in run.problems]
        older = [run for run in self.runs if run.summary and not run.describes_itself]
        if older:
            others = f" and {len(older) - 1} more" if len(older) > 1 else ""
            texts.append(f"{older[0].path}{others}: written before curves.json, so their schedules are not plotted")
        return texts


def report(
    folders: Sequence[Path], baseline: str | None, level: float, options: OptionNames, skipped: Sequence[Skipped] = ()
) -> ComparisonReport:
    """Raises UserError where there is nothing to compare. `skipped`: runs that could not be fetched."""
    runs, here = read_runs(folders)
    made = ComparisonReport(runs, [*skipped, *here])
    if not runs:
        where = f"{', '.join(map(str, folders))}: " if folders else ""
        raise UserError("\n".join([f"{where}no run that has ended", *(f"  {problem}" for problem in made.problems)]))
    for stage, compared in ((Stage.TRAINED, as_trained(runs)), (Stage.EVALUATED, as_evaluated(runs))):
        if compared:
            made.studies.append(_study(stage, compared, baseline, level, options, later=bool(made.studies)))
    return made


def _study(
    stage: Stage, runs: Sequence[ComparedRun], baseline: str | None, level: float, options: OptionNames, later: bool
) -> Study:
    compared = grouped(runs, options)
    meant = matches(compared.choices, baseline) if baseline is not None else []
    if later and baseline is not None and len(meant) != 1:  # it names a choice of the first study
        against = [*meant, *compared.choices][0]
        many = f"{len(meant)} evaluated choices have that" if meant else "no evaluated choice has that"
        place = "the first of them" if meant else "the first"
        compared.notes.append(f"baseline={baseline}: {many}; here it is {place}: {against.label}")
    else:
        against = baseline_of(compared.choices, baseline)
    judged = judge(compared, against, level)
    columns = [column for column in judged.columns if column.measure.judged]
    return Study(stage, compared, against, judged, level, effects(compared, columns, against, level))


def options_by_target(files: Mapping[str, Mapping[str, str | None]]) -> OptionNames:
    """From {group: {option: _target_}}, the option that a target stands for: of several the shortest name, which the others
    build on."""
    names: dict[tuple[str, str], str] = {}
    for group, options in files.items():
        for option, target in sorted(options.items(), key=lambda pair: len(pair[0])):
            if target is not None:
                names.setdefault((group, target), option)
    return names
