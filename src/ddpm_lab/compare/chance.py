"""Where the chance in a measure comes from, over all its choices: training, samples, images; and what pairing by seed saves."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.components import Components, Floor, components, floor
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import Measure
from ddpm_lab.compare.needed import Pairing, pairing
from ddpm_lab.compare.number import Number
from ddpm_lab.compare.pairing import per_datum


@dataclass
class Chance:
    """Of one measure, from the choices that share two seeds or more.

    Variances are in squared units of the measure. Where `relative`, as of distances, the numbers of each choice were divided by
    their mean before, since their spread grows with their size: variances and floor are then in units of that mean.
    """

    measure: Measure
    choices: list[ComparedChoice]
    seeds: list[int]
    """Training seeds that all of `choices` have."""
    sets: tuple[int, ...]
    """Sampling seeds of the sets of samples, where there are several."""
    parts: Components
    floor: Floor | None
    """Least difference of two single, unpaired runs, measured as these were, that is not chance."""
    images: float | None
    """Variance of a mean over images, the trained network given, of a bound whose data are known one by one: over all
    `choices` and `seeds` on average."""
    pairings: list[Pairing] = field(default_factory=list)
    """Of each choice against the baseline, where they share three seeds or more."""
    relative: bool = False
    left_out: list[ComparedChoice] = field(default_factory=list)
    """Choices with too few seeds in common with the others."""
    seeds_left_out: list[int] = field(default_factory=list)
    """Training seeds that some of `choices` lack."""

    def floor_between(self, a: float, b: float) -> float | None:
        """In units of the measure, for choices with these means."""
        return None if self.floor is None else self.floor.difference * ((a + b) / 2 if self.relative else 1)

    @property
    def shares(self) -> dict[str, float]:
        """Of the variance of one number on one set of samples: by source, at least 0; empty where there is none."""
        named = (("training", self.parts.training), ("generation", self.parts.generation), ("residual", self.parts.residual))
        variances = {name: max(0.0, part.variance) for name, part in named if part is not None}
        total = sum(variances.values())
        return {name: variance / total for name, variance in variances.items()} if total > 0 else {}

    @property
    def saved(self) -> tuple[float, float, float] | None:
        """How many times fewer seeds a paired comparison needs: of one comparison with its interval, of several the median with
        the least and the largest."""
        if len(self.pairings) == 1:
            return self.pairings[0].saved
        factors = [each.saved[0] for each in self.pairings if each.saved is not None]
        return (float(np.median(factors)), min(factors), max(factors)) if factors else None


def chance_of(columns: Iterable[Column], level: float) -> list[Chance]:
    """Of each judged measure of which two seeds of one choice are known."""
    return [made for column in columns if column.measure.judged and (made := _chance(column, level)) is not None]


def _chance(column: Column, level: float) -> Chance | None:
    free = {choice: numbers for choice, numbers in column.numbers.items() if choice not in column.copies}
    kept, seeds = _balanced(free)
    if len(seeds) < 2:
        return None
    several = len(column.sets) > 1
    y = np.array([[number.sets if several else (number.value,) for number in (free[c][seed] for seed in seeds)] for c in kept])
    means = y.mean((1, 2), keepdims=True)
    relative = column.measure.distance and bool((means > 0).all())
    parts = components(y / means if relative else y, level)
    made = Chance(
        column.measure,
        kept,
        seeds,
        column.sets if several else (),
        parts,
        None,
        _of_images(free[c][s] for c in kept for s in seeds),
    )
    made.relative = relative
    made.floor = floor(parts, level, len(column.sets) if several else 1)
    made.left_out = [choice for choice in free if choice not in kept]
    made.seeds_left_out = sorted({seed for choice in kept for seed in free[choice]} - set(seeds))
    for c in column.comparisons.values():
        if len(c.seeds) > 2 and c.copy is None and not c.identical:
            a, b = ([column.numbers[choice][seed].value for seed in c.seeds] for choice in (c.choice, c.baseline))
            made.pairings.append(pairing(a, b, level))
    return made


def _balanced(numbers: dict[ComparedChoice, dict[int, Number]]) -> tuple[list[ComparedChoice], list[int]]:
    """Choices, from the first on, as long as they share two seeds; and these seeds."""
    kept: list[ComparedChoice] = []
    seeds: set[int] = set()
    for choice, by_seed in numbers.items():
        common = seeds & by_seed.keys() if kept else set(by_seed)
        if len(common) > 1:
            kept, seeds = [*kept, choice], common
    return kept, sorted(seeds)


def _of_images(numbers: Iterable[Number]) -> float | None:
    """Mean over numbers of the variance of their mean over images, data of one offset being a stratum."""
    variances = []
    for number in numbers:
        arrays = number.per_datum.read() if number.per_datum else {}
        if (values := per_datum(arrays, number.value)) is None:
            return None
        stratum = arrays["index"] % int(arrays["stride"])
        strata = [values[stratum == offset] for offset in np.unique(stratum)]
        if min(map(len, strata)) < 2:
            return None
        variances.append(sum(float(each.var(ddof=1)) / len(each) for each in strata))
    return float(np.mean(variances)) if variances else None
