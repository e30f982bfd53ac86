"""Figures along an axis: steps of training, times of the chain, rate, and what a model says of itself."""

import csv
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_lab.compare.choices import ComparedChoice, ComparedRun
from ddpm_lab.compare.figures import Figure, Trace, axis, crowded, style_of
from ddpm_lab.compare.measures import measure_of
from ddpm_lab.compare.run_folder import DescribedCurve
from ddpm_lab.compare.study import Study

POINTS = 200
"""Of a line at most."""
BOUND = "val/bound_bpd"
LOSS = "train/loss"


def learning(study: Study) -> list[Figure]:
    """Validation and training loss over steps, from metrics.csv."""
    runs = [run for choice in study.compared.choices for run in choice.runs.values()]
    known = dict.fromkeys(name for run in runs for name in run.run.history)
    judged = [name for name in known if measure_of(name.removeprefix("val/")).judged and name != BOUND]
    curves = (_curve(study, name) for name in (BOUND, *judged, LOSS) if name in known)
    return [figure for figure in curves if figure is not None]


def _curve(study: Study, name: str) -> Figure | None:
    data: list[Trace] = []
    banded = False
    for choice in study.compared.choices:
        runs = [curve for run in choice.runs.values() if (curve := run.run.history.get(name))]
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        if len(steps) < 2:
            continue
        steps = [steps[i] for i in thinned(len(steps))]
        values = np.array([[run[step] for step in steps] for run in runs])
        if len(runs) > 1 and not crowded(study):
            data += _band(study, choice, steps, values.min(0), values.max(0))
            banded = True
        data.append(_line(study, choice, steps, values.mean(0), f"mean of {len(runs)}" if len(runs) > 1 else "one seed"))
    if not data:
        return None
    title = "training loss" if name == LOSS else f"{measure_of(name.removeprefix('val/')).label} in validation"
    sentence = f"{title[0].upper()}{title[1:]}"
    alt = f"{sentence} over optimiser steps, a line per choice; bands from lowest to highest seed."
    y = axis(title, type="log") if _wide([v for trace in data for v in trace["y"]]) else axis(title)
    layout = _layout(study, axis("optimiser steps"), y)
    return Figure(sentence + "; bands: lowest to highest seed" * banded, alt, data, layout)


def _layout(study: Study, x: dict[str, Any], y: dict[str, Any], height: int = 360) -> dict[str, Any]:
    return {"height": height, "xaxis": x, "yaxis": y, "showlegend": not crowded(study)}


def _wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def thinned(n: int, log: bool = False) -> list[int]:
    """Indices of at most POINTS of n points."""
    if n <= POINTS:
        return list(range(n))
    places = np.geomspace(1, n, POINTS) - 1 if log else np.linspace(0, n - 1, POINTS)
    return sorted({round(place) for place in places})


def _line(study: Study, choice: ComparedChoice, x: Sequence[float], y: Iterable[float], text: str) -> Trace:
    return {
        "x": list(x),
        "y": [None if np.isnan(value) else _rounded(value) for value in y],
        "mode": "lines+markers" if len(x) <= 12 else "lines",
        "name": choice.plotted,
        "legendgroup": choice.plotted,
        "line": style_of(study, choice),
        "marker": {"size": 5},
        "hovertemplate": f"{choice.plotted}, {text}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
    }


def _band(study: Study, choice: ComparedChoice, x: Sequence[float], low: Any, high: Any) -> list[Trace]:
    common = {"x": list(x), "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    common["legendgroup"] = choice.plotted
    colour = style_of(study, choice)["color"]
    translucent = f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},0.16)"
    upper = {"y": [_rounded(v) for v in high], "fill": "tonexty", "fillcolor": translucent}
    return [common | {"y": [_rounded(v) for v in low]}, common | upper]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def terms(study: Study) -> Figure | None:
    """Every term of the bound from vlb_terms.npz, the mean over seeds."""
    data = []
    for choice in study.compared.choices:
        files = [terms for run in choice.runs.values() if _sound(terms := run.run.vlb_terms.content)]
        files = [terms for terms in files if np.array_equal(terms["times"], files[0]["times"])]
        if files:
            kept = thinned(len(files[0]["times"]), log=True)
            mean = np.mean([terms["terms_bpd"] for terms in files], axis=0)[kept]
            times = files[0]["times"][kept].tolist()
            data.append(_line(study, choice, times, np.where(mean > 0, mean, np.nan), f"mean of {len(files)}, t"))
    if not data:
        return None
    alt = (
        "Terms of the bound in bits/dim against t on log scales, a line per choice: L_0 at t = 1, then the divergences L_(t−1)."
    )
    x, y = axis("t", type="log", dtick=1), axis("bits/dim", type="log", dtick=1, exponentformat="power")
    return Figure("Terms of the bound: L_0 at t = 1, then L_(t−1)", alt, data, _layout(study, x, y, 420), wide=True)


def _sound(terms: Mapping[str, np.ndarray]) -> bool:
    """Whether they are two lists of numbers of one length."""
    times, bpd = terms.get("times"), terms.get("terms_bpd")
    if times is None or bpd is None or times.ndim != 1 or times.shape != bpd.shape or not len(times):
        return False
    return times.dtype.kind in "iu" and bpd.dtype.kind == "f"


def rate_distortion(study: Study) -> Figure | None:
    """RMSE of x̂_0 against the bits sent so far, from bound_*.csv of evaluations."""
    data, seen = [], set()
    for choice in study.compared.choices:
        path = _bound_file(choice.first)
        columns = _columns(path) if path else {}
        if path in seen or not {"rate_bits_per_dim", "rmse_of_255"} <= columns.keys():
            continue
        seen.add(path)
        kept = thinned(len(columns["rmse_of_255"]))
        x, y = ([columns[name][i] for i in kept] for name in ("rate_bits_per_dim", "rmse_of_255"))
        data.append(_line(study, choice, x, y, "rate"))
    if not data:
        return None
    alt = "Distortion (RMSE of the prediction of x_0, of 255) against rate in bits/dim, a line per choice (its first seed)."
    layout = _layout(study, axis("rate, bits/dim"), axis("RMSE of x̂_0, of 255"), 420)
    return Figure("Rate and distortion", alt, data, layout, wide=True)


def _bound_file(run: ComparedRun) -> Path | None:
    """Of the longest chain that was measured under the choice's variance."""
    if run.evaluation is None:
        return None
    variance = re.escape(str(run.flat["evaluated.variance"]).replace("/", "_"))
    files = run.evaluation.glob("bound_*.csv")
    steps = {int(name[1]): path for path in files if (name := re.fullmatch(rf"bound_(\d+)_{variance}\.csv", path.name))}
    return steps[max(steps)] if steps else None


def _columns(path: Path) -> dict[str, list[float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {})}
    except (OSError, ValueError, TypeError, csv.Error):
        return {}


def described(study: Study) -> list[Figure]:
    """What models say of themselves in curves.json, as schedules: by title, one line for all choices with the same curve."""
    lines: dict[str, dict[DescribedCurve, list[ComparedChoice]]] = {}
    for choice in study.compared.choices:
        for curve in next((run.run.described for run in choice.runs.values() if run.run.described), []):
            lines.setdefault(curve.title, {}).setdefault(curve, []).append(choice)
    figures = []
    for title, by_curve in lines.items():
        data = []
        for curve, choices in by_curve.items():
            kept = thinned(len(curve.x))
            name = html.escape(_in_common(choices), quote=False)
            line = _line(study, choices[0], [curve.x[i] for i in kept], [curve.y[i] for i in kept], "")
            data.append(line | {"name": name, "hovertemplate": f"{name}<br>%{{x}}: %{{y:.4g}}<extra></extra>"})
        first = next(iter(by_curve))
        alt = f"{first.alt} {len(by_curve)} different lines over {len(study.compared.choices)} choices."
        figures.append(Figure(title, alt, data, _layout(study, axis(first.x_label), axis(first.y_label))))
    return figures


def _in_common(choices: Sequence[ComparedChoice]) -> str:
    """The part of the label that the choices share."""
    first, *others = choices
    shared = [word for key, word in first.words.items() if all(other.words.get(key) == word for other in others)]
    return ", ".join(shared) or "all choices"
