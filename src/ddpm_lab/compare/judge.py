"""Which choice is better: each number of each choice against the baseline's, where their records allow a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

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
    wins: int
    """Seeds in which the choice is the better one."""
    over_seeds: Interval | None
    over_images: Interval | None
    """Paired where `paired`; else, at one seed, from both standard errors."""
    paired: bool
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
    def in_family(self) -> bool:
        deciding = self.deciding
        return deciding is not None and deciding.p is not None and not self.identical and self.copy is None

    @property
    def images_object(self) -> bool:
        """The interval over images includes zero, whatever the seeds."""
        return self.replicated and self.over_images is not None and not self.over_images.excludes_zero

    @property
    def verdict(self) -> Verdict:
        if self.copy is not None:
            return Verdict.CONSTRUCTION
        if self.identical and not self.lacking:
            return Verdict.IDENTICAL
        if self.deciding is None or self.p is None or self.lacking:
            return Verdict.NONE
        if not self.holds or self.images_object:
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
    reported: list[Difference] = field(default_factory=list)
    copies: dict[ComparedChoice, Copy] = field(default_factory=dict)
    """Choices whose number equals that of another choice by construction."""

    def lacking(self, choice: ComparedChoice) -> list[int]:
        """Seeds of which a choice lacks a number that it has of other seeds."""
        numbers = self.numbers.get(choice, {})
        return [seed for seed in choice.runs if seed not in numbers] if numbers else []


@dataclass
class Judgement:
    columns: list[Column]
    comparisons: list[Comparison]

    def of(self, choice: ComparedChoice, key: str) -> Comparison | None:
        return next((c for c in self.comparisons if c.choice is choice and c.measure.key == key), None)


def judge(compared: ComparedChoices, baseline: ComparedChoice, level: float) -> Judgement:
    """All columns; of those that are judged, each other choice against the baseline, with p-values corrected over all."""
    measured = {c: {seed: _numbers(run) for seed, run in c.runs.items()} for c in [baseline, *compared.choices]}
    keys = dict.fromkeys(key for choice in compared.choices for numbers in measured[choice].values() for key in numbers)
    columns = [_column(key, measured, compared, level) for key in keys]
    order = list(BITS_PER_DIM)
    columns.sort(key=lambda c: (not c.measure.judged, c.measure.better == 0, [*order, c.measure.key].index(c.measure.key)))
    comparisons = [
        _comparison(column, choice, baseline, level)
        for column in columns
        if column.measure.judged and baseline in column.numbers
        for choice in compared.choices
        if choice is not baseline and choice in column.numbers
    ]
    family = [c for c in comparisons if c.in_family]
    for comparison, p in zip(
        family, holm([c.deciding.p for c in family if c.deciding and c.deciding.p is not None]), strict=True
    ):
        comparison.p, comparison.holds = p, p <= 1 - level
    return Judgement(columns, comparisons)


def _numbers(run: ComparedRun) -> dict[str, Number]:
    numbers = {common_key(key, number): number for key, number in run.numbers.items()}
    whole = numbers.get("bound")
    if whole and "bound_chain" not in numbers and whole.record.get("steps") == run.flat.get("evaluated.steps"):
        numbers["bound_chain"] = whole
    return numbers


def _record(run: ComparedRun, number: Number) -> Record:
    """With the data set: splits of different data are not comparable."""
    data = ", ".join(
        f"{key.removeprefix('data.')} {value}"
        for key, value in sorted(run.flat.items())
        if key.startswith("data.") and key not in OF_TRAINING
    )
    return number.record | {"data set": data}


def _column(
    key: str, measured: dict[ComparedChoice, dict[int, dict[str, Number]]], compared: ComparedChoices, level: float
) -> Column:
    """Records are compared with that of the baseline, or of the first choice that has the number."""
    reference, column = None, Column(measure_of(key))
    longer = any(axis.key == "trainer.max_steps" for axis in compared.axes)
    for choice, by_seed in measured.items():
        kept = {}
        for seed, numbers in by_seed.items():
            if (number := numbers.get(key)) is None:
                continue
            record = _record(choice.runs[seed], number)
            reference = reference or record
            if wrong := incomparable(reference, record):
                column.refused[choice] = wrong
                continue
            kept[seed] = number
            differing = [
                d for d in differences(reference, record) if d.field in REPORTED and not (longer and d.field == "step")
            ]
            column.reported += [d for d in differing if d not in column.reported]
        if kept:
            column.numbers[choice] = kept
            column.estimates[choice] = t_interval([n.value for n in kept.values()], level)
    column.copies = copies(column.measure, column.numbers, compared.options)
    return column


def _comparison(column: Column, choice: ComparedChoice, baseline: ComparedChoice, level: float) -> Comparison:
    ours, theirs = column.numbers[choice], column.numbers[baseline]
    seeds = sorted(ours.keys() & theirs.keys())
    if seeds:
        difference = [ours[seed].value - theirs[seed].value for seed in seeds]
        wins = sum(d * column.measure.better > 0 for d in difference)
        images = over_images([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], level)
        paired = images is not None
        if images is None and len(seeds) == 1:
            images = unpaired(ours[seeds[0]], theirs[seeds[0]], level)
        made = Comparison(column.measure, choice, baseline, seeds, wins, t_interval(difference, level), images, paired)
    else:
        made = _apart(column, choice, baseline, level)
    made.lacking = {each: lacking for each in (choice, baseline) if (lacking := column.lacking(each))}
    copy = column.copies.get(choice)
    made.copy = copy if copy is not None and copy.original is baseline else None
    return made


def _apart(column: Column, choice: ComparedChoice, baseline: ComparedChoice, level: float) -> Comparison:
    """Of two that share no seed."""
    ours, theirs = column.numbers[choice], column.numbers[baseline]
    if min(len(ours), len(theirs)) < 2:
        return Comparison(column.measure, choice, baseline, [], 0, None, None, False)
    over_seeds = welch_interval([n.value for n in ours.values()], [n.value for n in theirs.values()], level)
    images = over_images([*ours.values()], [*theirs.values()], level)
    seeds = (sorted(ours), sorted(theirs))
    return Comparison(column.measure, choice, baseline, [], 0, over_seeds, images, images is not None, seeds)


def winners(column: Column, choices: Sequence[ComparedChoice]) -> list[ComparedChoice]:
    """The best mean; several where equal. Not a choice that lacks a seed, nor a copy; none where all others are copies."""
    means = {
        choice: column.estimates[choice].value * column.measure.better
        for choice in choices
        if choice in column.estimates and choice not in column.copies and not column.lacking(choice)
    }
    if not column.measure.better or (len(means) == 1 and column.copies):
        return []
    return [choice for choice, mean in means.items() if mean == max(means.values())]
