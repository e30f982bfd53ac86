"""Numbers on several sets of samples are compared on the sets that all of them have, by sampling seed."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.number import Number
from ddpm_lab.metrics.record import Difference

Numbers = dict[ComparedChoice, dict[int, Number]]
"""By choice and training seed."""


class OnCommonSets(NamedTuple):
    numbers: Numbers
    seeds: tuple[int, ...] = ()
    """Sampling seeds of the common sets; empty where no number has several."""
    left_out: tuple[int, ...] = ()
    """Sampling seeds of sets that some lack."""
    refused: tuple[tuple[ComparedChoice, Number, Difference], ...] = ()
    """Numbers that have no set in common with the others."""


def on_common_sets(numbers: Numbers) -> OnCommonSets:
    """As they are where none has several sets. One whose sampling seed is not known has none in common with others.

    Numbers come by how many have the most frequent of their sets, then in their order, which begins with the baseline: of two
    that share none, the one that shares a set with more others stays.
    """
    if not any(number.sets for by_seed in numbers.values() for number in by_seed.values()):
        return OnCommonSets(numbers)
    every = [(choice, number) for choice, by_seed in numbers.items() for number in by_seed.values()]
    counts = Counter(sampling_seed for _, number in every for sampling_seed in number.by_set)
    common, seen, refused = set[int](), set[int](), list[tuple[ComparedChoice, Number, Difference]]()
    for choice, number in sorted(every, key=lambda each: -max((counts[s] for s in each[1].by_set), default=0)):
        sets = set(number.by_set)
        if not sets or (common and not sets & common):
            refused.append((choice, number, Difference("sampling seeds", _listed(common), _listed(sets))))
            continue
        common, seen = (sets & common) or sets, seen | sets
    seeds, kept = tuple(sorted(common)), Numbers()
    for choice, by_seed in numbers.items():
        if means := {seed: _mean_over(n, seeds) for seed, n in by_seed.items() if common <= n.by_set.keys()}:
            kept[choice] = means
    return OnCommonSets(kept, seeds, tuple(sorted(seen - common)), tuple(refused))


def _listed(seeds: set[int]) -> str:
    return ", ".join(map(str, sorted(seeds))) or "not known"


def _mean_over(number: Number, seeds: tuple[int, ...]) -> Number:
    by_set = number.by_set
    if by_set.keys() == set(seeds):
        return number
    values = tuple(by_set[seed] for seed in seeds)
    se = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return number._replace(value=float(np.mean(values)), se=se, sets=values if len(values) > 1 else ())
