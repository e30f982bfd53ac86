"""What a comparison that is not decided comes to: the same in practice, below the floor, or so many seeds from a decision."""

from collections.abc import Iterable, Sequence

import numpy as np

from ddpm_lab.compare.chance import Chance
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.comparison import Comparison, NeededSeeds, Verdict
from ddpm_lab.compare.equivalence import tost
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.needed import seeds_needed
from ddpm_lab.compare.questions import Questions, size_on
from ddpm_lab.compare.sequential import anytime
from ddpm_lab.compare.statistics import holm


def answer(
    columns: Sequence[Column], baseline: ComparedChoice, chance: Iterable[Chance], level: float, asked: Questions
) -> None:
    """Completes the comparisons of all columns."""
    of_measure = {each.measure: each for each in chance}
    judged = []
    for column in columns:
        mean, known = column.estimates[baseline].value if column.comparisons else 0.0, of_measure.get(column.measure)
        for choice, c in column.comparisons.items():
            c.floor = None if known is None else known.floor_between(mean, column.estimates[choice].value)
            judged.append((c, mean))
    for c, mean in judged:
        c.margin = size_on(asked.same_within, c.measure, mean)
    _equivalence([c for c, _ in judged], level, asked.any_look)
    share = 1 - (1 - level) / max(1, sum(c.p is not None for c, _ in judged))
    for c, mean in judged:
        if c.verdict is Verdict.OPEN and not (c.holds and c.images_object) and not asked.any_look:
            c.needed = _needed(c, mean, share, asked)


def _equivalence(comparisons: Iterable[Comparison], level: float, any_look: bool) -> None:
    """Of all replicated differences for which a margin was asked, with p-values corrected over all of them."""
    tested = [(c, p) for c in comparisons if (p := _p_of_margin(c, level, any_look)) is not None]
    for (c, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
        c.same_p, c.same = p, p <= 1 - level and _others_within(c)


def _p_of_margin(c: Comparison, level: float, any_look: bool) -> float | None:
    """Of a difference of the margin or more; None where there is no interval over seeds."""
    if c.margin is None or not c.replicated or c.over_seeds is None or c.uncorrected_p is None:
        return None
    if not any_look:
        tested = tost(c.over_seeds, c.margin, level)
        return None if tested is None else tested.p
    if abs(c.over_seeds.value) >= c.margin:
        return 1.0
    return max(anytime([d + side for d in c.differences], level).p or 0.0 for side in (-c.margin, c.margin))


def _others_within(c: Comparison) -> bool:
    """Whether the intervals over images and over both kinds of seed, where they are known, lie within the margin."""
    margin = c.margin or 0.0
    for known in filter(None, (c.over_images, c.over_both)):
        if known.low is None or known.high is None or not -margin < known.low <= known.high < margin:
            return False
    return True


def _needed(c: Comparison, mean: float, level: float, asked: Questions) -> NeededSeeds | None:
    """None where fewer than two seeds are paired, or no size was asked for on this measure. `level`: Bonferroni's share of one
    comparison of the family."""
    n, size = len(c.seeds), size_on(asked.resolve, c.measure, mean)
    if not asked.resolve:
        size = abs(float(np.mean(c.differences))) if n else 0.0
    if n < 2 or not size:
        return None
    spread = float(np.std(c.differences, ddof=1))
    return NeededSeeds(size, not asked.resolve, seeds_needed(spread, n, size, level, asked.power))
