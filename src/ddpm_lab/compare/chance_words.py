"""Text about chance: where it comes from, how it was judged, and how many seeds would settle what is open."""

import math

from ddpm_lab.compare.cautions import counted
from ddpm_lab.compare.chance import Chance
from ddpm_lab.compare.comparison import Comparison
from ddpm_lab.compare.components import Component
from ddpm_lab.compare.measures import NumberKind
from ddpm_lab.compare.plan import seconds_of
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.words import decimal, decimals

MOST = 8
"""Comparisons of which is said how many seeds they need."""
TOO_MANY = 1_000
"""Further seeds above which no number is said."""
SOURCES = {"training": "training seed", "generation": "sampling seed", "residual": "both together"}


def rule(study: Study) -> str:
    """How intervals over seeds were made."""
    if study.questions.any_look:
        return "which hold at every look (looks=any)"
    return "their number taken as fixed beforehand"


def chance_lines(study: Study) -> list[str]:
    """Empty where no choice has two seeds."""
    if not study.chance:
        return []
    floor = f"floor: least difference of two single, unpaired runs that is not chance at {100 * study.level:g}%"
    return [f"where chance comes from (standard deviations; {floor}):", *(f"  {_chance(each)}" for each in study.chance)]


def _chance(chance: Chance) -> str:
    spreads = {name: _root(part.variance) for name, part in sources(chance).items()}
    images = [] if chance.images is None else [math.sqrt(chance.images)]
    digits = decimals([], [*spreads.values(), *images])
    parts = []
    for (name, part), share in zip(sources(chance).items(), chance.shares.values() or [0.0] * len(spreads), strict=True):
        of_variance = f" ({share:.0%} of the variance)" if len(spreads) > 1 and share > 0 else ""
        size = _percent(spreads[name]) if chance.relative else decimal(spreads[name], digits)
        parts.append(f"{name} {size if part.variance >= 0 else '≤ 0'}{of_variance}")
    parts += [f"images {decimal(spread, digits)}" for spread in images]
    if (floor := chance.floor) is not None:
        share = "" if floor.percent is None else f"{_percent(floor.percent / 100)} of the mean"
        parts.append(
            f"floor {share}" if chance.relative else f"floor {decimal(floor.difference, digits)}{f' ({share})' * bool(share)}"
        )
    sets = f" by {len(chance.sets)} sets" if chance.sets else ""
    where = f"{counted(len(chance.choices), 'choice')}, {len(chance.seeds)} seeds{sets}"
    return f"{chance.measure.label} ({where}): {'; '.join(parts)}{_pairing(chance)}."


def _percent(share: float) -> str:
    """With two digits."""
    return f"{100 * share:.2g}%" if share < 0.995 else f"{100 * share:,.0f}%"


def sources(chance: Chance) -> dict[str, Component]:
    """The components that are known, by what they are of."""
    known = {words: part for name, words in SOURCES.items() if (part := getattr(chance.parts, name)) is not None}
    if chance.measure.kind is NumberKind.SAMPLES and not chance.sets:
        return dict(zip(["training seed and samples, not told apart"], known.values(), strict=True))
    return known


def _pairing(chance: Chance) -> str:
    """What pairing saves: seeds in proportion to the variance of a difference."""
    if chance.saved is None:
        return ""
    factor, low, high = chance.saved
    several = len(chance.pairings) > 1
    ends = _times(low), _times(high)
    span = f" (median of {len(chance.pairings)} comparisons, {' to '.join(ends)})" if several else f" [{', '.join(ends)}]"
    return f"; paired by seed, a comparison needs {_percent(1 / factor)} of the seeds: factor {_times(factor)}{span}"


def _times(factor: float) -> str:
    """With two digits."""
    return f"{factor:.2g}" if factor < 99.5 else f"{factor:,.0f}"


def _root(variance: float) -> float:
    return math.sqrt(max(0.0, variance))


def needed_lines(study: Study) -> list[str]:
    """Of open comparisons, how many more seeds would settle them."""
    known = [(needed.seeds.n - len(c.seeds), c) for c in study.comparisons if (needed := c.needed) is not None]
    open_ones = [(more, c) for more, c in known if more > 0]
    if not open_ones:
        return []
    shown = sorted(open_ones, key=lambda pair: pair[0])[:MOST]
    more = len(open_ones) - len(shown)
    family = sum(comparison.p is not None for comparison in study.comparisons)
    share = f"at Bonferroni's share of {100 * (1 - study.level):g}% for each of {counted(family, 'comparison')}"
    head = f"more seeds of both to tell a difference, paired, with probability {study.questions.power:g}, {share}:"
    return [
        head,
        *(f"  {_needed(c)}" for _, c in shown),
        *[f"  and {counted(more, 'comparison')} beyond these in table.csv, of as many seeds or more"] * bool(more),
    ]


def _needed(comparison: Comparison) -> str:
    assert comparison.needed is not None
    size, observed, seeds = comparison.needed
    more, low, high = (_up_to(n - len(comparison.seeds)) for n in seeds)
    each = [seconds_of([choice]) for choice in (comparison.choice, comparison.baseline)]
    known = [seconds for seconds in each if seconds is not None]
    hours = f", {(seeds.n - len(comparison.seeds)) * sum(known) / 3600:.2g} h" if len(known) == 2 else ""
    of = f"the observed {size:.2g}, which flatters" if observed else f"{size:.3g}"
    who = f"{comparison.choice.label} against {comparison.baseline.label} on {comparison.measure.label}"
    further = seeds.n - len(comparison.seeds)
    return f"{who}: for {of}, {more}." if further > TOO_MANY else f"{who}: for {of}, about {more} ({low} to {high}){hours}."


def _up_to(more: int) -> str:
    return f"{more:,}" if more <= TOO_MANY else f"more than {TOO_MANY:,}"


def chance_fields(chance: Chance) -> dict[str, float | None]:
    """Of table.csv, by what is put behind the key of the measure."""
    variances = {"training": chance.parts.training, "sampling": chance.parts.generation, "both": chance.parts.residual}
    unit = "_relative" if chance.relative else ""
    fields: dict[str, float | None] = {} if chance.relative else {"_floor": chance.floor and chance.floor.difference}
    fields |= {"_floor_percent": chance.floor and chance.floor.percent}
    fields |= {f"{unit}_variance_{name}": part.variance for name, part in variances.items() if part is not None}
    return fields | {"_variance_images": chance.images, "_pairing_factor": chance.saved and chance.saved[0]}


def further_fields(comparison: Comparison) -> dict[str, float | None]:
    """The same of a comparison."""
    fields: dict[str, float | None] = {}
    if comparison.improvement is not None:
        value, low, high = comparison.improvement[:3]
        fields |= {"_p_better": value, "_p_better_low": low, "_p_better_high": high}
    if comparison.over_both is not None:
        fields |= {"_difference_both_low": comparison.over_both.low, "_difference_both_high": comparison.over_both.high}
    if comparison.margin is not None:
        fields |= {"_margin": comparison.margin, "_margin_p_holm": comparison.same_p}
    if comparison.needed is not None:
        size, observed, seeds = comparison.needed
        fields |= {"_resolve": size, "_resolve_observed": observed, "_seeds_needed": seeds.n}
        fields |= {"_seeds_needed_low": seeds.low, "_seeds_needed_high": seeds.high}
    return fields
