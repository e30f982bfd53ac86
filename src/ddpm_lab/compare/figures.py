"""Plots of the comparison as plotly reads them: plain data and layout, drawn by its script in the page."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddpm_lab.compare.choices import Choice
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import shown, spanned
from ddpm_lab.compare.sentences import verdict
from ddpm_lab.compare.table import Study, digits_of

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#7f7f7f")
"""Okabe and Ito's, which eyes without red or green tell apart; and two more."""
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")
GREY = "#8a8f98"
Trace = dict[str, Any]


@dataclass
class Figure:
    """`alt` says what is to be seen to whom cannot see it."""

    title: str
    alt: str
    data: list[Trace]
    layout: dict[str, Any]
    wide: bool = False


def colour(study: Study, choice: Choice) -> str:
    return COLOURS[study.compared.choices.index(choice) % len(COLOURS)]


def style(study: Study, choice: Choice) -> Trace:
    """Of a line: the same choice looks the same in every plot."""
    i = study.compared.choices.index(choice)
    return {"color": colour(study, choice), "dash": DASHES[i // len(COLOURS) % len(DASHES)], "width": 2}


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": html.escape(title, quote=False)}, "automargin": True, **more}


def layout(height: int = 360, **more: Any) -> dict[str, Any]:
    return {"height": height, **more}


def crowded(study: Study) -> bool:
    """More choices than a legend or bands are read for; the pointer still says which line is which."""
    return len(study.compared.choices) > 12


def translucent(hexadecimal: str, alpha: float = 0.16) -> str:
    r, g, b = (int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha})"


def of_means(study: Study, column: Column) -> Figure:
    """Every choice's mean with its interval, and each seed's value."""
    choices = [c for c in study.compared.choices if c.label in column.estimates]
    digits, data = digits_of(column), []
    for choice in choices:
        found, numbers, own = column.estimates[choice.label], column.numbers[choice.label], colour(study, choice)
        seeds = [f"seed {seed}: {shown(number.value, digits + 1)}" for seed, number in numbers.items()]
        data.append({
            "x": [n.value for n in numbers.values()], "y": [choice.plotted] * len(seeds), "text": seeds, "mode": "markers",
            "hovertemplate": "%{y}<br>%{text}<extra></extra>",
            "marker": {"symbol": "line-ns-open", "size": 11, "color": own, "opacity": 0.9, "line": {"width": 1.5}},
        })  # fmt: skip
        text = f"mean {shown(found.value, digits)} {spanned(found.low, found.high, digits)}, n = {found.n}"
        data.append(_dot(found.value, choice.plotted, text, own, found.low, found.high))
    best = min(choices, key=lambda c: -column.measure.better * column.estimates[c.label].value)
    top = shown(column.estimates[best.label].value, digits)
    alt = f"{column.measure.label} of {len(choices)} choices. Best mean: {best.label}, {top}."
    return Figure(f"{column.measure.label} by choice", alt, data, _rows(choices, column.measure.label))


def of_differences(study: Study, column: Column) -> Figure | None:
    """Every choice's difference to the baseline with its interval."""
    found = [c for c in study.judged.comparisons if c.measure.key == column.measure.key and c.over_seeds is not None]
    if not found:
        return None
    digits, data, told = digits_of(column), [], []
    for c in found:
        kind, deciding = verdict(c, study.level), c.deciding
        plain = kind in ("open", "none", "same")
        low, high = (deciding.low, deciding.high) if deciding else (None, None)
        over = f"{len(c.seeds)} seeds" if c.seeds[1:] else "images of one seed" if deciding else "one seed"
        over = "seeds, unpaired" if c.apart else over
        value = c.over_seeds.value if c.over_seeds else math.nan
        text = f"{shown(value, digits, True)} {spanned(low, high, digits, True)} over {over}: {WORDS[kind]}"
        data.append(_dot(value, c.choice.plotted, text, GREY if plain else colour(study, c.choice), low, high, hollow=plain))
        told.append(f"{c.choice.label} {shown(value, digits, True)}")
    layout = _rows([c.choice for c in found], "difference")
    layout["xaxis"] |= {"zeroline": True, "zerolinewidth": 1.5, "zerolinecolor": "#333"}
    alt = f"Difference to {study.baseline.label} in {column.measure.label}: {'; '.join(told[:12])}."
    return Figure(f"Against {study.baseline.label}; hollow: not distinguishable", alt, data, layout)


WORDS = {
    "better": "better", "worse": "worse", "ahead": "ahead, seeds not replicated", "behind": "behind, seeds not replicated",
    "same": "the same", "open": "not distinguishable", "none": "nothing is supported",
}  # fmt: skip


def _dot(x: float, y: str, text: str, own: str, low: float | None, high: float | None, hollow: bool = False) -> Trace:
    trace: Trace = {
        "x": [x], "y": [y], "text": [text], "mode": "markers", "hovertemplate": "%{y}<br>%{text}<extra></extra>",
        "marker": {"size": 9, "color": own, "line": {"width": 2, "color": own}} | ({"symbol": "circle-open"} if hollow else {}),
    }  # fmt: skip
    if low is not None and high is not None:
        error = {"type": "data", "symmetric": False, "array": [high - x], "arrayminus": [x - low]}
        trace["error_x"] = error | {"color": own, "thickness": 2, "width": 5}
    return trace


def _rows(choices: Sequence[Choice], title: str) -> dict[str, Any]:
    """A row for each choice, the first on top."""
    labels = [choice.plotted for choice in choices][::-1]
    y = axis("") | {"categoryorder": "array", "categoryarray": labels, "range": [-0.6, len(labels) - 0.4]}
    y |= {"tickmode": "array", "tickvals": labels, "ticktext": [_broken(label) for label in labels]}
    height = 38 if any("<br>" in text for text in y["ticktext"]) else 30
    return layout(90 + height * max(len(labels), 2), xaxis=axis(title), yaxis=y, showlegend=False)


def _broken(label: str) -> str:
    """A long one on two lines, at the comma that is nearest to its middle."""
    commas = [i for i in range(len(label)) if label.startswith(", ", i)]
    if len(label) <= 22 or not commas:
        return label
    place = min(commas, key=lambda i: abs(i - len(label) / 2))
    return f"{label[:place]},<br>{label[place + 2 :]}"


def pareto(study: Study) -> Figure | None:
    """Bits/dim against Fréchet distance, and the choices that none beats on both."""
    bpd = next((c for c in study.main if c.measure.label.startswith("bits/dim")), None)
    fd = next((c for c in study.main if "Fréchet" in c.measure.label or c.measure.label.startswith("FID")), None)
    if bpd is None or fd is None:
        return None
    choices = [c for c in study.compared.choices if c.label in bpd.estimates and c.label in fd.estimates]
    if len(choices) < 2:
        return None
    points = {c.label: (fd.estimates[c.label].value, bpd.estimates[c.label].value) for c in choices}
    front = [label for label, own in points.items() if not any(_dominates(other, own) for other in points.values())]
    line = sorted(points[label] for label in front)
    data: list[Trace] = [{
        "x": [x for x, _ in line], "y": [y for _, y in line], "mode": "lines",
        "line": {"color": GREY, "dash": "dot", "shape": "hv"}, "name": "Pareto front", "hoverinfo": "skip",
    }]  # fmt: skip
    for i, choice in enumerate(choices):
        x, y = points[choice.label]
        trace = _dot(
            x, choice.plotted, "", colour(study, choice), fd.estimates[choice.label].low, fd.estimates[choice.label].high
        )
        named = [(html.escape(c.measure.label, quote=False), shown(v, digits_of(c))) for c, v in ((fd, x), (bpd, y))]
        text = "<br>".join(f"{what} {value}" for what, value in named)
        trace |= {"y": [y], "name": choice.plotted, "hovertemplate": f"{choice.plotted}<br>{text}<extra></extra>"}
        trace["marker"] |= {"symbol": SYMBOLS[i // len(COLOURS) % len(SYMBOLS)]}
        own = bpd.estimates[choice.label]
        if own.low is not None and own.high is not None:
            trace["error_y"] = (
                trace["error_x"] | {"array": [own.high - y], "arrayminus": [y - own.low]} if "error_x" in trace else {}
            )
        data.append(trace)
    alt = f"{bpd.measure.label} against {fd.measure.label}. None of these is beaten on both means: {'; '.join(front)}."
    title = f"{bpd.measure.label} against {fd.measure.label}: lower left is better"
    own = layout(420, xaxis=axis(fd.measure.label), yaxis=axis(bpd.measure.label), showlegend=not crowded(study))
    return Figure(
        title,
        alt,
        data,
        own,
        wide=True,
    )


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]
