"""From folders to studies: what was trained, and what was evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ddpm_lab.compare.answer import Answer, answers
from ddpm_lab.compare.chance import Chance, chance_of
from ddpm_lab.compare.choices import ComparedChoice, ComparedChoices, OptionNames, baseline_of, compared_runs, grouped
from ddpm_lab.compare.comparison import Comparison
from ddpm_lab.compare.effects import Effect, effects
from ddpm_lab.compare.equal_cost import EqualCost, equal_cost
from ddpm_lab.compare.judge import Column, judge, most_judged
from ddpm_lab.compare.measures import NumberKind
from ddpm_lab.compare.practical import answer
from ddpm_lab.compare.questions import Questions, check_names
from ddpm_lab.compare.run_folder import RunFolder, Skipped, read_runs
from ddpm_lab.errors import UserError
from ddpm_lab.files import SUMS


class Stage(Enum):
    TRAINED = "As trained"
    EVALUATED = "As evaluated"


@dataclass
class Study:
    """The choices of one stage, of runs as they were trained or as they were evaluated, with all results."""

    stage: Stage
    compared: ComparedChoices
    baseline: ComparedChoice
    columns: list[Column]
    level: float
    effects: list[Effect] = field(default_factory=list)
    equal_cost: list[EqualCost] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    """Of each judged measure."""
    chance: list[Chance] = field(default_factory=list)
    questions: Questions = field(default_factory=Questions)

    @property
    def judged(self) -> list[Column]:
        return [column for column in self.columns if column.measure.judged]

    @property
    def main(self) -> list[Column]:
        """The columns of the table: judged numbers, or all scores where none is."""
        return self.judged or self.scores

    @property
    def scores(self) -> list[Column]:
        """All columns but of durations, which the table has among the costs."""
        return [column for column in self.columns if column.measure.kind is not NumberKind.DURATION]

    @property
    def comparisons(self) -> list[Comparison]:
        return [comparison for column in self.columns for comparison in column.comparisons.values()]

    @property
    def shared_training(self) -> list[list[ComparedChoice]]:
        """Trained choices that were measured on the same networks (one training under several names)."""
        by_network: dict[Path, list[ComparedChoice]] = {}
        for choice in self.compared.choices if self.stage is Stage.TRAINED else ():
            networks = [run.run.network for run in choice.runs.values()]
            alike = next((by_network[network] for network in networks if network in by_network), [])
            alike.append(choice)
            by_network |= dict.fromkeys(networks, alike)
        return [choices for choices in {id(c): c for c in by_network.values()}.values() if len(choices) > 1]


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
        older = [run for run in self.runs if run.summary and not (run.path / "curves.json").exists()]
        if older:
            others = f" and {len(older) - 1} more" if len(older) > 1 else ""
            texts.append(f"{older[0].path}{others}: written before curves.json, so their schedules are not plotted")
        return texts

    @property
    def unverified(self) -> list[RunFolder]:
        """Of versions before 0.2, which kept no sha256 of their files."""
        return [run for run in self.runs if run.summary and not (run.path / SUMS).exists()]


def report(
    folders: Sequence[Path],
    baseline: str | None,
    level: float,
    options: OptionNames,
    skipped: Sequence[Skipped] = (),
    questions: Questions | None = None,
) -> ComparisonReport:
    """Raises UserError where there is nothing to compare. `skipped`: runs that could not be fetched."""
    questions = questions or Questions()
    runs, here = read_runs(folders)
    made = ComparisonReport(runs, [*skipped, *here])
    if not runs:
        where = f"{', '.join(map(str, folders))}: " if folders else ""
        raise UserError("\n".join([f"{where}no run that has ended", *(f"  {problem}" for problem in made.problems)]))
    for stage, compared in zip(Stage, compared_runs(runs), strict=True):
        if compared:
            choices = grouped(compared, options)
            first = most_judged(choices.choices)
            against = baseline_of(choices, first, baseline, required=not made.studies)  # it names a choice of the first study
            made.studies.append(_study(stage, choices, against, level, questions))
    check_names(questions, [column.measure for study in made.studies for column in study.columns])
    return made


def _study(stage: Stage, compared: ComparedChoices, baseline: ComparedChoice, level: float, questions: Questions) -> Study:
    made = Study(stage, compared, baseline, judge(compared, baseline, level, questions.any_look), level, questions=questions)
    made.answers = answers(made.judged, level, questions.any_look)
    made.effects = effects(compared, made.judged, baseline, level, questions.any_look)
    made.equal_cost = equal_cost(compared, made.columns, level, questions.any_look)
    made.chance = chance_of(made.judged, level)
    answer(made.columns, baseline, made.chance, level, questions)
    return made
