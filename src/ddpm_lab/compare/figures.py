"""Figures of means, differences and the Pareto front: what is shown. page.js makes plotly's traces of it."""

import html
from dataclasses import dataclass, field
from typing import Any

from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.judge import Column, Verdict
from ddpm_lab.compare.measures import NumberKind
from ddpm_lab.compare.numerals import decimal, interval
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.statistics import Interval
from ddpm_lab.compare.words import VERDICTS

LIKELIHOODS = (NumberKind.BOUND, NumberKind.CHAIN_BOUND, NumberKind.FLOW)
HOLLOW = (Verdict.OPEN, Verdict.NONE, Verdict.IDENTICAL, Verdict.CONSTRUCTION)
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


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": html.escape(title, quote=False), **more}


def entry(study: Study, choice: ComparedChoice, text: str, **shown: Any) -> Entry:
    """A choice has one colour in all figures, by its place. `text` is shown where the pointer is."""
    return {"choice": study.compared.choices.index(choice), "name": choice.plotted, "text": text, **shown}


def crowded(study: Study) -> bool:
    """More choices than a legend or bands can show; hovering still names each line."""
    return len(study.compared.choices) > 12


def _ends(estimate: Interval) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _rows(title: str, alt: str, data: list[Entry], x: dict[str, Any]) -> Figure:
    """A row for each choice, the first on top."""
    return Figure("rows", title, alt, data, x, axis(""), height=90 + 34 * max(len(data), 2))


def means_figure(study: Study, column: Column) -> Figure:
    """Each choice's mean with its interval, and the value of each seed."""
    label, digits, data = column.measure.label, column.digits, []
    estimates = {choice: column.estimates[choice] for choice in study.compared.choices if choice in column.estimates}
    for choice, estimate in estimates.items():
        numbers = column.numbers[choice]
        texts = [f"seed {seed}: {decimal(number.value, digits + 1)}" for seed, number in numbers.items()]
        text = f"mean {decimal(estimate.value, digits)} {interval(estimate, digits)}, n = {estimate.n}"
        seeds = {"values": [number.value for number in numbers.values()], "texts": texts}
        data.append(entry(study, choice, text, mean=_ends(estimate), seeds=seeds))
    best = min(estimates, key=lambda choice: -column.measure.better * estimates[choice].value)
    alt = f"{label} of {len(data)} choices. Best mean: {best.label}, {decimal(estimates[best].value, digits)}."
    return _rows(f"{label} by choice", alt, data, axis(label))


def differences_figure(study: Study, column: Column) -> Figure | None:
    """Each choice's difference to the baseline with its interval."""
    data, values = [], []
    for choice, c in column.comparisons.items():
        if c.over_seeds is None:
            continue
        decided = None if c.copy is not None else c.deciding
        shown = c.over_seeds._replace(low=decided.low if decided else None, high=decided.high if decided else None)
        over = f"{len(c.seeds)} seeds" if c.seeds[1:] else "images of one seed" if c.deciding else "one seed"
        over = "seeds, unpaired" if c.apart else over
        value = decimal(shown.value, column.digits, True)
        values.append(f"{choice.label} {value}")
        text = f"{value} {interval(shown, column.digits, True)} over {over}: {VERDICTS[c.verdict]}"
        data.append(entry(study, choice, text, mean=_ends(shown), hollow=c.verdict in HOLLOW))
    if not data:
        return None
    title = f"Against {study.baseline.label}; hollow: no difference is supported"
    alt = f"Difference to {study.baseline.label} in {column.measure.label}: {'; '.join(values[:12])}."
    return _rows(title, alt, data, axis("difference", zeroline=True, zerolinewidth=1.5, zerolinecolor="#333"))


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
    data = []
    for choice in points:
        x, y = fd.estimates[choice], bpd.estimates[choice]
        texts = [
            f"{html.escape(c.measure.label, quote=False)} {decimal(c.estimates[choice].value, c.digits)}" for c in (fd, bpd)
        ]
        data.append(entry(study, choice, "<br>".join(texts), x=_ends(x), y=_ends(y)))
    title = f"{bpd.measure.label} against {fd.measure.label}"
    alt = f"{title}. None of these is beaten on both means: {'; '.join(choice.label for choice in front)}."
    made = Figure("plane", f"{title}: lower left is better", alt, data, axis(fd.measure.label), axis(bpd.measure.label), 420)
    made.wide, made.legend, made.front = True, not crowded(study), sorted(points[choice] for choice in front)
    return made


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]
