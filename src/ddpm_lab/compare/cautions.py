"""What the reader must know of columns as a whole, as text."""

from collections.abc import Iterator, Sequence
from itertools import count

from ddpm_lab.compare.comparison import Comparison, Verdict
from ddpm_lab.compare.measures import NumberKind
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.sequential import least_p

SEEDS_OF_A_SHARE = 5
DECIDED_OR_OPEN = (Verdict.BETTER, Verdict.WORSE, Verdict.OPEN, Verdict.SAME)
BUSY = 0.1
"""The share of waiting from which it is said."""


def about_sets(study: Study) -> Iterator[str]:
    """On which sets of samples numbers were compared, and which parts of a column its components leave out."""
    for column in study.judged:
        if column.sets_left_out:
            common, others = (", ".join(map(str, seeds)) for seeds in (column.sets, column.sets_left_out))
            yield f"{column.measure.label}: compared on samples of sampling seed {common}, which all have; left out: {others}."
    for chance in study.chance:
        parts = [f"{listed([choice.label for choice in chance.left_out])}"] if chance.left_out else []
        parts += [f"seed {', '.join(map(str, chance.seeds_left_out))}"] if chance.seeds_left_out else []
        if parts:
            yield f"{chance.measure.label}: where chance comes from is of what all have; left out: {'; '.join(parts)}."


def about_looks(study: Study) -> Iterator[str]:
    """Whether there are too few seeds for any difference to stand at every look, however large it is."""
    over_seeds = [len(c.seeds) for c in study.comparisons if c.p is not None and c.replicated and c.seeds]
    if not study.questions.any_look or not over_seeds:
        return
    n, least = max(over_seeds), (1 - study.level) / len(over_seeds)  # of the smallest p, by Holm
    if least_p(n) > least:
        needed = next(more for more in count(n) if least_p(more) <= least)
        family = counted(len(over_seeds), "comparison")
        yield f"looks=any: with {n} seeds nothing can be decided here ({family}); {needed} is the least."


def about_seconds(study: Study) -> Iterator[str]:
    """Of sampling: which may not be compared, and whether other work took the cores."""
    for column in study.columns:
        if column.measure.kind is NumberKind.DURATION:
            by_reason: dict[str, list[str]] = {}
            for choice, why in column.refused.items():
                by_reason.setdefault("; ".join(map(str, why)), []).append(choice.label)
            for why, labels in by_reason.items():
                named = listed(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
                yield f"{named}: their seconds are not compared with those of the others: {why}."
            shares = [number.record.get("waited") for numbers in column.numbers.values() for number in numbers.values()]
            if (most := max((share for share in shares if isinstance(share, float)), default=0.0)) > BUSY:
                yield f"Sampling seconds: threads waited up to {most:.0%} of the time for a core, which other work had."


def listed(labels: Sequence[str]) -> str:
    return "; ".join(labels) if len(labels) <= 4 else f"{len(labels)} of the choices"


def improvement(comparison: Comparison) -> str:
    """The probability that one run of the choice is better than one of the baseline, from five seeds of each on: of fewer, runs
    say little of it."""
    each = tuple(map(len, comparison.apart)) if comparison.apart else (len(comparison.seeds),)
    if comparison.improvement is None or min(each) < SEEDS_OF_A_SHARE or comparison.verdict not in DECIDED_OR_OPEN:
        return ""
    value, low, high = comparison.improvement[:3]
    span = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return f" One run is better than one of {comparison.baseline.label} with probability {value:.2f}{span}."


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
