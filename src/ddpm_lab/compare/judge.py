"""Which choice is better: each number of each choice against the baseline's, where their records allow a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ddpm_lab.compare.choices import EVALUATED, ComparedChoice, ComparedChoices, ComparedRun
from ddpm_lab.compare.comparison import Comparison
from ddpm_lab.compare.components import components, over_both
from ddpm_lab.compare.construction import Copy, copies
from ddpm_lab.compare.measures import BITS_PER_DIM, Measure, common_key, measure_of
from ddpm_lab.compare.number import Number
from ddpm_lab.compare.pairing import over_images, over_sets, unpaired
from ddpm_lab.compare.ranking import Ranking, rank
from ddpm_lab.compare.sequential import anytime
from ddpm_lab.compare.sets import Numbers, on_common_sets
from ddpm_lab.compare.statistics import Interval, holm, superiority, t_interval, welch_interval
from ddpm_lab.metrics.record import Difference, Record, differences, incomparable

REPORTED = ("seed", "weights", "stride", "precision", "step", "clip", "split")
"""Fields of a record that may differ, and are reported where they do."""
OF_TRAINING = ("data.batch_size", "data.flip", "data.workers")
"""Keys of data about training on it, which do not change the data set."""


@dataclass
class Column:
    """One measure over all choices."""

    measure: Measure
    numbers: dict[ComparedChoice, dict[int, Number]] = field(default_factory=dict)
    """By choice and seed; those that may be compared."""
    estimates: dict[ComparedChoice, Interval] = field(default_factory=dict)
    refused: dict[ComparedChoice, list[Difference]] = field(default_factory=dict)
    """Why the number of a choice may not be compared with the others."""
    apart: dict[ComparedChoice, Interval] = field(default_factory=dict)
    """What it is, of seeds that may be compared with each other."""
    sets: tuple[int, ...] = ()
    """Sampling seeds of the sets of samples that all numbers have; empty where none has several."""
    sets_left_out: tuple[int, ...] = ()
    """Sampling seeds of sets that some lack."""
    reported: list[Difference] = field(default_factory=list)
    copies: dict[ComparedChoice, Copy] = field(default_factory=dict)
    """Choices whose number equals that of another choice by construction."""
    comparisons: dict[ComparedChoice, Comparison] = field(default_factory=dict)
    """Of a judged measure, each other choice against the baseline."""

    @property
    def first(self) -> Number:
        """Of the first choice that has one."""
        return next(iter(next(iter(self.numbers.values())).values()))

    def lacking(self, choice: ComparedChoice) -> list[int]:
        """Seeds of which a choice lacks a number that it has of other seeds."""
        numbers = self.numbers.get(choice, {})
        return [seed for seed in choice.runs if seed not in numbers] if numbers else []

    @cached_property
    def ranking(self) -> Ranking:
        """Of the choices with the number in every seed. Of those that are equal by construction one counts."""
        free = [choice for choice in self.numbers if choice not in self.copies and not self.lacking(choice)]
        values = {choice: {seed: number.value for seed, number in self.numbers[choice].items()} for choice in free}
        return rank(values, self.measure.better)

    @property
    def winners(self) -> list[ComparedChoice]:
        """The best means, as they are marked. None where all others are copies."""
        alone = len(self.ranking.means) == 1 and self.copies
        return [] if alone or not self.measure.better else self.ranking.best


def judge(compared: ComparedChoices, baseline: ComparedChoice, level: float, any_look: bool = False) -> list[Column]:
    """All columns; of those that are judged, each other choice against the baseline, with p-values corrected over all.
    `any_look`: intervals over seeds hold whenever one looks, see `anytime`; else for a fixed number of seeds."""
    measured = {c: {seed: _numbers(run) for seed, run in c.runs.items()} for c in [baseline, *compared.choices]}
    keys = dict.fromkeys(key for choice in compared.choices for numbers in measured[choice].values() for key in numbers)
    columns = [_column(key, measured, compared, level, any_look) for key in keys]
    order = list(BITS_PER_DIM)
    columns.sort(key=lambda c: (not c.measure.judged, c.measure.better == 0, [*order, c.measure.key].index(c.measure.key)))
    for column in columns:
        if column.measure.judged and baseline in column.numbers:
            others = [choice for choice in compared.choices if choice is not baseline and choice in column.numbers]
            column.comparisons = {choice: compare(column, choice, baseline, level, any_look) for choice in others}
    family = [c for column in columns for c in column.comparisons.values() if c.uncorrected_p is not None]
    for comparison, p in zip(family, holm([c.uncorrected_p for c in family if c.uncorrected_p is not None]), strict=True):
        comparison.p, comparison.holds = p, p <= 1 - level
    return columns


def most_judged(choices: Sequence[ComparedChoice]) -> ComparedChoice:
    """The first of those with most of the judged measures."""

    def judged(choice: ComparedChoice) -> int:
        return sum(measure_of(key).judged for key in {key for run in choice.runs.values() for key in _numbers(run)})

    return max(choices, key=judged)


def _numbers(run: ComparedRun) -> dict[str, Number]:
    numbers = {common_key(key, number): number for key, number in run.numbers.items()}
    whole = numbers.get("bound")
    if whole and "bound_chain" not in numbers and whole.record.get("steps") == run.flat.get("evaluated.steps"):
        numbers["bound_chain"] = whole
    return numbers


def _record(run: ComparedRun, number: Number) -> Record:
    """With the data set: splits of different data are not comparable."""
    keys = sorted(key for key in run.flat if key.partition(".")[0] == "data" and key not in OF_TRAINING)
    described = [f"{key.partition('.')[2]} {run.flat[key]}".strip() for key in keys]
    return number.record | {"data set": ", ".join(described)}


def _column(
    key: str,
    measured: dict[ComparedChoice, dict[int, dict[str, Number]]],
    compared: ComparedChoices,
    level: float,
    any_look: bool,
) -> Column:
    """Records are compared with that of the baseline, or of the first choice that has the number."""
    reference, column = None, Column(measure_of(key))
    several = any(numbers[key].sets for by_seed in measured.values() for numbers in by_seed.values() if key in numbers)
    told = {"seed"} if several else set()
    told |= {"step"} if "trainer.max_steps" in compared.axes else set()
    told |= {"weights"} if f"{EVALUATED}weights" in compared.axes else set()
    kept: Numbers = {}
    apart: dict[ComparedChoice, list[tuple[float, Record]]] = {}
    for choice, by_seed in measured.items():
        for seed, number in ((seed, numbers[key]) for seed, numbers in by_seed.items() if key in numbers):
            record = _record(choice.runs[seed], number)
            reference = reference or record
            if wrong := incomparable(reference, record):
                column.refused[choice] = wrong
                apart.setdefault(choice, []).append((number.value, record))
                continue
            kept.setdefault(choice, {})[seed] = number
            differing = [d for d in differences(reference, record) if d.field in REPORTED and d.field not in told]
            column.reported += [d for d in differing if d not in column.reported]
    for choice, number, without in _align(column, kept):
        reasons = column.refused.setdefault(choice, [])
        reasons += [without] * (without not in reasons)
        apart.setdefault(choice, []).append((number.value, number.record))
    interval = anytime if any_look else t_interval
    column.estimates = {c: interval([n.value for n in numbers.values()], level) for c, numbers in column.numbers.items()}
    for choice, values in apart.items():
        if choice not in column.numbers:
            alike = [value for value, record in values if not incomparable(values[0][1], record)]
            column.apart[choice] = interval(alike, level)
    column.copies = copies(column.measure, column.numbers, compared.options)
    return column


def _align(column: Column, numbers: Numbers) -> tuple[tuple[ComparedChoice, Number, Difference], ...]:
    """Puts the numbers into the column, on the sets of samples that all have. Returns those that share none, and why."""
    aligned = on_common_sets(numbers)
    column.numbers, column.sets, column.sets_left_out = aligned.numbers, aligned.seeds, aligned.left_out
    return aligned.refused


def compare(column: Column, choice: ComparedChoice, baseline: ComparedChoice, level: float, any_look: bool) -> Comparison:
    """Paired by the seeds of both; of two that share at most one, unpaired where each has two or more."""
    ours, theirs = column.numbers[choice], column.numbers[baseline]
    seeds, several = sorted(ours.keys() & theirs.keys()), min(len(ours), len(theirs)) > 1
    if len(seeds) == 1 and several and not any_look:  # one difference has no spread; Welch's holds for a fixed number of seeds
        seeds = []
    made = Comparison(column.measure, choice, baseline, seeds)
    made.lacking = {each: lacking for each in (choice, baseline) if (lacking := column.lacking(each))}
    if (copy := column.copies.get(choice)) is not None and copy.original is baseline:
        made.copy = copy
    if made.seeds:
        a, b = ([numbers[seed] for seed in made.seeds] for numbers in (ours, theirs))
        made.differences = [x.value - y.value for x, y in zip(a, b, strict=True)]
        made.wins = sum(difference * column.measure.better > 0 for difference in made.differences)
        made.over_seeds = (anytime if any_look else t_interval)(made.differences, level)
    elif several:
        a, b = [*ours.values()], [*theirs.values()]
        made.apart = sorted(ours), sorted(theirs)
        made.over_seeds = welch_interval([n.value for n in a], [n.value for n in b], level)
        if any_look:
            made.over_seeds = made.over_seeds._replace(low=None, high=None, p=None)
    else:
        return made
    if made.replicated and column.measure.better:
        x, y = ([n.value * column.measure.better for n in numbers.values()] for numbers in (ours, theirs))
        made.improvement = superiority(x, y, level)
    if len(column.sets) > 1 and len(made.seeds) > 1 and not any_look:
        by_set = components([np.subtract(x.sets, y.sets) for x, y in zip(a, b, strict=True)], level)
        made.over_both = over_both(by_set, level)
    made.over_images = over_images(a, b, level)
    made.paired = made.over_images is not None
    if not made.paired and len(made.seeds) == 1:
        made.over_images, made.sets = over_sets(a[0], b[0], level), len(a[0].sets)
        made.paired = made.over_images is not None
        made.over_images = made.over_images or unpaired(a[0], b[0], level)
    return made
