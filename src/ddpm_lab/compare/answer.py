"""Which choice is best on each judged measure, and which choices cannot be told from it.

The best is chosen by looking at all choices. So "worse than the best" is claimed only where it stands after Holm's correction
over all pairs of choices on all judged measures of the study: any pair may be picked afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.comparison import Verdict
from ddpm_lab.compare.judge import Column, compare
from ddpm_lab.compare.measures import Measure
from ddpm_lab.compare.sequential import anytime
from ddpm_lab.compare.statistics import Floats, holm

Places = NDArray[np.intp]


@dataclass
class Answer:
    """On one judged measure. Of choices that are equal by construction one counts."""

    column: Column
    open: list[ComparedChoice] = field(default_factory=list)
    """Those that cannot be told from the best."""
    opposite: list[ComparedChoice] = field(default_factory=list)
    """Those that are better than the best on the seeds that both have: the best mean is over other seeds."""
    worse: list[ComparedChoice] = field(default_factory=list)
    replicated: bool = False
    """Whether any two choices can be compared over seeds."""
    family: int = 0
    """Pairs of choices of the study, over all its judged measures, that the correction counts."""

    @property
    def measure(self) -> Measure:
        return self.column.measure

    @property
    def ranked(self) -> list[ComparedChoice]:
        return list(self.column.ranking.means)

    @property
    def best(self) -> list[ComparedChoice]:
        return self.column.ranking.best

    @property
    def value(self) -> float:
        """Of the best mean."""
        return self.column.ranking.means[self.best[0]]


def answers(columns: Sequence[Column], level: float, any_look: bool = False) -> list[Answer]:
    """One for each column, which must be judged. "Worse" needs, as "beats" does, images that do not object, and the interval
    over both kinds of seed, where it is known. `any_look`: it holds whenever one looks, see `anytime`; choices that share no
    seed are not told apart then."""
    made = [Answer(column) for column in columns]
    tables = [(anytime_p if any_look else pairwise_p)(_values(answer)) for answer in made]
    places = [np.argwhere(np.triu(np.isfinite(table), 1)) for table in tables]
    adjusted = iter(holm([float(table[i, j]) for table, pairs in zip(tables, places, strict=True) for i, j in pairs]))
    for answer, pairs in zip(made, places, strict=True):
        standing = {frozenset((int(i), int(j))) for i, j in pairs if next(adjusted) <= 1 - level}
        answer.replicated, answer.family = len(pairs) > 0, sum(map(len, places))
        _sort(answer, standing, level, any_look)
    return made


def _values(answer: Answer) -> Floats:
    """Of shape (choices, seeds); NaN where a choice has not that seed."""
    numbers = [answer.column.numbers[choice] for choice in answer.ranked]
    seeds = sorted({seed for each in numbers for seed in each})
    return np.array([[each[seed].value if seed in each else np.nan for seed in seeds] for each in numbers]).reshape(
        -1, len(seeds)
    )


def _sort(answer: Answer, standing: set[frozenset[int]], level: float, any_look: bool) -> None:
    """Every other choice is worse than the best, or open, or better on the seeds of both; the next best first. `standing`:
    pairs of places in `ranked` that differ over seeds."""
    means = {choice: -answer.measure.better * mean for choice, mean in answer.column.ranking.means.items()}
    lists = {Verdict.WORSE: answer.worse, Verdict.BETTER: answer.opposite}
    for choice in sorted(answer.ranked, key=means.__getitem__):
        if choice not in answer.best:
            differs = frozenset(map(answer.ranked.index, (choice, answer.best[0]))) in standing
            verdict = _stands(answer.column, choice, answer.best[0], level, any_look) if differs else Verdict.OPEN
            lists.get(verdict, answer.open).append(choice)


def _stands(column: Column, choice: ComparedChoice, best: ComparedChoice, level: float, any_look: bool) -> Verdict:
    """Of a difference over seeds that stands: better or worse, where neither images nor other sampling seeds object."""
    made = column.comparisons.get(choice)
    if made is None or made.baseline is not best:
        made = compare(column, choice, best, level, any_look)
    if made.over_both is not None and not made.over_both.excludes_zero:
        return Verdict.OPEN
    return replace(made, p=0.0, holds=True).verdict


def pairwise_p(values: Floats) -> Floats:
    """Two-sided p-values of differences of rows, of shape (choices, choices). `values`: of shape (choices, seeds), NaN where
    a choice has not that seed. Student's paired test over the seeds of both; Welch's (1947) of rows that share at most one.
    NaN where neither can be made (fewer than two seeds), and where no seed differs."""
    known, (a, b) = np.isfinite(values), np.triu_indices(len(values), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shared = (known[a] & known[b]).sum(1) > 1
        tests = _paired(values[a] - values[b]), _welch(values, a, b)
        mean, se, dof = (np.where(shared, x, y) for x, y in zip(*tests, strict=True))
        p = np.where(dof > 0, 2 * stdtr(dof, -abs(mean) / se), np.nan)
    table = np.full((len(values), len(values)), np.nan)
    table[a, b] = table[b, a] = p
    return table


def anytime_p(values: Floats) -> Floats:
    """As `pairwise_p`, over the seeds of both alone, at every look."""
    table = np.full((len(values), len(values)), np.nan)
    for a, b in zip(*np.triu_indices(len(values), 1), strict=True):
        differences = values[a] - values[b]
        differences = differences[np.isfinite(differences)]
        if len(differences) > 1 and differences.any():
            table[a, b] = table[b, a] = anytime(differences, 0.95).p  # which does not depend on the level
    return table


def _paired(differences: Floats) -> tuple[Floats, Floats, Floats]:
    """Mean, standard error and degrees of freedom of each row; NaN is left out."""
    n = np.isfinite(differences).sum(-1)
    mean = np.nansum(differences, -1) / n
    squares = np.nansum((differences - mean[:, None]) ** 2, -1)
    return mean, np.sqrt(squares / (n - 1) / n), n - 1.0


def _welch(values: Floats, a: Places, b: Places) -> tuple[Floats, Floats, Floats]:
    """The same of the differences between rows a and b."""
    mean, se, dof = _paired(values)
    u, v = se[a] ** 2, se[b] ** 2
    s = u + v  # squares of its shares do not overflow
    welch = 1 / ((u / s) ** 2 / dof[a] + (v / s) ** 2 / dof[b])
    return mean[a] - mean[b], np.sqrt(s), np.where(s > 0, welch, dof[a] + dof[b])
