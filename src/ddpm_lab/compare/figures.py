"""Figures of means, differences and the Pareto front. page.js makes plotly's traces of them, drawn.py matplotlib's."""

import html
import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ddpm_lab.compare.cautions import counted
from ddpm_lab.compare.chance import Chance
from ddpm_lab.compare.chance_words import sources
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.comparison import Verdict
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import NumberKind
from ddpm_lab.compare.palette import looks
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.statistics import Interval
from ddpm_lab.compare.tables import nonnegative
from ddpm_lab.compare.words import VERDICTS, decimal, digits_of, interval

FEW = 12
"""Choices whose bands and whose legend fit into a figure of half the page's width."""
SPAN = 3
"""Distances whose largest is more than so many times the smallest are on a log scale."""
LIKELIHOODS = (NumberKind.BOUND, NumberKind.CHAIN_BOUND, NumberKind.FLOW, NumberKind.CONTINUOUS)
HOLLOW = (Verdict.OPEN, Verdict.SAME, Verdict.NONE, Verdict.IDENTICAL, Verdict.CONSTRUCTION)
Entry = dict[str, Any]
"""What a figure shows of one choice."""


@dataclass
class Figure:
    """`alt` describes the figure to readers who cannot see it."""

    kind: str
    """"rows", "lines" or "plane": the function of page.js that draws it."""
    title: str
    alt: str
    data: list[Entry]
    x: dict[str, Any]
    """The axis: its title, and settings of plotly's."""
    y: dict[str, Any]
    height: int = 360
    wide: bool = False
    legend: bool = False
    front: list[tuple[float, float]] = field(default_factory=list)
    """The points of a plane that no other beats on both axes."""
    mark: tuple[float, str] | None = None
    """A value of x that rows are compared with, and what it is."""


def file_name(place: int, figure: Figure) -> str:
    """In ASCII and without a suffix. `place`: among the figures of a study, from 1."""
    title = unicodedata.normalize("NFKD", figure.title.partition(";")[0]).encode("ascii", "ignore").decode()
    return f"{place:02d}_{re.sub('[^a-z0-9]+', '_', title.lower()).strip('_')[:80]}"


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": html.escape(title, quote=False), **more}


def entry(study: Study, choice: ComparedChoice, text: str, **shown: Any) -> Entry:
    """A choice looks the same in all figures, by its place. `text` is shown where the pointer is."""
    return {**looks(study.compared.choices.index(choice)), "name": choice.plotted, "text": text, **shown}


def crowded(study: Study) -> bool:
    return len(study.compared.choices) > FEW


def with_legend(figure: Figure) -> Figure:
    """With a legend below it; of many entries as wide as the page, and higher by the rows of the legend."""
    figure.legend = True
    if len(figure.data) > FEW:
        figure.wide, figure.height = True, 420 + 20 * -(-len(figure.data) // 3)
    return figure


def _ends(estimate: Interval, lowest: float | None = None) -> dict[str, float | None]:
    """What is drawn of an interval: not what is below `lowest`."""
    low = estimate.low if lowest is None or estimate.low is None else max(estimate.low, lowest)
    return {"value": estimate.value, "low": low, "high": estimate.high}


def _scale(column: Column, values: Iterable[float]) -> tuple[dict[str, Any], float | None]:
    """The axis of a measure, and where intervals end at the lowest. None of a distance is below 0; on a log scale they end at
    half of the smallest value."""
    label, shown = column.measure.label, list(values)
    if not column.measure.distance:
        return axis(label), None
    if min(shown) > 0 and max(shown) > SPAN * min(shown):
        return axis(f"{label}, log scale", type="log"), min(shown) / 2
    return axis(label), 0.0


def _rows(title: str, alt: str, data: list[Entry], x: dict[str, Any]) -> Figure:
    """A row for each choice, the first on top."""
    row = 34 if len(data) <= FEW else 22
    return Figure("rows", title, alt, data, x, axis(""), height=90 + row * max(len(data), 2))


def means_figure(study: Study, column: Column) -> Figure:
    """Each choice's mean with its interval, and the value of each seed."""
    label, digits, data = column.measure.label, digits_of(column), []
    estimates = {choice: column.estimates[choice] for choice in study.compared.choices if choice in column.estimates}
    x, lowest = _scale(column, [number.value for choice in estimates for number in column.numbers[choice].values()])
    for choice, estimate in estimates.items():
        numbers, shown = column.numbers[choice], nonnegative(column, estimate)
        texts = [f"seed {seed}: {decimal(number.value, digits + 1)}" for seed, number in numbers.items()]
        text = f"mean {decimal(estimate.value, digits)} {interval(shown, digits)}, n = {estimate.n}"
        seeds = {"values": [number.value for number in numbers.values()], "texts": texts}
        data.append(entry(study, choice, text, mean=_ends(estimate, lowest), seeds=seeds))
    first, *_, last = sorted(estimates, key=lambda choice: -column.measure.better * estimates[choice].value) * 2
    ends = [f"{decimal(estimates[choice].value, digits)} ({choice.label})" for choice in (first, last)]
    alt = f"{label}, means of {counted(len(data), 'choice')}: the best is {ends[0]}, the worst is {ends[1]}."
    return _rows(f"{label} by choice", alt, data, x)


def differences_figure(study: Study, column: Column) -> Figure | None:
    """Each choice's difference to the baseline with its interval."""
    data, supported, label = [], [], column.measure.label
    for choice, c in column.comparisons.items():
        if c.over_seeds is None:
            continue
        decided = None if c.copy is not None else c.deciding
        shown = c.over_seeds._replace(low=decided.low if decided else None, high=decided.high if decided else None)
        over = f"{len(c.seeds)} seeds" if c.seeds[1:] else "images of one seed" if c.deciding else "one seed"
        over = "seeds, unpaired" if c.apart else over
        value = decimal(shown.value, digits_of(column), True)
        supported += [f"{choice.label} {value}"] * (c.verdict not in HOLLOW)
        text = f"{value} {interval(shown, digits_of(column), True)} over {over}: {VERDICTS[c.verdict]}"
        data.append(entry(study, choice, text, mean=_ends(shown), hollow=c.verdict in HOLLOW))
    if not data:
        return None
    title = f"{label} minus that of {study.baseline.label}; hollow: no difference is supported"
    named = f": {'; '.join(supported[:FEW])}" if supported else ""
    alt = f"{len(supported)} of {counted(len(data), 'choice')} differ from {study.baseline.label} in {label}{named}."
    return _rows(title, alt, data, axis("difference", zeroline=True))


def chance_figure(chance: Chance) -> Figure:
    """Standard deviations by source, with intervals where both ends are known, and the floor."""
    unit, times = (", % of the mean", 100) if chance.relative else ("", 1)
    roots = {name: [times * math.sqrt(max(0.0, end)) for end in part] for name, part in sources(chance).items()}
    if chance.images is not None:
        roots["images"] = [math.sqrt(chance.images), math.inf, math.inf]
    data, label, seen = [], f"{chance.measure.label}{unit}", []
    for name, (value, low, high) in roots.items():
        known = math.isfinite(low) and math.isfinite(high)
        mean = {"value": value, "low": low if known else None, "high": high if known else None}
        text = f"{value:.3g} [{low:.3g}, {high:.3g}]" if known else f"{value:.3g}"
        data.append({**looks(len(data)), "name": name, "text": text, "mean": mean})
        seen.append(f"{name} {two_digits(value)}")
    made = _rows(f"{label}: standard deviation by source", "", data, axis(label, rangemode="tozero"))
    if chance.floor is not None and chance.floor.difference > 0:
        least = times * chance.floor.difference
        made.mark = least, f"floor {two_digits(least)}"
        seen.append(f"least difference of two single runs that is not chance {two_digits(least)}")
    made.alt = f"Standard deviations of {label}: {'; '.join(seen)}."
    return made


def two_digits(value: float) -> str:
    """Rounded, without an exponent from 0.0001 up to a million."""
    return f"{float(f'{value:.2g}'):,.6g}"


def pareto(study: Study) -> Figure | None:
    """Bits/dim against Fréchet distance, with the choices that no other beats on both means."""
    bpd = next((column for column in study.main if column.measure.kind in LIKELIHOODS), None)
    fd = next((column for column in study.main if column.measure.distance), None)
    if bpd is None or fd is None:
        return None
    shown = [choice for choice in study.compared.choices if choice in bpd.estimates and choice in fd.estimates]
    points = {choice: (fd.estimates[choice].value, bpd.estimates[choice].value) for choice in shown}
    if len(points) < 2:
        return None
    front = [choice for choice, point in points.items() if not any(_dominates(other, point) for other in points.values())]
    scale, lowest = _scale(fd, [x for x, _ in points.values()])
    data = []
    for choice in points:
        x, y = fd.estimates[choice], bpd.estimates[choice]
        texts = [
            f"{html.escape(c.measure.label, quote=False)} {decimal(c.estimates[choice].value, digits_of(c))}" for c in (fd, bpd)
        ]
        data.append(entry(study, choice, "<br>".join(texts), x=_ends(x, lowest), y=_ends(y)))
    title = f"{bpd.measure.label} against {fd.measure.label}"
    alt = f"{title}. None of these is beaten on both means: {'; '.join(choice.label for choice in front)}."
    made = Figure("plane", f"{title}: lower left is better", alt, data, scale, axis(bpd.measure.label), 420, wide=True)
    made.front = sorted(points[choice] for choice in front)
    return with_legend(made)


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]
