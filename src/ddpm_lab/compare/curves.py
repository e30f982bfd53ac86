"""Figures along an axis: steps of training, times of the chain, rate, and what a model says of itself."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ddpm_lab.compare.choices import ComparedChoice, ComparedRun
from ddpm_lab.compare.figures import Figure, Trace, axis, crowded, layout, style_of
from ddpm_lab.compare.measures import measure_of
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.run_folder import DescribedCurve, columns

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
    for choice in study.compared.choices:
        runs = [curve for run in choice.runs.values() if (curve := run.run.history.get(name))]
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        if len(steps) < 2:
            continue
        values = np.array([[run[step] for step in steps] for run in runs])
        if len(runs) > 1 and not crowded(study):
            data += _band(study, choice, steps, values)
        data.append(_line(study, choice, steps, values.mean(0), f"mean of {len(runs)}" if len(runs) > 1 else "one seed"))
    if not data:
        return None
    title = "training loss" if name == LOSS else f"{measure_of(name.removeprefix('val/')).label} in validation"
    sentence = f"{title[0].upper()}{title[1:]}"
    alt = f"{sentence} over optimiser steps, a line per choice; bands from lowest to highest seed."
    banded = any("fill" in trace for trace in data)
    shown = [value for trace in data for value in trace["y"]]
    wide = min(shown) > 0 and max(shown) > 20 * min(shown)
    y = axis(title, type="log") if wide else axis(title)
    return Figure(
        sentence + "; bands: lowest to highest seed" * banded, alt, data, layout(study, axis("optimiser steps"), y, 360)
    )


def thinned(n: int, log: bool = False) -> list[int]:
    """Indices of at most POINTS of n points."""
    if n <= POINTS:
        return list(range(n))
    places = np.geomspace(1, n, POINTS) - 1 if log else np.linspace(0, n - 1, POINTS)
    return sorted({round(place) for place in places})


def _points(x: Sequence[float], y: Sequence[float] | np.ndarray, log: bool = False) -> Trace:
    """Thinned. What is not a number leaves a gap."""
    kept = thinned(len(x), log)
    return {"x": [x[i] for i in kept], "y": [None if np.isnan(y[i]) else float(f"{y[i]:.6g}") for i in kept]}


def _line(
    study: Study, choice: ComparedChoice, x: Sequence[float], y: Sequence[float] | np.ndarray, text: str, log: bool = False
) -> Trace:
    return _points(x, y, log) | {
        "mode": "lines+markers" if len(x) <= 12 else "lines",
        "name": choice.plotted,
        "legendgroup": choice.plotted,
        "line": style_of(study, choice),
        "marker": {"size": 5},
        "hovertemplate": f"{choice.plotted}, {text}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
    }


def _band(study: Study, choice: ComparedChoice, x: Sequence[float], values: np.ndarray) -> list[Trace]:
    """From the lowest to the highest of `values`, a row for each seed."""
    common = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    common["legendgroup"] = choice.plotted
    colour = style_of(study, choice)["color"]
    translucent = f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},0.16)"
    filled = {"fill": "tonexty", "fillcolor": translucent}
    return [_points(x, values.min(0)) | common, _points(x, values.max(0)) | common | filled]


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
    if not data:
        return None
    alt = (
        "Terms of the bound in bits/dim against t on log scales, a line per choice: L_0 at t = 1, then the divergences L_(t−1)."
    )
    x, y = axis("t", type="log", dtick=1), axis("bits/dim", type="log", dtick=1, exponentformat="power")
    return Figure("Terms of the bound: L_0 at t = 1, then L_(t−1)", alt, data, layout(study, x, y), wide=True)


def _sound(terms: Mapping[str, np.ndarray]) -> bool:
    """Whether they are two lists of numbers of one length."""
    times, bpd = terms.get("times"), terms.get("terms_bpd")
    if times is None or bpd is None or times.ndim != 1 or times.shape != bpd.shape or not len(times):
        return False
    return times.dtype.kind in "iu" and bpd.dtype.kind == "f"


def rate_distortion(study: Study) -> Figure | None:
    """RMSE of x̂_0 against the bits sent so far, from bound_*.csv of evaluations."""
    lines: dict[Path, Trace] = {}
    for choice in study.compared.choices:
        if (path := _bound_file(choice.first)) and path not in lines:
            by_time = columns(path, "t", choice.first.run.problems)
            rate, rmse = by_time.get("rate_bits_per_dim", {}), by_time.get("rmse_of_255", {})
            times = [t for t in rate if t in rmse]
            if times:
                lines[path] = _line(study, choice, [rate[t] for t in times], [rmse[t] for t in times], "rate")
    if not lines:
        return None
    alt = "Distortion (RMSE of the prediction of x_0, of 255) against rate in bits/dim, a line per choice (its first seed)."
    axes = axis("rate, bits/dim"), axis("RMSE of x̂_0, of 255")
    return Figure("Rate and distortion", alt, list(lines.values()), layout(study, *axes), wide=True)


def _bound_file(run: ComparedRun) -> Path | None:
    """Of the longest chain that was measured under the choice's variance."""
    if run.evaluation is None:
        return None
    variance = re.escape(str(run.flat["evaluated.variance"]).replace("/", "_"))
    files = run.evaluation.glob("bound_*.csv")
    steps = {int(name[1]): path for path in files if (name := re.fullmatch(rf"bound_(\d+)_{variance}\.csv", path.name))}
    return steps[max(steps)] if steps else None


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
            name = html.escape(_in_common(choices), quote=False)
            x, y = ([point[i] for point in curve.points] for i in (0, 1))
            named = {"name": name, "hovertemplate": f"{name}<br>%{{x}}: %{{y:.4g}}<extra></extra>"}
            data.append(_line(study, choices[0], x, y, "") | named)
        first = next(iter(by_curve))
        alt = f"{first.alt} {len(by_curve)} different lines over {len(study.compared.choices)} choices."
        figures.append(Figure(title, alt, data, layout(study, axis(first.x_label), axis(first.y_label), 360)))
    return figures


def _in_common(choices: Sequence[ComparedChoice]) -> str:
    """The part of the label that the choices share."""
    first, *others = choices
    shared = [word for key, word in first.words.items() if all(other.words.get(key) == word for other in others)]
    return ", ".join(shared) or "all choices"
