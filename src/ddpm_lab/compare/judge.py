"""Which choice is better: each number of each choice against the baseline's, where their records allow a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from ddpm_lab.compare.choices import ComparedChoice, ComparedChoices, ComparedRun
from ddpm_lab.compare.construction import Copy, copies
from ddpm_lab.compare.measures import BITS_PER_DIM, Measure, common_key, measure_of
from ddpm_lab.compare.pairing import over_images, unpaired
from ddpm_lab.compare.run_folder import Number
from ddpm_lab.compare.statistics import Interval, holm, t_interval, welch_interval
from ddpm_lab.metrics.record import Difference, Record, differences, incomparable

REPORTED = ("seed", "weights", "stride", "precision", "step", "clip", "split")
"""Fields of a record that may differ, and are reported where they do."""
OF_TRAINING = ("data.batch_size", "data.flip", "data.workers")
"""Keys of data about training on it, which do not change the data set."""


class Verdict(StrEnum):
    """In the order in which sentences are shown."""

    BETTER = "better"
    AHEAD = "ahead"
    """Better at the one seed there is."""
    WORSE = "worse"
    BEHIND = "behind"
    OPEN = "open"
    """Not distinguishable."""
    CONSTRUCTION = "equal_by_construction"
    IDENTICAL = "identical"
    """Equal in every seed, for no reason that the records state."""
    NONE = "none"
    """Nothing is supported."""
    REFUSED = "refused"


@dataclass
class Comparison:
    """One choice against the baseline, on one measure. Differences are choice − baseline."""

    measure: Measure
    choice: ComparedChoice
    baseline: ComparedChoice
    seeds: list[int]
    """Those of both."""
    wins: int = 0
    """Seeds in which the choice is the better one."""
    over_seeds: Interval | None = None
    over_images: Interval | None = None
    """Paired where `paired`; else, at one seed, from both standard errors."""
    paired: bool = False
    apart: tuple[list[int], list[int]] | None = None
    """Seeds of the choice and of the baseline, two or more each, where they share none: `over_seeds` is Welch's then."""
    lacking: dict[ComparedChoice, list[int]] = field(default_factory=dict)
    """Of either choice, the seeds without the number. Nothing is supported then: samples may have diverged."""
    copy: Copy | None = None
    p: float | None = None
    """After Holm's correction over all comparisons that can differ."""
    holds: bool = False
    """Whether `p` is at most 1 − level."""

    @property
    def replicated(self) -> bool:
        return len(self.seeds) > 1 or self.apart is not None

    @property
    def deciding(self) -> Interval | None:
        """What the p-value is of: seeds where replicated, else images."""
        return self.over_seeds if self.replicated else self.over_images

    @property
    def identical(self) -> bool:
        """No seed differs at all."""
        seeds = self.over_seeds
        return seeds is not None and seeds.value == 0 and (seeds.n == 1 or seeds.low == seeds.high)

    @property
    def uncorrected_p(self) -> float | None:
        """None where the comparison is outside the family that is corrected: there is no interval, or nothing can differ."""
        return None if self.deciding is None or self.identical or self.copy is not None else self.deciding.p

    @property
    def verdict(self) -> Verdict:
        if self.copy is not None:
            return Verdict.CONSTRUCTION
        if self.identical and not self.lacking:
            return Verdict.IDENTICAL
        if self.deciding is None or self.p is None or self.lacking:
            return Verdict.NONE
        images_object = self.over_images is not None and not self.over_images.excludes_zero
        if not self.holds or (self.replicated and images_object):
            return Verdict.OPEN
        better = self.deciding.value * self.measure.better > 0
        if self.replicated:
            return Verdict.BETTER if better else Verdict.WORSE
        return Verdict.AHEAD if better else Verdict.BEHIND


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
    def winners(self) -> list[ComparedChoice]:
        """The best mean; several where equal. Not a choice that lacks a seed, nor a copy; none where all others are copies."""
        better = self.measure.better
        free = {c: e.value * better for c, e in self.estimates.items() if c not in self.copies and not self.lacking(c)}
        if not better or (len(free) == 1 and self.copies):
            return []
        best = max(free.values(), default=0.0)
        return [choice for choice, mean in free.items() if mean == best]


def judge(compared: ComparedChoices, baseline: ComparedChoice, level: float) -> list[Column]:
    """All columns; of those that are judged, each other choice against the baseline, with p-values corrected over all."""
    measured = {c: {seed: _numbers(run) for seed, run in c.runs.items()} for c in [baseline, *compared.choices]}
    keys = dict.fromkeys(key for choice in compared.choices for numbers in measured[choice].values() for key in numbers)
    columns = [_column(key, measured, compared, level) for key in keys]
    order = list(BITS_PER_DIM)
    columns.sort(key=lambda c: (not c.measure.judged, c.measure.better == 0, [*order, c.measure.key].index(c.measure.key)))
    for column in columns:
        if column.measure.judged and baseline in column.numbers:
            others = [choice for choice in compared.choices if choice is not baseline and choice in column.numbers]
            column.comparisons = {choice: compare(column, choice, baseline, level) for choice in others}
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
    key: str, measured: dict[ComparedChoice, dict[int, dict[str, Number]]], compared: ComparedChoices, level: float
) -> Column:
    """Records are compared with that of the baseline, or of the first choice that has the number."""
    reference, column = None, Column(measure_of(key))
    reported = [field for field in REPORTED if field != "step" or "trainer.max_steps" not in compared.axes]
    for choice, by_seed in measured.items():
        kept: dict[int, Number] = {}
        apart: list[tuple[float, Record]] = []
        for seed, number in ((seed, numbers[key]) for seed, numbers in by_seed.items() if key in numbers):
            record = _record(choice.runs[seed], number)
            reference = reference or record
            if wrong := incomparable(reference, record):
                column.refused[choice] = wrong
                apart.append((number.value, record))
                continue
            kept[seed] = number
            differing = [d for d in differences(reference, record) if d.field in reported]
            column.reported += [d for d in differing if d not in column.reported]
        if kept:
            column.numbers[choice] = kept
            column.estimates[choice] = t_interval([n.value for n in kept.values()], level)
        elif apart:
            alike = [value for value, record in apart if not incomparable(apart[0][1], record)]
            column.apart[choice] = t_interval(alike, level)
    column.copies = copies(column.measure, column.numbers, compared.options)
    return column


def compare(column: Column, choice: ComparedChoice, baseline: ComparedChoice, level: float) -> Comparison:
    """Paired by the seeds of both; of two that share none, unpaired where each has two or more."""
    ours, theirs = column.numbers[choice], column.numbers[baseline]
    made = Comparison(column.measure, choice, baseline, sorted(ours.keys() & theirs.keys()))
    made.lacking = {each: lacking for each in (choice, baseline) if (lacking := column.lacking(each))}
    if (copy := column.copies.get(choice)) is not None and copy.original is baseline:
        made.copy = copy
    if made.seeds:
        a, b = ([numbers[seed] for seed in made.seeds] for numbers in (ours, theirs))
        differences = [x.value - y.value for x, y in zip(a, b, strict=True)]
        made.wins = sum(difference * column.measure.better > 0 for difference in differences)
        made.over_seeds = t_interval(differences, level)
    elif min(len(ours), len(theirs)) > 1:
        a, b = [*ours.values()], [*theirs.values()]
        made.apart = sorted(ours), sorted(theirs)
        made.over_seeds = welch_interval([n.value for n in a], [n.value for n in b], level)
    else:
        return made
    made.over_images = over_images(a, b, level)
    made.paired = made.over_images is not None
    if not made.paired and len(made.seeds) == 1:
        made.over_images = unpaired(a[0], b[0], level)
    return made
