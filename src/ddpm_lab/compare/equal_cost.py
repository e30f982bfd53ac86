"""Reverse variances at equal seconds: the Fréchet distance of one choice against that of another variance at the same cost.

Between its measured numbers of steps the distance of the other is taken as a power of its seconds: the logarithm of one is
interpolated linearly over the logarithm of the other. Nothing is extrapolated. Seconds outside of the measured ones by no more
than `REPEATED` are compared with the nearest of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddpm_lab.compare.choices import EVALUATED, SEPARATOR, ComparedChoice, ComparedChoices, as_yaml
from ddpm_lab.compare.comparison import Verdict
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import NumberKind
from ddpm_lab.compare.sequential import anytime
from ddpm_lab.compare.statistics import Interval, holm, t_interval

REPEATED = 0.05
"""By how much the logarithms of a timing and of its repetition may differ."""
STEPS, VARIANCE = f"{EVALUATED}steps", f"{EVALUATED}variance"
Points = Mapping[int, tuple[float, float]]
"""By seed the logarithms of seconds and distance."""


@dataclass(eq=False)
class Curve:
    """What differs in its steps alone, by increasing steps, with all seeds of each."""

    label: str
    variance: str
    points: dict[ComparedChoice, Points]
    others: frozenset[tuple[str, str]]
    """The configuration but for steps and variance: curves that agree in it are compared."""


@dataclass
class EqualCost:
    """The distance of a choice against that of another curve at the seconds of the choice."""

    choice: ComparedChoice
    other: Curve
    seconds: float
    """Per 1,000 samples, the geometric mean over seeds."""
    span: tuple[float, float]
    """The seconds between which the other was measured in every seed."""
    log_ratio: Interval | None
    """Over seeds, of the difference of logarithms; None outside the span in some seed."""
    p: float | None = None
    """After Holm's correction over all comparisons at equal seconds."""
    holds: bool = False

    @property
    def verdict(self) -> Verdict:
        if self.log_ratio is None:
            return Verdict.REFUSED
        if self.p is None:
            return Verdict.NONE
        if not self.holds:
            return Verdict.OPEN
        return Verdict.BETTER if self.log_ratio.value < 0 else Verdict.WORSE


def compared_distance(columns: Sequence[Column]) -> Column | None:
    """The distance that is compared at equal seconds: of several feature spaces the first."""
    return next((column for column in columns if column.measure.distance), None)


def curves(compared: ComparedChoices, columns: Sequence[Column]) -> list[Curve]:
    """Of two and more numbers of steps, in the order of choices. Left out are choices whose seconds or distances are not known
    of every seed, or may not be compared, and those that equal another choice by construction."""
    distance = compared_distance(columns)
    seconds = next((column for column in columns if column.measure.kind is NumberKind.DURATION), None)
    if distance is None or seconds is None:
        return []
    found: dict[frozenset[tuple[str, str]], dict[ComparedChoice, Points]] = {}
    for choice in compared.choices:
        points = _points(choice, seconds, distance)
        if choice not in distance.copies and len(points) == len(choice.runs):
            found.setdefault(_without(choice, STEPS), {})[choice] = points
    return [_curve(points) for points in found.values() if len(points) > 1]


def _curve(points: dict[ComparedChoice, Points]) -> Curve:
    by_steps = dict(sorted(points.items(), key=lambda item: int(str(item[0].first.flat[STEPS]))))
    first = next(iter(by_steps))
    label = SEPARATOR.join(word for axis, word in first.words.items() if axis != STEPS) or "the only variance"
    return Curve(label, as_yaml(first.first.flat[VARIANCE]), by_steps, _without(first, STEPS, VARIANCE))


def _without(choice: ComparedChoice, *keys: str) -> frozenset[tuple[str, str]]:
    return frozenset((key, as_yaml(value)) for key, value in choice.first.flat.items() if key not in keys)


def _points(choice: ComparedChoice, seconds: Column, distance: Column) -> Points:
    """Of the seeds that have both."""
    x, y = (column.numbers.get(choice, {}) for column in (seconds, distance))
    both = {seed: (x[seed].value, y[seed].value) for seed in x if seed in y}
    return {seed: (float(np.log(s)), float(np.log(d))) for seed, (s, d) in both.items() if s > 0 and d > 0}


def equal_cost(compared: ComparedChoices, columns: Sequence[Column], level: float, any_look: bool = False) -> list[EqualCost]:
    """Every choice against every other curve of another variance, with p-values corrected over all of them."""
    all_curves = curves(compared, columns)
    made = [
        compared_at
        for curve in all_curves
        for other in all_curves
        if other is not curve and other.others == curve.others
        for choice, points in curve.points.items()
        if (compared_at := _against(choice, points, other, level, any_look)) is not None
    ]
    family = [(each, each.log_ratio.p) for each in made if each.log_ratio is not None and each.log_ratio.p is not None]
    for (each, _), p in zip(family, holm([p for _, p in family]), strict=True):
        each.p, each.holds = p, p <= 1 - level
    return made


def _against(choice: ComparedChoice, points: Points, other: Curve, level: float, any_look: bool) -> EqualCost | None:
    """None where they share no seed."""
    seeds = [seed for seed in points if all(seed in each for each in other.points.values())]
    if not seeds:
        return None
    known = {seed: np.array(sorted(each[seed] for each in other.points.values())).T for seed in seeds}
    span = max(x[0] for x, _ in known.values()), min(x[-1] for x, _ in known.values())
    at = np.array([points[seed][0] for seed in seeds])
    made = EqualCost(choice, other, float(np.exp(at.mean())), (float(np.exp(span[0])), float(np.exp(span[1]))), None)
    if all(known[seed][0][0] - REPEATED <= points[seed][0] <= known[seed][0][-1] + REPEATED for seed in seeds):
        interval = anytime if any_look else t_interval
        made.log_ratio = interval([points[seed][1] - np.interp(points[seed][0], *known[seed]) for seed in seeds], level)
    return made
