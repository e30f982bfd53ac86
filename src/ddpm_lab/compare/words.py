"""All text about results: numbers, verdicts as sentences, cautions."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ddpm_lab.compare.cautions import about_looks, about_seconds, about_sets, improvement, listed
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.comparison import Comparison, Verdict
from ddpm_lab.compare.construction import Copy
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import Measure
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.statistics import Interval
from ddpm_lab.metrics.record import Difference

MINUS = "−"
NONE = "–"
AVERAGED = "Each axis, averaged over the others (described, not judged: the intervals are not corrected for their number):"
VERDICTS = {
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.AHEAD: "ahead, seeds not replicated",
    Verdict.BEHIND: "behind, seeds not replicated",
    Verdict.CONSTRUCTION: "equal by construction",
    Verdict.IDENTICAL: "identical values",
    Verdict.OPEN: "not distinguishable",
    Verdict.SAME: "the same within the margin",
    Verdict.NONE: "nothing is supported",
    Verdict.REFUSED: "not comparable",
}
OUTSIDE = "outside: not comparable at equal cost"
VERBS = {Verdict.BETTER: "beats", Verdict.WORSE: "loses to", Verdict.AHEAD: "is ahead of", Verdict.BEHIND: "is behind"}


class Statement(NamedTuple):
    verdict: Verdict
    text: str


def decimals(values: Iterable[float], spreads: Iterable[float] = ()) -> int:
    """Enough for two digits of the median half-width or, without any, four digits of the largest value; at most 5."""
    known = sorted(spread for spread in spreads if 0 < spread < math.inf)
    size = known[len(known) // 2] if known else max((abs(value) for value in values), default=1.0)
    if size == 0:
        return 3
    return max(0, min(5, (1 if known else 3) - math.floor(math.log10(size))))


def decimals_of_differences(values: Sequence[float], spreads: Sequence[float]) -> int:
    """As many as the half-widths ask for and at least two digits of the largest; without any half-width three digits."""
    few = decimals(values) - (2 if spreads else 1)
    return max(0, few, decimals(values, spreads) if spreads else 0)


def half_widths(estimates: Iterable[Interval | None]) -> list[float]:
    """Half-widths of the intervals that there are."""
    return [(e.high - e.low) / 2 for e in estimates if e is not None and e.low is not None and e.high is not None]


def decimal(value: float, digits: int, sign: bool = False) -> str:
    """With a true minus sign, and none before zero."""
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    elif sign and value > 0:
        text = f"+{text}"
    return text.replace("-", MINUS)


def interval(estimate: Interval, digits: int, sign: bool = False) -> str:
    """[low, high], or a dash."""
    if estimate.low is None or estimate.high is None:
        return NONE
    return f"[{decimal(estimate.low, digits, sign)}, {decimal(estimate.high, digits, sign)}]"


def with_interval(value: float, estimate: Interval | None, digits: int, sign: bool = False) -> str:
    """The value, and the interval of the estimate where there is one."""
    text = decimal(value, digits, sign)
    return text if estimate is None or estimate.low is None else f"{text} {interval(estimate, digits, sign)}"


def digits_of(column: Column) -> int:
    """Decimals of a column, from its intervals or else its standard errors."""
    values = [estimate.value for estimate in column.estimates.values()]
    errors = [n.se for numbers in column.numbers.values() for n in numbers.values() if n.se]
    return min(decimals(values, half_widths(column.estimates.values()) or errors), decimals(values) + 1)


def statements(study: Study) -> list[Statement]:
    """One sentence per comparison, per other number that is equal by construction, and per reason for which numbers are
    refused."""
    made = [Statement(c.verdict, f"{sentence(c)}{improvement(c)}") for c in study.comparisons]
    for column in study.judged:
        for choice, copy in column.copies.items():
            if copy.original is not study.baseline:
                made.append(Statement(Verdict.CONSTRUCTION, _copied(choice, copy, column.measure)))
        made += _refused(column)
    return made


def _refused(column: Column) -> list[Statement]:
    """Choices with one reason share a sentence."""
    reasons: dict[str, list[str]] = {}
    for choice, differences in column.refused.items():
        reasons.setdefault("; ".join(map(_short, differences)), []).append(choice.label)
    verbs = {why: "is" if len(labels) == 1 else "are" for why, labels in reasons.items()}
    return [
        Statement(Verdict.REFUSED, f"{'; '.join(labels)} {verbs[why]} not compared on {column.measure.label}: {why}.")
        for why, labels in reasons.items()
    ]


def _short(difference: Difference) -> str:
    """Without what two descriptions of data share."""
    if difference.field != "data set":
        return str(difference)
    a, b = (str(side).split(", ") for side in (difference.a, difference.b))
    ours, theirs = (", ".join(word for word in one if word not in other) or "none" for one, other in ((a, b), (b, a)))
    return f"data set: {ours} against {theirs}"


def by_construction(copy: Copy, measure: Measure) -> str:
    """Why two numbers are equal."""
    owner = measure.label if copy.sampler is None else f"sampler={copy.sampler}"
    return f"equal by construction: {owner} does not use the {' and the '.join(copy.unused)}"


def _copied(choice: ComparedChoice, copy: Copy, measure: Measure) -> str:
    return f"{choice.label} and {copy.original.label} on {measure.label}: {by_construction(copy, measure)}."


def sentence(comparison: Comparison) -> str:
    a, b, measure = comparison.choice.label, comparison.baseline.label, comparison.measure.label
    n, verdict = len(comparison.seeds), comparison.verdict
    match verdict:
        case Verdict.CONSTRUCTION if comparison.copy is not None:
            return _copied(comparison.choice, comparison.copy, comparison.measure)
        case Verdict.IDENTICAL:
            seeds_of_both = f"every seed of both ({n})" if n > 1 else "the one seed of both"
            return f"{a} and {b} have identical values of {measure} in {seeds_of_both}."
        case Verdict.NONE:
            return f"{a} against {b} on {measure}: {_why_nothing(comparison)}"
        case Verdict.OPEN if comparison.below_floor and comparison.floor is not None:
            return f"{a} against {b} on {measure}: {_inconclusive(comparison, comparison.floor)}"
        case Verdict.SAME if comparison.margin is not None:
            return f"{a} and {b} are the same within {comparison.margin:.3g} on {measure}: {_why_open(comparison)}"
        case Verdict.OPEN:
            return f"{a} and {b} are not distinguishable on {measure}: {_why_open(comparison)}"
    return f"{a} {VERBS[verdict]} {b} on {measure}{_how_sure(comparison)}"


def _why_nothing(comparison: Comparison) -> str:
    if comparison.over_seeds is None:
        return "nothing is supported: they share no seed, and not both have two. Train both with the same seeds."
    distance = _distance(comparison.over_seeds, _digits(comparison))
    if not comparison.lacking:
        return f"{distance}, but nothing is supported: one seed, not replicated, and no error over images is known."
    missing = ", nor for ".join(lacking(*each) for each in comparison.lacking.items())
    where = f"there is no such number for {missing}, as where samples are not finite."
    return f"{distance} where both have it, but nothing is supported: {where}"


def _inconclusive(comparison: Comparison, floor: float) -> str:
    (difference,), digits = comparison.differences, _digits(comparison)
    text = (
        f"difference {decimal(difference, digits, True)} at one seed, inconclusive: below the floor of {decimal(floor, digits)}"
    )
    return f"{text}, by which two single runs of one choice may differ."


def _how_sure(comparison: Comparison) -> str:
    """Of a difference that stands: by how much, and over what."""
    deciding, images, n = comparison.deciding, comparison.over_images, len(comparison.seeds)
    assert comparison.over_seeds is not None
    assert deciding is not None
    digits = _digits(comparison)
    distance = f"{_distance(comparison.over_seeds, digits)} {interval(deciding.size, digits)}."
    if not comparison.replicated:
        return f": {distance} One seed, not replicated: the interval is {_over_images(comparison)}."
    alone = "" if images is None else f" Over the {images.n:,} images alone: {interval(images.size, digits)}."
    if (both := comparison.over_both) is not None:
        vanish = "" if both.excludes_zero else ", so it might vanish"
        alone += f" Over other sampling seeds too: {interval(both.size, digits)}{vanish}."
    count = comparison.wins if comparison.verdict is Verdict.BETTER else n - comparison.wins
    how = f", {_unpaired(comparison)}" if comparison.apart else f" in {count} of {n} seeds"
    return f"{how}: {distance}{alone}"


def _why_open(comparison: Comparison) -> str:
    deciding, images, n = comparison.deciding, comparison.over_images, len(comparison.seeds)
    assert deciding is not None
    over = f"over {n} seeds" if n > 1 else f"{_over_images(comparison)}; one seed, not replicated"
    over = _unpaired(comparison) if comparison.apart else over
    digits = _digits(comparison)
    text = f"difference {with_interval(deciding.value, deciding, digits, True)} {over}"
    if deciding.low is None:
        return f"{text}, as yet without a bounded interval."
    if comparison.holds and images is not None:
        return f"{text}, but over other images it might vanish: {interval(images, digits, True)} over {images.n:,}."
    if deciding.excludes_zero and comparison.verdict is not Verdict.SAME:
        return f"{text}, which does not hold once all comparisons are counted (p = {comparison.p:.2g} by Holm)."
    return f"{text}."


def _over_images(comparison: Comparison) -> str:
    n = comparison.over_images.n if comparison.over_images else 0
    if comparison.sets > 1:
        return f"over {n} sets of samples only"
    return f"over {n:,} images only{'' if comparison.paired else ', unpaired'}"


def _unpaired(comparison: Comparison) -> str:
    return f"unpaired, seeds {' against '.join(map(listed_seeds, comparison.apart or ()))}"


def listed_seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= 5 else f"{seeds[0]} … {seeds[-1]} ({len(seeds)})"


def lacking(choice: ComparedChoice, seeds: Sequence[int]) -> str:
    return f"{choice.label} of seed {', '.join(map(str, seeds))}"


def _distance(estimate: Interval, digits: int) -> str:
    if estimate.value == 0:
        return "no different"
    return f"{'lower' if estimate.value < 0 else 'higher'} by {decimal(estimate.size.value, digits)}"


def _digits(comparison: Comparison) -> int:
    values = [comparison.over_seeds.value] if comparison.over_seeds else []
    return decimals_of_differences(values, half_widths((comparison.over_seeds, comparison.over_images))[:1])


def effect_sentence(effect: Effect) -> str:
    head = f"{effect.axis}, {effect.value} instead of {effect.against}: {effect.measure.label} "
    if effect.copy is not None:
        return f"{head}{by_construction(effect.copy, effect.measure)}."
    estimate, n = effect.estimate, len(effect.settings)
    digits = decimals_of_differences([estimate.value], half_widths([estimate]))
    span = "" if estimate.low is None else f" {interval(estimate.size, digits)}"
    over = f"{len(effect.seeds)} seeds" if len(effect.seeds) > 1 else "one seed, so without an interval"
    where = f"on average over {n} settings of the others" if n > 1 else "in the one setting that has both"
    agreed = f"; {agreement(effect)}" if n > 1 else ""
    return f"{head}{_distance(estimate, digits)}{span} {where}, {over}{agreed}."


def agreement(effect: Effect) -> str:
    """In which direction the settings point."""
    n, lower, higher = len(effect.settings), effect.lower, effect.higher
    if effect.disagree:
        return f"the settings disagree (an interaction, or chance): lower in {lower} of {n}"
    word, count = ("lower", lower) if lower else ("higher", higher)
    if 0 < count < n:
        fixed = f" ({len(effect.copies)} by construction)" if effect.copies else ""
        return f"{word} in {count} of {n}, else the same{fixed}"
    return f"{word} in all" if count else "the same in all"


def cautions(study: Study) -> list[str]:
    """What the reader must know beside the numbers."""
    compared = study.compared
    texts = [
        f"{axis} differs only together with {follows}, so their effects cannot be separated."
        for axis, follows in compared.axes.items()
        if follows is not None
    ]
    texts += [
        f"{listed([c.label for c in shared])} share their training: each was measured on the same networks, so their bits/dim "
        "and samples are paired on the network as well."
        for shared in study.shared_training
    ]
    if single := [choice.label for choice in compared.choices if len(choice.runs) == 1]:
        all_of_them = len(single) == len(compared.choices)
        alone = f"One seed only, so no interval over seeds: {listed(single)}."
        texts.append("No choice has more than one seed, so there is no interval over seeds." if all_of_them else alone)
    if lopsided := list(dict.fromkeys(c.choice.label for c in study.comparisons if c.apart and _lopsided(*map(len, c.apart)))):
        texts.append(f"Unpaired intervals fall short where one side has few seeds and the other many: {listed(lopsided)}.")
    for column in study.judged:
        label = column.measure.label
        if gaps := [lacking(choice, seeds) for choice in compared.choices if (seeds := column.lacking(choice))]:
            texts.append(f"{label}: there is none for {listed(gaps)}; means are of the other seeds, and so may flatter.")
        if column.reported:
            texts.append(f"{label}: numbers were measured with different {'; '.join(map(str, column.reported[:4]))}.")
    return [*texts, *about_looks(study), *about_sets(study), *about_seconds(study), *compared.notes]


def _lopsided(a: int, b: int) -> bool:
    return min(a, b) < 5 and max(a, b) >= 2 * min(a, b)
