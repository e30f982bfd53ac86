"""Figures with a line for each choice: distance over seconds, curves of training, terms of the bound, rate and distortion."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_lab.compare.cautions import counted
from ddpm_lab.compare.choices import EVALUATED, SEPARATOR, ComparedChoice, ComparedRun, as_yaml
from ddpm_lab.compare.equal_cost import compared_distance, curves
from ddpm_lab.compare.figures import Entry, Figure, axis, crowded, entry, with_legend
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import measure_of
from ddpm_lab.compare.number import finite
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.run_folder import DescribedCurve, columns

POINTS = 4_000
"""Of all lines of a figure together at most."""
BOUND = "val/bound_bpd"
LOSS = "train/loss"
WEIGHTS = f"{EVALUATED}weights"
BY_POWERS = ".PostHoc"
"""The class of ema=posthoc, at the end of its `_target_`."""
Values = Sequence[float] | np.ndarray


def distance_over_seconds(study: Study) -> Figure | None:
    """The Fréchet distance against seconds per 1,000 samples, a line over the numbers of steps of each variance."""
    distance = compared_distance(study.columns)
    if distance is None:
        return None
    data = []
    for curve in curves(study.compared, study.columns):
        first, n = next(iter(curve.points)), min(map(len, curve.points.values()))
        seconds, distances = np.exp([np.mean(list(points.values()), axis=0) for points in curve.points.values()]).T
        data.append(_line(study, first, seconds.tolist(), distances, f"geometric mean of {n}" if n > 1 else "one seed"))
        data[-1]["name"] = html.escape(curve.label, quote=False)
    title = f"{distance.measure.label} against seconds"
    alt = f"{title} per 1,000 samples on log scales, over numbers of steps. {_last(data)}"
    x, y = axis("sampling, seconds per 1,000 samples", type="log"), axis(distance.measure.label, type="log")
    return _lines(f"{title}: a line over numbers of steps; lower left is better", alt, data, x, y, 420)


def over_lengths(study: Study) -> list[Figure | None]:
    """Each score against the length σ_rel of the average, 0 of raw weights, a line for each choice of all else."""
    lines: dict[str, dict[float, ComparedChoice]] = {}
    for choice in study.compared.choices:
        if (length := _length(choice.first)) is not None:
            rest = {key: as_yaml(value) for key, value in choice.first.flat.items() if key != WEIGHTS}
            lines.setdefault(json.dumps(rest, sort_keys=True), {})[length] = choice
    return [_over_lengths(study, column, [line for line in lines.values() if len(line) > 1]) for column in study.main]


def _over_lengths(study: Study, column: Column, lines: Sequence[Mapping[float, ComparedChoice]]) -> Figure | None:
    data = []
    for line in lines:
        points = {length: column.estimates[line[length]] for length in sorted(line) if line[length] in column.estimates}
        if len(points) < 2:
            continue
        first, n = line[min(points)], min(each.n for each in points.values())
        values = [each.value for each in points.values()]
        data.append(_line(study, first, list(points), values, f"mean of {n}" if n > 1 else "one seed"))
        words = [word for axis, word in first.words.items() if axis != WEIGHTS]
        data[-1]["name"] = html.escape(SEPARATOR.join(words) or "all choices", quote=False)
        if all(each.low is not None for each in points.values()):
            data[-1] |= {"low": _rounded([each.low or 0.0 for each in points.values()])}
            data[-1] |= {"high": _rounded([each.high or 0.0 for each in points.values()])}
    label = column.measure.label
    title = f"{label} against the length of the average"
    title += "; bands: intervals over seeds" * any("low" in line for line in data)
    alt = f"{label} against the length of the average, σ_rel, where 0 is the raw network. {_last(data)}"
    return _lines(title, alt, data, axis("length of the average, σ_rel (0: raw)"), axis(label))


def _length(run: ComparedRun) -> float | None:
    """Of an average by powers of the step, whose key in a checkpoint it is."""
    weights = str(run.flat.get(WEIGHTS))
    if not str(run.flat.get("ema")).endswith(BY_POWERS):
        return None
    return 0.0 if weights == "raw" else finite(weights.removeprefix("ema/"))


def learning(study: Study) -> list[Figure | None]:
    """Validation and training loss over steps, from metrics.csv."""
    runs = [run for choice in study.compared.choices for run in choice.runs.values()]
    known = dict.fromkeys(name for run in runs for name in run.run.history)
    judged = [name for name in known if measure_of(name.removeprefix("val/")).judged and name != BOUND]
    return [_curve(study, name) for name in (BOUND, *judged, LOSS) if name in known]


def _curve(study: Study, name: str) -> Figure | None:
    data: list[Entry] = []
    most = _most(study)
    for choice in study.compared.choices:
        runs = [curve for run in choice.runs.values() if (curve := run.run.history.get(name))]
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        if len(steps) > 1:
            values = np.array([[run[step] for step in steps] for run in runs])
            text = f"mean of {len(runs)}" if len(runs) > 1 else "one seed"
            data.append(_line(study, choice, steps, values.mean(0), text))
            if len(runs) > 1 and not crowded(study):
                data[-1] |= {"low": _rounded(_thinned(values.min(0), most)), "high": _rounded(_thinned(values.max(0), most))}
    shown = [value for line in data for part in ("y", "low", "high") for value in line.get(part, ())]
    title = "training loss" if name == LOSS else f"{measure_of(name.removeprefix('val/')).label} in validation"
    sentence = f"{title[0].upper()}{title[1:]}"
    alt = f"{sentence} over optimiser steps. {_last(data)}"
    sentence += "; bands: lowest to highest seed" * any("low" in line for line in data)
    log = {"type": "log"} if shown and min(shown) > 0 and max(shown) > 20 * min(shown) else {}
    return _lines(sentence, alt, data, axis("optimiser steps"), axis(title, **log))


def _lines(title: str, alt: str, data: list[Entry], x: Any, y: Any, height: int = 360) -> Figure | None:
    """None without a line. The high ones are as wide as the page."""
    return with_legend(Figure("lines", title, alt, data, x, y, height, height > 360)) if data else None


def _last(data: Sequence[Entry]) -> str:
    """Where the lines end, in words; nothing where none has a value."""
    ends = {line["name"]: (x, y) for line in data for x, y in zip(line["x"], line["y"], strict=True) if y is not None}
    if not ends:
        return ""
    places = sorted(ends, key=lambda name: ends[name][1])
    if len(ends) == 1:
        return f"The line ends at {ends[places[0]][1]:.4g}."
    named = [f"{html.unescape(name)} at {ends[name][1]:.4g}" for name in (places[0], places[-1])]
    return f"Of {len(data)} lines the one that ends lowest is {named[0]}, highest {named[1]}."


def _line(study: Study, choice: ComparedChoice, x: Values, y: Values, text: str, log: bool = False) -> Entry:
    most = _most(study)
    return entry(study, choice, text, x=_thinned(x, most, log), y=_rounded(_thinned(y, most, log)))


def _most(study: Study) -> int:
    """Points of a line: fewer where there are more lines, which all are in the file."""
    return max(50, min(200, POINTS // len(study.compared.choices)))


def _thinned(values: Values, most: int, log: bool = False) -> list[Any]:
    """At most so many of them, evenly on a linear or a logarithmic scale."""
    if len(values) <= most:
        return list(values)
    places = np.geomspace(1, len(values), most) - 1 if log else np.linspace(0, len(values) - 1, most)
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
    alt = f"Terms of the bound in bits/dim against t on log scales: L_0 at t = 1, then the divergences. {_last(data)}"
    x, y = axis("t", type="log", dtick=1), axis("bits/dim", type="log", dtick=1, exponentformat="power")
    return _lines(title, alt, data, x, y, 420)


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
    shown = list(lines.values())
    alt = f"Distortion (RMSE of the prediction of x_0, of 255) against rate in bits/dim, of first seeds. {_last(shown)}"
    x, y = axis("rate, bits/dim"), axis("RMSE of x̂_0, of 255")
    return _lines("Rate and distortion", alt, shown, x, y, 420)


def _bound_file(run: ComparedRun) -> Path | None:
    """Of the longest chain that was measured under the choice's variance."""
    if run.evaluation is None:
        return None
    variance, weights = (re.escape(str(run.flat[f"{EVALUATED}{key}"]).replace("/", "_")) for key in ("variance", "weights"))
    files, form = run.evaluation.glob("bound_*.csv"), rf"bound_(\d+)_{variance}(_{weights})?\.csv"
    steps = {int(name[1]): path for path in files if (name := re.fullmatch(form, path.name))}
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
        alt = f"{first.alt} {counted(len(by_curve), 'line')} of {counted(len(study.compared.choices), 'choice')}."
        figures.append(_lines(title, alt, data, axis(first.x_label), axis(first.y_label)))
    return figures


def _in_common(choices: Sequence[ComparedChoice]) -> str:
    """The part of the label that the choices share."""
    first, *others = choices
    shared = [word for key, word in first.words.items() if all(other.words.get(key) == word for other in others)]
    return SEPARATOR.join(shared) or "all choices"
