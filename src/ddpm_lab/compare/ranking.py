"""Which choice has the best mean, of choices that need not have the same seeds."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ddpm_lab.compare.choices import ComparedChoice


@dataclass
class Ranking:
    """A mean over other seeds may be better by these seeds alone, so choices are ranked on the seeds that they share."""

    means: dict[ComparedChoice, float]
    """Over `seeds`; over each choice's own where there are none."""
    best: list[ComparedChoice]
    """Several where equal."""
    seeds: list[int]
    """Those that all of `means` have, where they are two or more, or all that there are."""
    alike: bool
    """Whether all of `means` have the same seeds."""
    single: list[ComparedChoice]
    """Choices of one seed, not ranked where two others have several: their chance is not known."""


def rank(values: Mapping[ComparedChoice, Mapping[int, float]], better: int) -> Ranking:
    """`values`: by choice and seed. `better`: 1 where higher is better, −1 where lower is."""
    single = [choice for choice, by_seed in values.items() if len(by_seed) == 1]
    single = single if len(values) - len(single) > 1 else []
    ranked = {choice: by_seed for choice, by_seed in values.items() if choice not in single}
    common = sorted(set[int].intersection(*map(set, ranked.values()))) if ranked else []
    alike = all(len(by_seed) == len(common) for by_seed in ranked.values())
    seeds = common if alike or len(common) > 1 else []
    means = {choice: float(np.mean([by_seed[seed] for seed in seeds or by_seed])) for choice, by_seed in ranked.items()}
    best = max((mean * better for mean in means.values()), default=0.0)
    return Ranking(means, [choice for choice, mean in means.items() if mean * better == best], seeds, alike, single)
