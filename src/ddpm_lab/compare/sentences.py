"""What is supported, in plain words: one sentence per comparison."""

from collections.abc import Sequence

from ddpm_lab.compare.choices import Compared
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.judge import Comparison, Judged, lacking
from ddpm_lab.compare.measures import decimals, shown, spanned
from ddpm_lab.compare.statistics import Estimate


def verdict(found: Comparison, level: float) -> str:
    """better, worse, ahead, behind (at one seed), same, open (not distinguishable), or none where nothing can be said."""
    if found.same and not found.lacking:
        return "same"
    deciding = found.deciding
    if deciding is None or found.p is None or found.lacking:
        return "none"
    better = deciding.value * found.measure.better > 0
    if found.p > 1 - level or _images_object(found):
        return "open"
    if found.replicated:
        return "better" if better else "worse"
    return "ahead" if better else "behind"


def _images_object(found: Comparison) -> bool:
    """Seeds agree, but other images might not."""
    images = found.over_images
    return found.replicated and images is not None and not images.excludes_zero


def sentence(found: Comparison, level: float) -> str:
    a, b, what, n = found.choice.label, found.baseline.label, found.measure.label, len(found.seeds)
    kind, seeds = verdict(found, level), found.over_seeds
    if seeds is None:
        return (
            f"{a} and {b} share no seed, and not both have two, so nothing is said on {what}: train both with the same seeds."
        )
    if kind == "same":
        return f"{a} and {b} are the same on {what}, to the last digit."
    apart = _apart(found)
    if found.lacking:
        return (
            f"{a} against {b} on {what}: {apart} where both have it, but nothing is supported: there is no such number for "
            f"{', nor for '.join(found.lacking)}, as where samples are not finite."
        )
    if kind == "none":
        return (
            f"{a} against {b} on {what}: {apart}, but nothing is supported: one seed, not replicated, and no error over "
            "images is known."
        )
    if kind in ("better", "worse"):
        verb = "beats" if kind == "better" else "loses to"
        count = found.wins if kind == "better" else n - found.wins
        how = f", {_unpaired(found.apart)}" if found.apart else f" in {count} of {n} seeds"
        return f"{a} {verb} {b} on {what}{how}: {apart} {_span(found, seeds)}.{_of_images(found)}"
    if kind in ("ahead", "behind"):
        verb = "is ahead of" if kind == "ahead" else "is behind"
        return f"{a} {verb} {b} on {what}: {apart} {_one_seed(found)}"
    return f"{a} and {b} are not distinguishable on {what}: {_why_open(found, level)}"


def _unpaired(apart: tuple[Sequence[int], Sequence[int]]) -> str:
    return f"unpaired, seeds {' against '.join(map(_numbers, apart))}"


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= 5 else f"{seeds[0]} … {seeds[-1]} ({len(seeds)})"


def _apart(found: Comparison) -> str:
    assert found.over_seeds is not None
    return _distance(found.over_seeds, _digits(found))


def _distance(estimate: Estimate, digits: int) -> str:
    if estimate.value == 0:
        return "no different"
    return f"{'lower' if estimate.value < 0 else 'higher'} by {shown(abs(estimate.value), digits)}"


def _span(found: Comparison, estimate: Estimate, signed: bool = False) -> str:
    """The interval of the distance; of the difference itself where `signed`."""
    return spanned(estimate.low, estimate.high, _digits(found), True) if signed else _of_distance(estimate, _digits(found))


def _of_distance(estimate: Estimate, digits: int) -> str:
    low, high = estimate.low, estimate.high
    if estimate.value < 0 and low is not None and high is not None:
        low, high = -high, -low
    return spanned(low, high, digits)


def _digits(found: Comparison) -> int:
    spans = [
        (e.high - e.low) / 2 for e in (found.over_seeds, found.over_images) if e and e.low is not None and e.high is not None
    ]
    values = [found.over_seeds.value] if found.over_seeds else []
    return max(decimals(values, spans[:1]), decimals(values, []) - 2) if spans else decimals(values, []) - 1


def _of_images(found: Comparison) -> str:
    images = found.over_images
    return "" if images is None else f" Over the {images.n:,} images alone: {_span(found, images)}."


def _one_seed(found: Comparison) -> str:
    images = found.over_images
    assert images is not None
    how = "" if found.paired else ", unpaired"
    return f"{_span(found, images)}. One seed, not replicated: the interval is over {images.n:,} images only{how}."


def _why_open(found: Comparison, level: float) -> str:
    deciding, n = found.deciding, len(found.seeds)
    assert deciding is not None
    how = "" if found.paired else ", unpaired"
    over = f"over {n} seeds" if n > 1 else f"over {deciding.n:,} images only{how}; one seed, not replicated"
    over = _unpaired(found.apart) if found.apart else over
    text = f"difference {shown(deciding.value, _digits(found), True)} {_span(found, deciding, True)} {over}"
    if found.p is not None and found.p <= 1 - level:
        images = found.over_images
        assert images is not None
        return f"{text}, but over other images it might vanish: {_span(found, images, True)} over {images.n:,}."
    if deciding.excludes_zero:
        return f"{text}, which does not hold once all comparisons are counted (p = {found.p:.2g} by Holm)."
    return f"{text}."


AVERAGED = "Each axis, averaged over the rest (described, not judged: the intervals are not corrected for how many they are):"


def effect_sentence(effect: Effect) -> str:
    found, digits, several = effect.estimate, effect_digits([effect]), len(effect.settings) > 1
    span = "" if found.low is None else f" {_of_distance(found, digits)}"
    over = f"{len(effect.seeds)} seeds" if len(effect.seeds) > 1 else "one seed, so without an interval"
    where = f"on average over {len(effect.settings)} settings of the rest" if several else "in the one setting that has both"
    told = (
        f"{effect.axis}, {effect.value} instead of {effect.against}: {effect.measure.label} {_distance(found, digits)}{span} "
    )
    return f"{told}{where}, {over}{f'; {agreement(effect)}' if several else ''}."


def agreement(effect: Effect) -> str:
    """In which direction the settings point."""
    n, lower = len(effect.settings), effect.lower
    higher = sum(difference > 0 for difference in effect.settings)
    if effect.disagree:
        return f"the settings disagree (an interaction, or chance): lower in {lower} of {n}"
    word, count = ("lower", lower) if lower else ("higher", higher)
    return "the same in all" if count == 0 else f"{word} in all" if count == n else f"{word} in {count} of {n}, else the same"


def effect_digits(found: Sequence[Effect]) -> int:
    """Of one measure, to be read side by side."""
    spans = [
        (e.estimate.high - e.estimate.low) / 2 for e in found if e.estimate.low is not None and e.estimate.high is not None
    ]
    values = [effect.estimate.value for effect in found]
    return max(decimals(values, spans), decimals(values, []) - 2) if spans else decimals(values, []) - 1


def sentences(judged: Judged, level: float) -> list[tuple[str, str]]:
    """(verdict, sentence) of every comparison; and what was refused."""
    told = [(verdict(found, level), sentence(found, level)) for found in judged.comparisons]
    for column in judged.columns:
        if column.measure.judged:
            told += [
                ("refused", f"{label} is not compared on {column.measure.label}: {why}.")
                for label, why in column.refused.items()
            ]
    return told


def cautions(compared: Compared, judged: Judged) -> list[str]:
    """What the reader must know beside the numbers."""
    told = [
        f"{axis.key} differs only together with {axis.follows}: what one of them does cannot be told from what the other does."
        for axis in compared.axes
        if axis.follows is not None
    ]
    if single := [choice.label for choice in compared.choices if len(choice.arms) == 1]:
        all_of_them = len(single) == len(compared.choices)
        told.append(
            "No choice has more than one seed, so there is no interval over seeds."
            if all_of_them
            else f"One seed only, so no interval over seeds: {_listed(single)}."
        )
    lopsided = {c.choice.label for c in judged.comparisons if c.apart and _lopsided(*map(len, c.apart))}
    if lopsided:
        told.append(f"Unpaired intervals fall short where one side has few seeds and the other many: {_listed([*lopsided])}.")
    for column in (column for column in judged.columns if column.measure.judged):
        if gaps := [text for choice in compared.choices if (text := lacking(column, choice))]:
            told.append(
                f"{column.measure.label}: there is none for {_listed(gaps)}; means are of the other seeds, and so may flatter."
            )
        if column.notes:
            told.append(f"{column.measure.label}: numbers were measured with different {'; '.join(column.notes[:4])}.")
    return told + compared.notes


def _lopsided(a: int, b: int) -> bool:
    return min(a, b) < 5 and max(a, b) >= 2 * min(a, b)


def _listed(labels: Sequence[str]) -> str:
    return "; ".join(labels) if len(labels) <= 4 else f"{len(labels)} of the choices"
