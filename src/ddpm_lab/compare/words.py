"""All text about results: verdicts as sentences, cells of tables, cautions."""

from collections.abc import Sequence
from typing import NamedTuple

from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.construction import Copy
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.judge import Comparison, Verdict
from ddpm_lab.compare.measures import Measure
from ddpm_lab.compare.numerals import decimal, decimals, interval
from ddpm_lab.compare.statistics import Interval
from ddpm_lab.compare.study import Study, effect_digits, half_widths

AVERAGED = "Each axis, averaged over the others (described, not judged: the intervals are not corrected for their number):"
VERDICTS = {
    Verdict.BETTER: "better",
    Verdict.WORSE: "worse",
    Verdict.AHEAD: "ahead, seeds not replicated",
    Verdict.BEHIND: "behind, seeds not replicated",
    Verdict.CONSTRUCTION: "equal by construction",
    Verdict.IDENTICAL: "identical values",
    Verdict.OPEN: "not distinguishable",
    Verdict.NONE: "nothing is supported",
    Verdict.REFUSED: "not comparable",
}


class Statement(NamedTuple):
    verdict: Verdict
    text: str


def statements(study: Study) -> list[Statement]:
    """One sentence per comparison, per other number that is equal by construction, and per refused number."""
    made = [Statement(comparison.verdict, sentence(comparison)) for comparison in study.judged.comparisons]
    for column in (column for column in study.judged.columns if column.measure.judged):
        for choice, copy in column.copies.items():
            if copy.original is not study.baseline:
                made.append(Statement(Verdict.CONSTRUCTION, _copied(choice, copy, column.measure)))
        for choice, differences in column.refused.items():
            why = "; ".join(map(str, differences))
            made.append(Statement(Verdict.REFUSED, f"{choice.label} is not compared on {column.measure.label}: {why}."))
    return made


def by_construction(copy: Copy, measure: Measure) -> str:
    """Why two numbers are equal."""
    owner = measure.label if copy.sampler is None else f"sampler={copy.sampler}"
    return f"equal by construction: {owner} does not use the {' and the '.join(copy.unused)}"


def _copied(choice: ComparedChoice, copy: Copy, measure: Measure) -> str:
    return f"{choice.label} and {copy.original.label} on {measure.label}: {by_construction(copy, measure)}."


def sentence(comparison: Comparison) -> str:
    a, b, measure = comparison.choice.label, comparison.baseline.label, comparison.measure.label
    seeds, n, verdict = comparison.over_seeds, len(comparison.seeds), comparison.verdict
    if seeds is None:
        why = "they share no seed, and not both have two. Train both with the same seeds."
        return f"{a} against {b} on {measure}: nothing is supported: {why}"
    distance = _distance(seeds, _digits(comparison))
    match verdict:
        case Verdict.CONSTRUCTION if comparison.copy is not None:
            return _copied(comparison.choice, comparison.copy, comparison.measure)
        case Verdict.IDENTICAL:
            seeds_of_both = f"every seed of both ({n})" if n > 1 else "the one seed of both"
            return f"{a} and {b} have identical values of {measure} in {seeds_of_both}."
        case Verdict.NONE if comparison.lacking:
            missing = ", nor for ".join(_lacking(*each) for each in comparison.lacking.items())
            where = f"there is no such number for {missing}, as where samples are not finite."
            return f"{a} against {b} on {measure}: {distance} where both have it, but nothing is supported: {where}"
        case Verdict.NONE:
            why = "one seed, not replicated, and no error over images is known."
            return f"{a} against {b} on {measure}: {distance}, but nothing is supported: {why}"
        case Verdict.BETTER | Verdict.WORSE:
            better = verdict is Verdict.BETTER
            count = comparison.wins if better else n - comparison.wins
            how = f", {_unpaired(comparison.apart)}" if comparison.apart else f" in {count} of {n} seeds"
            verb = "beats" if better else "loses to"
            return f"{a} {verb} {b} on {measure}{how}: {distance} {_span(comparison, seeds)}.{_of_images(comparison)}"
        case Verdict.AHEAD | Verdict.BEHIND:
            verb = "is ahead of" if verdict is Verdict.AHEAD else "is behind"
            return f"{a} {verb} {b} on {measure}: {distance} {_one_seed(comparison)}"
    return f"{a} and {b} are not distinguishable on {measure}: {_why_open(comparison)}"


def _unpaired(apart: tuple[Sequence[int], Sequence[int]]) -> str:
    return f"unpaired, seeds {' against '.join(map(_seeds, apart))}"


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= 5 else f"{seeds[0]} … {seeds[-1]} ({len(seeds)})"


def _lacking(choice: ComparedChoice, seeds: Sequence[int]) -> str:
    return f"{choice.label} of seed {', '.join(map(str, seeds))}"


def _distance(estimate: Interval, digits: int) -> str:
    if estimate.value == 0:
        return "no different"
    return f"{'lower' if estimate.value < 0 else 'higher'} by {decimal(abs(estimate.value), digits)}"


def _of_distance(estimate: Interval, digits: int) -> str:
    """The interval of the absolute difference."""
    low, high = estimate.low, estimate.high
    if estimate.value < 0 and low is not None and high is not None:
        low, high = -high, -low
    return interval(low, high, digits)


def _span(comparison: Comparison, estimate: Interval, signed: bool = False) -> str:
    """The interval of the absolute difference; of the difference itself where `signed`."""
    digits = _digits(comparison)
    return interval(estimate.low, estimate.high, digits, True) if signed else _of_distance(estimate, digits)


def _digits(comparison: Comparison) -> int:
    estimates = (comparison.over_seeds, comparison.over_images)
    spans = half_widths(estimates)
    values = [comparison.over_seeds.value] if comparison.over_seeds else []
    return max(decimals(values, spans[:1]), decimals(values, []) - 2) if spans else decimals(values, []) - 1


def _of_images(comparison: Comparison) -> str:
    images = comparison.over_images
    return "" if images is None else f" Over the {images.n:,} images alone: {_span(comparison, images)}."


def _one_seed(comparison: Comparison) -> str:
    images = comparison.over_images
    assert images is not None
    how = "" if comparison.paired else ", unpaired"
    return f"{_span(comparison, images)}. One seed, not replicated: the interval is over {images.n:,} images only{how}."


def _why_open(comparison: Comparison) -> str:
    deciding, images, n = comparison.deciding, comparison.over_images, len(comparison.seeds)
    assert deciding is not None
    how = "" if comparison.paired else ", unpaired"
    over = f"over {n} seeds" if n > 1 else f"over {deciding.n:,} images only{how}; one seed, not replicated"
    over = _unpaired(comparison.apart) if comparison.apart else over
    span = _span(comparison, deciding, True)
    text = f"difference {decimal(deciding.value, _digits(comparison), True)} {span} {over}"
    if comparison.holds and images is not None:
        return f"{text}, but over other images it might vanish: {_span(comparison, images, True)} over {images.n:,}."
    if deciding.excludes_zero:
        return f"{text}, which does not hold once all comparisons are counted (p = {comparison.p:.2g} by Holm)."
    return f"{text}."


def effect_sentence(effect: Effect) -> str:
    head = f"{effect.axis}, {effect.value} instead of {effect.against}: {effect.measure.label} "
    if effect.copy is not None:
        return f"{head}{by_construction(effect.copy, effect.measure)}."
    estimate, digits, n = effect.estimate, effect_digits([effect]), len(effect.settings)
    span = "" if estimate.low is None else f" {_of_distance(estimate, digits)}"
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
    compared, judged = study.compared, study.judged
    texts = [
        f"{axis.key} differs only together with {axis.follows}, so their effects cannot be separated."
        for axis in compared.axes
        if axis.follows is not None
    ]
    texts += [
        f"{_listed([c.label for c in shared])} share their training: each was measured on the same networks, so their bits/dim "
        "and samples are paired on the network as well."
        for shared in study.shared_training
    ]
    if single := [choice.label for choice in compared.choices if len(choice.runs) == 1]:
        all_of_them = len(single) == len(compared.choices)
        alone = f"One seed only, so no interval over seeds: {_listed(single)}."
        texts.append("No choice has more than one seed, so there is no interval over seeds." if all_of_them else alone)
    if lopsided := list(dict.fromkeys(c.choice.label for c in judged.comparisons if c.apart and _lopsided(*map(len, c.apart)))):
        texts.append(f"Unpaired intervals fall short where one side has few seeds and the other many: {_listed(lopsided)}.")
    for column in (column for column in judged.columns if column.measure.judged):
        label = column.measure.label
        if gaps := [_lacking(choice, seeds) for choice in compared.choices if (seeds := column.lacking(choice))]:
            texts.append(f"{label}: there is none for {_listed(gaps)}; means are of the other seeds, and so may flatter.")
        if column.reported:
            texts.append(f"{label}: numbers were measured with different {'; '.join(map(str, column.reported[:4]))}.")
    return texts + compared.notes


def _lopsided(a: int, b: int) -> bool:
    return min(a, b) < 5 and max(a, b) >= 2 * min(a, b)


def _listed(labels: Sequence[str]) -> str:
    return "; ".join(labels) if len(labels) <= 4 else f"{len(labels)} of the choices"
