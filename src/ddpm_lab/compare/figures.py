"""Figures: what is shown of means, differences, the Pareto front and curves. page.js makes plotly's traces of it."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_lab.compare.choices import ComparedChoice, ComparedRun
from ddpm_lab.compare.equal_cost import curves
from ddpm_lab.compare.judge import Column, Verdict
from ddpm_lab.compare.measures import NumberKind, measure_of
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.run_folder import DescribedCurve, columns
from ddpm_lab.compare.statistics import Interval
from ddpm_lab.compare.words import VERDICTS, decimal, digits_of, interval

MOST_LINES = 12
POINTS = 200
"""Of a line at most."""
BOUND = "val/bound_bpd"
LOSS = "train/loss"
Values = Sequence[float] | np.ndarray
LIKELIHOODS = (NumberKind.BOUND, NumberKind.CHAIN_BOUND, NumberKind.FLOW)
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


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": html.escape(title, quote=False), **more}


def entry(study: Study, choice: ComparedChoice, text: str, **shown: Any) -> Entry:
    """A choice has one colour in all figures, by its place. `text` is shown where the pointer is."""
    return {"choice": study.compared.choices.index(choice), "name": choice.plotted, "text": text, **shown}


def crowded(study: Study) -> bool:
    """More choices than a legend or bands can show; hovering still names each line."""
    return len(study.compared.choices) > MOST_LINES


def _ends(estimate: Interval) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def _rows(title: str, alt: str, data: list[Entry], x: dict[str, Any]) -> Figure:
    """A row for each choice, the first on top."""
    return Figure("rows", title, alt, data, x, axis(""), height=90 + 34 * max(len(data), 2))


def means_figure(study: Study, column: Column) -> Figure:
    """Each choice's mean with its interval, and the value of each seed."""
    label, digits, data = column.measure.label, digits_of(column), []
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
        value = decimal(shown.value, digits_of(column), True)
        values.append(f"{choice.label} {value}")
        text = f"{value} {interval(shown, digits_of(column), True)} over {over}: {VERDICTS[c.verdict]}"
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
            f"{html.escape(c.measure.label, quote=False)} {decimal(c.estimates[choice].value, digits_of(c))}" for c in (fd, bpd)
        ]
        data.append(entry(study, choice, "<br>".join(texts), x=_ends(x), y=_ends(y)))
    title = f"{bpd.measure.label} against {fd.measure.label}"
    alt = f"{title}. None of these is beaten on both means: {'; '.join(choice.label for choice in front)}."
    made = Figure("plane", f"{title}: lower left is better", alt, data, axis(fd.measure.label), axis(bpd.measure.label), 420)
    made.wide, made.legend, made.front = True, not crowded(study), sorted(points[choice] for choice in front)
    return made


def distance_over_seconds(study: Study) -> Figure | None:
    """The Fréchet distance against seconds per 1,000 samples, a line over the numbers of steps of each variance."""
    data = []
    for curve in curves(study.compared, study.columns):
        first, n = next(iter(curve.points)), min(map(len, curve.points.values()))
        seconds, distances = np.exp([np.mean(list(points.values()), axis=0) for points in curve.points.values()]).T
        data.append(_line(study, first, seconds.tolist(), distances, f"geometric mean of {n}" if n > 1 else "one seed"))
        data[-1]["name"] = html.escape(curve.label, quote=False)
    title = "Fréchet distance against seconds"
    alt = f"{title} per 1,000 samples on log scales, a line over numbers of steps for each of {len(data)} choices."
    x, y = axis("sampling, seconds per 1,000 samples", type="log"), axis("Fréchet distance", type="log")
    made = _lines(study, f"{title}: a line over numbers of steps; lower left is better", alt, data, x, y, 420)
    return made and replace(made, legend=len(data) <= MOST_LINES)


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def learning(study: Study) -> list[Figure | None]:
    """Validation and training loss over steps, from metrics.csv."""
    runs = [run for choice in study.compared.choices for run in choice.runs.values()]
    known = dict.fromkeys(name for run in runs for name in run.run.history)
    judged = [name for name in known if measure_of(name.removeprefix("val/")).judged and name != BOUND]
    return [_curve(study, name) for name in (BOUND, *judged, LOSS) if name in known]


def _curve(study: Study, name: str) -> Figure | None:
    data: list[Entry] = []
    for choice in study.compared.choices:
        runs = [curve for run in choice.runs.values() if (curve := run.run.history.get(name))]
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        if len(steps) > 1:
            values = np.array([[run[step] for step in steps] for run in runs])
            text = f"mean of {len(runs)}" if len(runs) > 1 else "one seed"
            data.append(_line(study, choice, steps, values.mean(0), text))
            if len(runs) > 1 and not crowded(study):
                data[-1] |= {"low": _rounded(_thinned(values.min(0))), "high": _rounded(_thinned(values.max(0)))}
    shown = [value for line in data for part in ("y", "low", "high") for value in line.get(part, ())]
    title = "training loss" if name == LOSS else f"{measure_of(name.removeprefix('val/')).label} in validation"
    sentence = f"{title[0].upper()}{title[1:]}"
    alt = f"{sentence} over optimiser steps, a line per choice; bands from lowest to highest seed."
    sentence += "; bands: lowest to highest seed" * any("low" in line for line in data)
    log = {"type": "log"} if shown and min(shown) > 0 and max(shown) > 20 * min(shown) else {}
    return _lines(study, sentence, alt, data, axis("optimiser steps"), axis(title, **log))


def _lines(study: Study, title: str, alt: str, data: list[Entry], x: Any, y: Any, height: int = 360) -> Figure | None:
    """None without a line. The high ones are as wide as the page."""
    legend = not crowded(study)
    return Figure("lines", title, alt, data, x, y, height, height > 360, legend) if data else None


def _line(study: Study, choice: ComparedChoice, x: Values, y: Values, text: str, log: bool = False) -> Entry:
    return entry(study, choice, text, x=_thinned(x, log), y=_rounded(_thinned(y, log)))


def _thinned(values: Values, log: bool = False) -> list[Any]:
    """At most POINTS of them, evenly on a linear or a logarithmic scale."""
    if len(values) <= POINTS:
        return list(values)
    places = np.geomspace(1, len(values), POINTS) - 1 if log else np.linspace(0, len(values) - 1, POINTS)
    return [values[i] for i in sorted({round(place) for place in places})]


def _rounded(values: Values) -> list[float | None]:
    """To 6 digits. What is not finite leaves a gap."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def terms(study: Study) -> Figure | None:
    """Every term of the bound from vlb_terms.npz, the mean over seeds."""
    data = []
    for choice in study.compared.choices:
        files = [terms for run in choice.runs.values() if _sound(terms := run.run.vlb_terms.content)]
        files = [terms for terms in files if np.array_equal(terms["times"], files[0]["times"])]
        if files:
            mean = np.mean([terms["terms_bpd"] for terms in files], axis=0)
            positive = np.where(mean > 0, mean, np.nan)
            data.append(_line(study, choice, files[0]["times"].tolist(), positive, f"mean of {len(files)}, t", log=True))
    title = "Terms of the bound: L_0 at t = 1, then L_(t−1)"
    alt = (
        "Terms of the bound in bits/dim against t on log scales, a line per choice: L_0 at t = 1, then the divergences L_(t−1)."
    )
    x, y = axis("t", type="log", dtick=1), axis("bits/dim", type="log", dtick=1, exponentformat="power")
    return _lines(study, title, alt, data, x, y, 420)


def _sound(terms: Mapping[str, np.ndarray]) -> bool:
    """Whether they are two lists of numbers of one length."""
    times, bpd = terms.get("times"), terms.get("terms_bpd")
    if times is None or bpd is None or times.ndim != 1 or times.shape != bpd.shape or not len(times):
        return False
    return times.dtype.kind in "iu" and bpd.dtype.kind == "f"


def rate_distortion(study: Study) -> Figure | None:
    """RMSE of x̂_0 against the bits sent so far, from bound_*.csv of evaluations."""
    lines: dict[Path, Entry] = {}
    for choice in study.compared.choices:
        if (path := _bound_file(choice.first)) and path not in lines:
            by_time = columns(path, "t", choice.first.run.problems)
            rate, rmse = by_time.get("rate_bits_per_dim", {}), by_time.get("rmse_of_255", {})
            times = [t for t in rate if t in rmse]
            if times:
                lines[path] = _line(study, choice, [rate[t] for t in times], [rmse[t] for t in times], "rate")
    alt = "Distortion (RMSE of the prediction of x_0, of 255) against rate in bits/dim, a line per choice (its first seed)."
    x, y = axis("rate, bits/dim"), axis("RMSE of x̂_0, of 255")
    return _lines(study, "Rate and distortion", alt, list(lines.values()), x, y, 420)


def _bound_file(run: ComparedRun) -> Path | None:
    """Of the longest chain that was measured under the choice's variance."""
    if run.evaluation is None:
        return None
    variance = re.escape(str(run.flat["evaluated.variance"]).replace("/", "_"))
    files = run.evaluation.glob("bound_*.csv")
    steps = {int(name[1]): path for path in files if (name := re.fullmatch(rf"bound_(\d+)_{variance}\.csv", path.name))}
    return steps[max(steps)] if steps else None


def described(study: Study) -> list[Figure | None]:
    """What models say of themselves in curves.json, as schedules: by title, one line for all choices with the same curve."""
    lines: dict[str, dict[DescribedCurve, list[ComparedChoice]]] = {}
    for choice in study.compared.choices:
        for curve in next((run.run.described for run in choice.runs.values() if run.run.described), []):
            lines.setdefault(curve.title, {}).setdefault(curve, []).append(choice)
    figures = []
    for title, by_curve in lines.items():
        data = []
        for curve, choices in by_curve.items():
            x, y = ([point[i] for point in curve.points] for i in (0, 1))
            data.append(_line(study, choices[0], x, y, "") | {"name": html.escape(_in_common(choices), quote=False)})
        first = next(iter(by_curve))
        alt = f"{first.alt} {len(by_curve)} different lines over {len(study.compared.choices)} choices."
        figures.append(_lines(study, title, alt, data, axis(first.x_label), axis(first.y_label)))
    return figures


def _in_common(choices: Sequence[ComparedChoice]) -> str:
    """The part of the label that the choices share."""
    first, *others = choices
    shared = [word for key, word in first.words.items() if all(other.words.get(key) == word for other in others)]
    return ", ".join(shared) or "all choices"
