"""Which choice is better: every measured number of every choice, held against the baseline's where their records allow."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ddpm_lab.compare.choices import Arm, Choice, Compared
from ddpm_lab.compare.folders import Number
from ddpm_lab.compare.measures import BPD, Measure, common_key, named
from ddpm_lab.compare.pairing import over_images, unpaired
from ddpm_lab.compare.statistics import Estimate, holm, t_interval, welch_interval
from ddpm_lab.metrics.record import Record, differences, incomparable

BY_CHANCE = ("seed", "weights", "stride", "precision", "step", "clip", "split")
"""Fields that may differ, and are worth a word where they do."""
OF_TRAINING = ("data.batch_size", "data.flip", "data.workers")
"""Keys of data that say how they are trained on, and not which they are."""


@dataclass
class Comparison:
    """One choice against the baseline, on one measure. Differences are choice − baseline."""

    measure: Measure
    choice: Choice
    baseline: Choice
    seeds: list[int]
    """That both have."""
    wins: int
    """Seeds in which the choice is the better one."""
    over_seeds: Estimate | None
    over_images: Estimate | None
    """Paired where `paired`; else, at one seed, from both standard errors."""
    paired: bool
    apart: tuple[list[int], list[int]] | None = None
    """Seeds of the choice and of the baseline, two or more each, where they share none: `over_seeds` is Welch's then."""
    lacking: list[str] = field(default_factory=list)
    """Of which runs of either there is no such number, where the others may owe their own to chance or to what failed there."""
    p: float | None = None
    """After Holm's correction over all comparisons that are judged."""

    @property
    def replicated(self) -> bool:
        return len(self.seeds) > 1 or self.apart is not None

    @property
    def deciding(self) -> Estimate | None:
        """What the p-value is of: seeds where they were replicated, else images."""
        return self.over_seeds if self.replicated else self.over_images

    @property
    def same(self) -> bool:
        """No seed differs at all: they are one measurement, or one model."""
        found = self.over_seeds
        return found is not None and found.value == 0 and (found.n == 1 or found.low == found.high)


@dataclass
class Column:
    """One measure over all choices. `refused` says of a choice why its number may not be held against the others."""

    measure: Measure
    numbers: dict[str, dict[int, Number]]
    """By the choice's label and the seed; those that may be compared."""
    estimates: dict[str, Estimate]
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Judged:
    columns: list[Column]
    comparisons: list[Comparison]

    def of(self, choice: Choice, key: str) -> Comparison | None:
        return next((c for c in self.comparisons if c.choice is choice and c.measure.key == key), None)


def judged(compared: Compared, baseline: Choice, level: float) -> Judged:
    """All columns; and of those that are judged, every other choice against the baseline."""
    keys = dict.fromkeys(key for choice in compared.choices for arm in choice.arms.values() for key in _numbers(arm))
    columns = [_column(key, compared, baseline, level) for key in keys]
    order = list(BPD)
    columns.sort(key=lambda c: (not c.measure.judged, c.measure.better == 0, [*order, c.measure.key].index(c.measure.key)))
    comparisons = [
        found
        for column in columns
        if column.measure.judged and baseline.label in column.numbers
        for choice in compared.choices
        if choice is not baseline and (found := _comparison(column, choice, baseline, level)) is not None
    ]
    for found in comparisons:
        column = next(column for column in columns if column.measure is found.measure)
        found.lacking = [text for choice in (found.choice, found.baseline) if (text := lacking(column, choice))]
    family = [c for c in comparisons if c.deciding is not None and c.deciding.p is not None and not c.same]
    for found, p in zip(family, holm([c.deciding.p for c in family if c.deciding and c.deciding.p is not None]), strict=True):
        found.p = p
    return Judged(columns, comparisons)


def _numbers(arm: Arm) -> dict[str, Number]:
    found = {common_key(key, number): number for key, number in arm.numbers.items()}
    whole = found.get("bound")
    if whole and "bound_chain" not in found and whole.record.get("steps") == arm.flat.get("evaluated.steps"):
        found["bound_chain"] = whole
    return found


def _record(arm: Arm, number: Number) -> Record:
    """What was said beside it, and which data it is of: splits of other data are no measure of each other."""
    data = ", ".join(
        f"{key.removeprefix('data.')} {value}"
        for key, value in sorted(arm.flat.items())
        if key.startswith("data.") and key not in OF_TRAINING
    )
    return number.record | {"data set": data}


def _column(key: str, compared: Compared, baseline: Choice, level: float) -> Column:
    found = {choice.label: {s: (a, _numbers(a)[key]) for s, a in choice.arms.items() if key in _numbers(a)}
             for choice in [baseline, *compared.choices]}  # fmt: skip
    arm, number = next(iter(next(iter(own for own in found.values() if own)).values()))
    reference, column = _record(arm, number), Column(named(key), {}, {})
    longer = any(axis.key == "trainer.max_steps" for axis in compared.axes)
    for label, own in found.items():
        kept = {}
        for seed, (arm, number) in own.items():
            record = _record(arm, number)
            if wrong := incomparable(reference, record):
                column.refused[label] = "; ".join(map(str, wrong))
                continue
            kept[seed] = number
            column.notes += [
                str(d) for d in differences(reference, record) if d.field in BY_CHANCE and not (longer and d.field == "step")
            ]
        if kept:
            column.numbers[label] = kept
            column.estimates[label] = t_interval([n.value for n in kept.values()], level)
    column.notes = list(dict.fromkeys(column.notes))
    return column


def lacking(column: Column, choice: Choice) -> str:
    """Of which seeds a choice has been run and has no such number, if it has it of others; empty if of none."""
    own = column.numbers.get(choice.label, {})
    seeds = [seed for seed in choice.arms if seed not in own]
    return f"{choice.label} of seed {', '.join(map(str, seeds))}" if own and seeds else ""


def _comparison(column: Column, choice: Choice, baseline: Choice, level: float) -> Comparison | None:
    own, other = column.numbers.get(choice.label), column.numbers[baseline.label]
    if own is None:
        return None
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return _apart(column, choice, baseline, level)
    difference = [own[seed].value - other[seed].value for seed in seeds]
    wins = sum(d * column.measure.better > 0 for d in difference)
    images = over_images([own[seed] for seed in seeds], [other[seed] for seed in seeds], level)
    paired = images is not None
    if images is None and len(seeds) == 1:
        images = unpaired(own[seeds[0]], other[seeds[0]], level)
    return Comparison(column.measure, choice, baseline, seeds, wins, t_interval(difference, level), images, paired)


def _apart(column: Column, choice: Choice, baseline: Choice, level: float) -> Comparison:
    """Of two that share no seed."""
    own, other = column.numbers[choice.label], column.numbers[baseline.label]
    if min(len(own), len(other)) < 2:
        return Comparison(column.measure, choice, baseline, [], 0, None, None, False)
    over_seeds = welch_interval([n.value for n in own.values()], [n.value for n in other.values()], level)
    images = over_images([*own.values()], [*other.values()], level)
    seeds = (sorted(own), sorted(other))
    return Comparison(column.measure, choice, baseline, [], 0, over_seeds, images, images is not None, seeds)


def winners(column: Column, choices: Sequence[Choice]) -> list[str]:
    """Labels of the best mean, for print; several where they are equal. One that lacks a seed is no winner."""
    if not column.measure.better:
        return []
    means = {
        c.label: column.estimates[c.label].value * column.measure.better
        for c in choices
        if c.label in column.estimates and not lacking(column, c)
    }
    return [label for label, mean in means.items() if mean == max(means.values())]
