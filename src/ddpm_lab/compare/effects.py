"""The main effect of each axis, in the sense of the analysis of variance: averaged over the settings of the other axes.

Effects are described and not judged: they are no part of the family of comparisons that Holm's correction runs over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ddpm_lab.compare.choices import MISSING, ComparedChoice, ComparedChoices
from ddpm_lab.compare.construction import Copy, copies
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import Measure
from ddpm_lab.compare.sequential import anytime
from ddpm_lab.compare.statistics import Interval, t_interval


@dataclass
class Effect:
    """Of one value of an axis against the baseline's, on one measure. Differences are value − against."""

    axis: str
    value: str
    against: str
    measure: Measure
    seeds: list[int]
    """Those of every setting."""
    estimate: Interval
    """Over seeds, of the mean over settings."""
    settings: list[float]
    """The difference, a mean over seeds, in each setting of the other axes that was run with both values."""
    copies: list[Copy] = field(default_factory=list)
    """Of settings that are equal by construction."""

    @property
    def copy(self) -> Copy | None:
        """Where every setting is equal by construction."""
        return self.copies[0] if len(self.copies) == len(self.settings) else None

    @property
    def lower(self) -> int:
        return sum(difference < 0 for difference in self.settings)

    @property
    def higher(self) -> int:
        return sum(difference > 0 for difference in self.settings)

    @property
    def disagree(self) -> bool:
        """Lower in one setting and higher in another: an interaction, or chance."""
        return bool(self.lower and self.higher)


def effects(
    compared: ComparedChoices, columns: Sequence[Column], baseline: ComparedChoice, level: float, any_look: bool = False
) -> list[Effect]:
    """Of every value of every free axis, by axis; none where no axis was varied under two settings of the others."""
    described = [
        effect
        for axis in compared.free
        for value in dict.fromkeys(choice.values.get(axis, MISSING) for choice in compared.choices)
        if value != baseline.values.get(axis, MISSING)
        for column in columns
        if (effect := _effect(compared, axis, value, baseline, column, level, any_look)) is not None
    ]
    return described if any(len(effect.settings) > 1 for effect in described) else []


def _effect(
    compared: ComparedChoices, axis: str, value: str, baseline: ComparedChoice, column: Column, level: float, any_look: bool
) -> Effect | None:
    """None where no setting has both values with a common seed, or the settings share no seed."""
    against, numbers = baseline.values.get(axis, MISSING), column.numbers

    def setting(choice: ComparedChoice) -> tuple[str | None, ...]:
        return tuple(choice.values.get(key) for key in compared.free if key != axis)

    partners = {setting(c): c for c in numbers if c.values.get(axis, MISSING) == against}
    ends = [c for c in compared.choices if c in numbers and c.values.get(axis, MISSING) == value and setting(c) in partners]
    pairs = [(c, partners[setting(c)]) for c in ends if numbers[c].keys() & numbers[partners[setting(c)]].keys()]
    seeds = sorted(set.intersection(*(set(numbers[end]) for pair in pairs for end in pair))) if pairs else []
    if not seeds:
        return None
    differences = np.array([[numbers[a][seed].value - numbers[b][seed].value for seed in seeds] for a, b in pairs])
    made = [copies(column.measure, {b: numbers[b], a: numbers[a]}, compared.options) for a, b in pairs]
    of_settings = [copy for each in made for copy in each.values()]
    estimate = (anytime if any_look else t_interval)(differences.mean(0), level)
    return Effect(axis, value, against, column.measure, seeds, estimate, differences.mean(1).tolist(), of_settings)
