"""What one axis does, averaged over the rest: its main effect, as analysis of variance calls it. Described, not judged: a
verdict would have to stand in the one family of comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddpm_lab.compare.choices import Choice, Compared
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import Measure
from ddpm_lab.compare.statistics import Estimate, t_interval

NONE = "–"
"""Where a choice does not have the axis."""


@dataclass
class Effect:
    """Of one value of an axis against the baseline's, on one measure. Differences are value − against."""

    axis: str
    value: str
    against: str
    measure: Measure
    seeds: list[int]
    """That every setting has."""
    estimate: Estimate
    """Over seeds, of the mean over settings."""
    settings: list[float]
    """The difference in each setting of the other axes that was run with both values: the mean over seeds."""

    @property
    def lower(self) -> int:
        return sum(difference < 0 for difference in self.settings)

    @property
    def disagree(self) -> bool:
        """Lower in one setting and higher in another: an interaction, or chance."""
        return min(self.settings) < 0 < max(self.settings)


def effects(compared: Compared, columns: Sequence[Column], baseline: Choice, level: float) -> list[Effect]:
    """Of every value of every free axis, by axis; none where no axis was varied under two settings of the rest."""
    found = [
        effect
        for axis in compared.free
        for value in dict.fromkeys(choice.values.get(axis, NONE) for choice in compared.choices)
        if value != baseline.values.get(axis, NONE)
        for column in columns
        if (effect := _effect(compared, axis, value, baseline, column, level)) is not None
    ]
    return found if any(len(effect.settings) > 1 for effect in found) else []


def _effect(compared: Compared, axis: str, value: str, baseline: Choice, column: Column, level: float) -> Effect | None:
    """None where no setting has both values with a common seed, or settings have no seed that all of them share."""
    against, others = baseline.values.get(axis, NONE), [key for key in compared.free if key != axis]
    by_rest = {
        end: {tuple(c.values.get(key, NONE) for key in others): c for c in compared.choices if c.values.get(axis, NONE) == end}
        for end in (value, against)
    }
    ends = [(c, by_rest[against][rest]) for rest, c in by_rest[value].items() if rest in by_rest[against]]
    numbers = [[column.numbers.get(choice.label, {}) for choice in pair] for pair in ends]
    pairs = [(own, other) for own, other in numbers if own.keys() & other.keys()]
    seeds = sorted(set.intersection(*(set(own.keys() & other.keys()) for own, other in pairs))) if pairs else []
    if not seeds:
        return None
    differences = np.array([[own[seed].value - other[seed].value for seed in seeds] for own, other in pairs])
    estimate = t_interval(differences.mean(0), level)
    return Effect(axis, value, against, column.measure, seeds, estimate, differences.mean(1).tolist())
