"""Figures of means, differences and the Pareto front, as plotly's script in the page reads them: data and layout."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.judge import Column, Verdict
from ddpm_lab.compare.measures import NumberKind
from ddpm_lab.compare.numerals import decimal, interval
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.statistics import Interval
from ddpm_lab.compare.words import VERDICTS

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#7f7f7f")
"""Okabe and Ito's, which colour-blind readers can tell apart, and two more."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")
NEUTRAL = "#8a8f98"
LIKELIHOODS = (NumberKind.BOUND, NumberKind.CHAIN_BOUND, NumberKind.FLOW)
HOLLOW = (Verdict.OPEN, Verdict.NONE, Verdict.IDENTICAL, Verdict.CONSTRUCTION)
Trace = dict[str, Any]


@dataclass
class Figure:
    """`alt` describes the figure to readers who cannot see it."""

    title: str
    alt: str
    data: list[Trace]
    layout: dict[str, Any]
    wide: bool = False


def style_of(study: Study, choice: ComparedChoice) -> Trace:
    """Of a line: a choice looks the same in every figure."""
    i = study.compared.choices.index(choice)
    return {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i // len(COLOURS) % len(DASHES)], "width": 2}


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": html.escape(title, quote=False)}, "automargin": True, **more}


def crowded(study: Study) -> bool:
    """More choices than a legend or bands can show; hovering still names each line."""
    return len(study.compared.choices) > 12


def layout(study: Study, x: dict[str, Any], y: dict[str, Any], height: int = 420) -> dict[str, Any]:
    return {"height": height, "xaxis": x, "yaxis": y, "showlegend": not crowded(study)}


def means_figure(study: Study, column: Column) -> Figure:
    """Each choice's mean with its interval, and the value of each seed."""
    choices = [choice for choice in study.compared.choices if choice in column.estimates]
    label, digits, data = column.measure.label, column.digits, []
    for choice in choices:
        estimate, numbers, colour = column.estimates[choice], column.numbers[choice], style_of(study, choice)["color"]
        seeds = [f"seed {seed}: {decimal(number.value, digits + 1)}" for seed, number in numbers.items()]
        marker = {"symbol": "line-ns-open", "size": 11, "color": colour, "opacity": 0.9, "line": {"width": 1.5}}
        data.append(_points([n.value for n in numbers.values()], [choice.plotted] * len(seeds), seeds, marker))
        text = f"mean {decimal(estimate.value, digits)} {interval(estimate, digits)}, n = {estimate.n}"
        data.append(_dot(choice, text, colour, estimate))
    best = min(choices, key=lambda choice: -column.measure.better * column.estimates[choice].value)
    top = decimal(column.estimates[best].value, digits)
    alt = f"{label} of {len(choices)} choices. Best mean: {best.label}, {top}."
    return Figure(f"{label} by choice", alt, data, _rows(choices, label))


def differences_figure(study: Study, column: Column) -> Figure | None:
    """Each choice's difference to the baseline with its interval."""
    data, values = [], []
    estimates = {choice: c.over_seeds for choice, c in column.comparisons.items() if c.over_seeds is not None}
    for choice, estimate in estimates.items():
        c, value = column.comparisons[choice], decimal(estimate.value, column.digits, True)
        decided = None if c.copy is not None else c.deciding
        shown = estimate._replace(low=decided.low if decided else None, high=decided.high if decided else None)
        over = f"{len(c.seeds)} seeds" if c.seeds[1:] else "images of one seed" if c.deciding else "one seed"
        over = "seeds, unpaired" if c.apart else over
        values.append(f"{choice.label} {value}")
        text = f"{value} {interval(shown, column.digits, True)} over {over}: {VERDICTS[c.verdict]}"
        hollow = c.verdict in HOLLOW
        data.append(_dot(choice, text, NEUTRAL if hollow else style_of(study, choice)["color"], shown, hollow))
    if not data:
        return None
    rows = _rows(list(estimates), "difference")
    rows["xaxis"] |= {"zeroline": True, "zerolinewidth": 1.5, "zerolinecolor": "#333"}
    alt = f"Difference to {study.baseline.label} in {column.measure.label}: {'; '.join(values[:12])}."
    return Figure(f"Against {study.baseline.label}; hollow: no difference is supported", alt, data, rows)


def _points(x: Sequence[float], y: Sequence[Any], text: Sequence[str], marker: dict[str, Any]) -> Trace:
    hover = {"text": list(text), "hovertemplate": "%{y}<br>%{text}<extra></extra>"}
    return {"x": list(x), "y": list(y), "mode": "markers", "marker": marker} | hover


def _dot(choice: ComparedChoice, text: str, colour: str, estimate: Interval, hollow: bool = False) -> Trace:
    """In the row of a choice."""
    marker = {"size": 9, "color": colour, "line": {"width": 2, "color": colour}} | ({"symbol": "circle-open"} if hollow else {})
    return _points([estimate.value], [choice.plotted], [text], marker) | _error("error_x", estimate, colour)


def _error(name: str, estimate: Interval, colour: str) -> Trace:
    if estimate.low is None or estimate.high is None:
        return {}
    ends = {"array": [estimate.high - estimate.value], "arrayminus": [estimate.value - estimate.low]}
    return {name: {"type": "data", "symmetric": False, "color": colour, "thickness": 2, "width": 5} | ends}


def _rows(choices: Sequence[ComparedChoice], title: str) -> dict[str, Any]:
    """The layout with a row for each choice, the first on top."""
    labels = [choice.plotted for choice in choices][::-1]
    texts = [_broken(label) for label in labels]
    y = axis("") | {"categoryorder": "array", "categoryarray": labels, "range": [-0.6, len(labels) - 0.4]}
    y |= {"tickmode": "array", "tickvals": labels, "ticktext": texts}
    height = 38 if any("<br>" in text for text in texts) else 30
    return {"height": 90 + height * max(len(labels), 2), "xaxis": axis(title), "yaxis": y, "showlegend": False}


def _broken(label: str) -> str:
    """A long label on two lines, broken at the comma nearest to its middle."""
    commas = [i for i in range(len(label)) if label.startswith(", ", i)]
    if len(label) <= 22 or not commas:
        return label
    place = min(commas, key=lambda i: abs(i - len(label) / 2))
    return f"{label[:place]},<br>{label[place + 2 :]}"


def pareto(study: Study) -> Figure | None:
    """Bits/dim against Fréchet distance, with the choices that no other beats on both means."""
    bpd = next((column for column in study.main if column.measure.kind in LIKELIHOODS), None)
    fd = next((column for column in study.main if column.measure.distance), None)
    if bpd is None or fd is None:
        return None
    points = {
        choice: (fd.estimates[choice].value, bpd.estimates[choice].value)
        for choice in study.compared.choices
        if choice in bpd.estimates and choice in fd.estimates
    }
    if len(points) < 2:
        return None
    front = [choice for choice, point in points.items() if not any(_dominates(other, point) for other in points.values())]
    x, y = zip(*sorted(points[choice] for choice in front), strict=True)
    steps = {"line": {"color": NEUTRAL, "dash": "dot", "shape": "hv"}, "name": "Pareto front", "hoverinfo": "skip"}
    data: list[Trace] = [{"x": x, "y": y, "mode": "lines"} | steps]
    for i, (choice, point) in enumerate(points.items()):
        colour = style_of(study, choice)["color"]
        pairs = [
            f"{html.escape(c.measure.label, quote=False)} {decimal(c.estimates[choice].value, c.digits)}" for c in (fd, bpd)
        ]
        trace = _dot(choice, "", colour, fd.estimates[choice]) | _error("error_y", bpd.estimates[choice], colour)
        trace |= {"y": [point[1]], "name": choice.plotted}
        trace["hovertemplate"] = "<br>".join([choice.plotted, *pairs]) + "<extra></extra>"
        trace["marker"]["symbol"] = SYMBOLS[i // len(COLOURS) % len(SYMBOLS)]
        data.append(trace)
    labels, best = (bpd.measure.label, fd.measure.label), "; ".join(choice.label for choice in front)
    alt = f"{labels[0]} against {labels[1]}. None of these is beaten on both means: {best}."
    axes = layout(study, axis(labels[1]), axis(labels[0]))
    return Figure(f"{labels[0]} against {labels[1]}: lower left is better", alt, data, axes, wide=True)


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]
