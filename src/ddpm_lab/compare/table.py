"""The comparison as rows of cells: data, which `words` puts into text and `printed` and `page` lay out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from ddpm_lab.compare.choices import ComparedChoice, ComparedChoices, ComparedRun
from ddpm_lab.compare.construction import Copy
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.judge import Column, Comparison, Judgement, winners
from ddpm_lab.compare.measures import Kind
from ddpm_lab.compare.numerals import decimals
from ddpm_lab.compare.statistics import Interval
from ddpm_lab.metrics.record import Difference


class Stage(Enum):
    TRAINED = "As trained"
    EVALUATED = "As evaluated"


@dataclass
class Study:
    """The choices of one stage with all results."""

    stage: Stage
    compared: ComparedChoices
    baseline: ComparedChoice
    judged: Judgement
    level: float
    effects: list[Effect] = field(default_factory=list)

    @property
    def main(self) -> list[Column]:
        """The columns of the table: judged numbers, or all where none is."""
        columns = self.judged.columns
        return [column for column in columns if column.measure.judged] or columns

    @property
    def shared_training(self) -> list[list[ComparedChoice]]:
        """Trained choices that were measured on the same networks (one training under several names)."""
        if self.stage is not Stage.TRAINED:
            return []
        by_network: dict[Path, list[ComparedChoice]] = {}
        for choice in self.compared.choices:
            networks = [run.run.network for run in choice.runs.values()]
            alike = next((by_network[network] for network in networks if network in by_network), [])
            alike.append(choice)
            by_network |= dict.fromkeys(networks, alike)
        return [choices for choices in {id(c): c for c in by_network.values()}.values() if len(choices) > 1]


class Seeds(NamedTuple):
    """How many a choice was run with."""

    n: int


class Missing(NamedTuple):
    """There is no such number."""


class Refused(NamedTuple):
    """The number may not be compared with the others."""

    differences: list[Difference]


class Mean(NamedTuple):
    estimate: Interval
    digits: int
    best: bool = False
    copy: Copy | None = None


class Baseline(NamedTuple):
    """In the place of a difference."""


class Against(NamedTuple):
    """The difference to the baseline."""

    comparison: Comparison
    digits: int


class Cost(NamedTuple):
    values: list[float]
    digits: int

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


Cell = Seeds | Missing | Refused | Mean | Baseline | Against | Cost


class CostColumn(NamedTuple):
    key: str
    label: str
    digits: int


COSTS = (
    CostColumn("train_seconds", "training, s", 0),
    CostColumn("images_per_s", "images/s", 0),
    CostColumn("parameters", "parameters", 0),
    CostColumn("peak_memory_mib", "memory, MiB", 0),
    CostColumn("network_calls", "network calls a sample", 0),
)


def digits_of(column: Column) -> int:
    estimates = column.estimates.values()
    spans = [(e.high - e.low) / 2 for e in estimates if e.low is not None and e.high is not None]
    errors = [n.se for numbers in column.numbers.values() for n in numbers.values() if n.se]
    return min(decimals([e.value for e in estimates], spans or errors), decimals([e.value for e in estimates], []) + 1)


def effect_digits(effects: Sequence[Effect]) -> int:
    """Of the effects on one measure, to be read side by side."""
    estimates = [effect.estimate for effect in effects]
    spans = [(e.high - e.low) / 2 for e in estimates if e.low is not None and e.high is not None]
    plain = decimals([e.value for e in estimates], [])
    return max(decimals([e.value for e in estimates], spans), plain - 2) if spans else plain - 1


def measured_cells(study: Study, choice: ComparedChoice, column: Column) -> list[Cell]:
    """The mean, and for a judged measure the difference to the baseline."""
    if choice not in column.estimates:
        first = Refused(column.refused[choice]) if choice in column.refused else Missing()
        return [first, Missing()] if column.measure.judged else [first]
    digits = digits_of(column)
    best = choice in winners(column, study.compared.choices)
    mean = Mean(column.estimates[choice], digits, best, column.copies.get(choice))
    return [mean, _difference(study, choice, column, digits)] if column.measure.judged else [mean]


def _difference(study: Study, choice: ComparedChoice, column: Column, digits: int) -> Cell:
    if choice is study.baseline:
        return Baseline()
    comparison = study.judged.of(choice, column.measure.key)
    return Missing() if comparison is None or comparison.over_seeds is None else Against(comparison, digits)


def cost_columns(compared: ComparedChoices) -> list[CostColumn]:
    """Those that some run has."""
    runs = [run for choice in compared.choices for run in choice.runs.values()]
    return [column for column in COSTS if any(_cost(run, column.key) is not None for run in runs)]


def cost_cell(choice: ComparedChoice, column: CostColumn) -> Cost | Missing:
    values = [value for run in choice.runs.values() if (value := _cost(run, column.key)) is not None]
    return Cost(values, column.digits) if values else Missing()


def _cost(run: ComparedRun, key: str) -> float | None:
    """From the summary; the network calls of a sample from the records of scores."""
    value = run.run.summary.get(key)
    if key == "network_calls":
        records = [n.record for n in run.numbers.values() if "reference" in n.record and "sampler" in n.record]
        value = records[0].get("steps") if records else None
    return float(value) if isinstance(value, int | float) else None


def row(study: Study, choice: ComparedChoice, columns: Sequence[Column], costs: bool = True) -> list[Cell]:
    """The number of seeds, then each measure, then costs."""
    cells: list[Cell] = [Seeds(len(choice.runs))]
    for column in columns:
        cells += measured_cells(study, choice, column)
    return cells + [cost_cell(choice, column) for column in cost_columns(study.compared) if costs]


def distance_column(study: Study) -> Column | None:
    return next((column for column in study.main if column.measure.distance), None)


def likelihood_column(study: Study) -> Column | None:
    kinds = (Kind.BOUND, Kind.CHAIN_BOUND, Kind.FLOW)
    return next((column for column in study.main if column.measure.kind in kinds), None)
