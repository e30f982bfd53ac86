"""Plots along something: steps of training, the times of the chain, rate."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_lab.compare.choices import Arm, Choice
from ddpm_lab.compare.figures import Figure, Trace, axis, colour, crowded, layout, style, translucent
from ddpm_lab.compare.measures import named
from ddpm_lab.compare.table import Study

POINTS = 200
"""Of a line at most: more are not seen, and weigh."""


def learning(study: Study) -> list[Figure]:
    """From metrics.csv: what validation and training said along the way."""
    known = dict.fromkeys(name for choice in study.compared.choices for arm in choice.arms.values() for name in arm.run.curves)
    shown = [
        "val/bound_bpd",
        *(name for name in known if named(name.removeprefix("val/")).judged and name != "val/bound_bpd"),
        "train/loss",
    ]
    return [figure for name in shown if name in known and (figure := _curve(study, name)) is not None]


def _curve(study: Study, name: str) -> Figure | None:
    data: list[Trace] = []
    for choice in study.compared.choices:
        runs = [curve for arm in choice.arms.values() if (curve := arm.run.curves.get(name))]
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        if len(steps) < 2:
            continue
        steps = [steps[i] for i in thinned(len(steps))]
        values = np.array([[run[step] for step in steps] for run in runs])
        data += _band(study, choice, steps, values.min(0), values.max(0)) if len(runs) > 1 and not crowded(study) else []
        data.append(line(study, choice, steps, values.mean(0), f"mean of {len(runs)}" if len(runs) > 1 else "one seed"))
    if not data:
        return None
    what = "training loss" if name == "train/loss" else f"{named(name.removeprefix('val/')).label} in validation"
    alt = f"{what[0].upper()}{what[1:]} over optimiser steps, a line per choice; bands from lowest to highest seed."
    y = axis(what, type="log") if _wide([v for trace in data for v in trace["y"]]) else axis(what)
    title = f"{what[0].upper()}{what[1:]}" + ("; bands: lowest to highest seed" if any("fill" in t for t in data) else "")
    return Figure(title, alt, data, layout(xaxis=axis("optimiser steps"), yaxis=y, showlegend=not crowded(study)))


def _wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def thinned(n: int, log: bool = False) -> list[int]:
    if n <= POINTS:
        return list(range(n))
    places = np.geomspace(1, n, POINTS) - 1 if log else np.linspace(0, n - 1, POINTS)
    return sorted({round(place) for place in places})


def line(study: Study, choice: Choice, x: Sequence[float], y: Any, text: str) -> Trace:
    return {
        "x": list(x), "y": [_rounded(v) for v in y], "mode": "lines+markers" if len(x) <= 12 else "lines",
        "name": choice.plotted, "legendgroup": choice.plotted, "line": style(study, choice), "marker": {"size": 5},
        "hovertemplate": f"{choice.plotted}, {text}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
    }  # fmt: skip


def _band(study: Study, choice: Choice, x: Sequence[float], low: Any, high: Any) -> list[Trace]:
    common = {
        "x": list(x),
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": choice.plotted,
    }
    upper = {"y": [_rounded(v) for v in high], "fill": "tonexty", "fillcolor": translucent(colour(study, choice))}
    return [common | {"y": [_rounded(v) for v in low]}, common | upper]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def terms(study: Study) -> Figure | None:
    """vlb_terms.npz: every term of the bound, the mean over seeds."""
    data = []
    for choice in study.compared.choices:
        found = [terms for arm in choice.arms.values() if _sound(terms := arm.run.terms)]
        found = [terms for terms in found if np.array_equal(terms["times"], found[0]["times"])]
        if found:
            kept = thinned(len(found[0]["times"]), log=True)
            mean = np.mean([terms["terms_bpd"] for terms in found], axis=0)[kept]
            data.append(
                line(
                    study,
                    choice,
                    found[0]["times"][kept].tolist(),
                    np.where(mean > 0, mean, np.nan),
                    f"mean of {len(found)}, t",
                )
            )
            data[-1]["y"] = [None if y != y else y for y in data[-1]["y"]]
    if not data:
        return None
    alt = (
        "Terms of the bound in bits/dim against t on log scales, a line per choice: L_0 at t = 1, then the divergences L_(t−1)."
    )
    x, y = axis("t", type="log", dtick=1), axis("bits/dim", type="log", dtick=1, exponentformat="power")
    own = layout(420, xaxis=x, yaxis=y, showlegend=not crowded(study))
    return Figure(
        "Terms of the bound: L_0 at t = 1, then L_(t−1)",
        alt,
        data,
        own,
        wide=True,
    )


def _sound(terms: Mapping[str, np.ndarray]) -> bool:
    """Whether they are two lists of numbers side by side."""
    times, bpd = terms.get("times"), terms.get("terms_bpd")
    if times is None or bpd is None or times.ndim != 1 or times.shape != bpd.shape or not len(times):
        return False
    return times.dtype.kind in "iu" and bpd.dtype.kind == "f"


def rate_distortion(study: Study) -> Figure | None:
    """bound_*.csv of evaluations: RMSE of x̂_0 against what has been sent."""
    data, seen = [], set()
    for choice in study.compared.choices:
        arm = next(iter(choice.arms.values()))
        path = _bound_file(arm)
        columns = _columns(path) if path else {}
        if path in seen or not {"rate_bits_per_dim", "rmse_of_255"} <= columns.keys():
            continue
        seen.add(path)
        kept = thinned(len(columns["rmse_of_255"]))
        x, y = ([columns[name][i] for i in kept] for name in ("rate_bits_per_dim", "rmse_of_255"))
        data.append(line(study, choice, x, y, "rate"))
    if not data:
        return None
    alt = "Distortion (RMSE of the prediction of x_0, of 255) against rate in bits/dim, a line per choice (its first seed)."
    return Figure(
        "Rate and distortion",
        alt,
        data,
        layout(420, xaxis=axis("rate, bits/dim"), yaxis=axis("RMSE of x̂_0, of 255")),
        wide=True,
    )


def _bound_file(arm: Arm) -> Path | None:
    """Of the longest chain that was measured under the choice's variance."""
    if arm.evaluation is None:
        return None
    variance = re.escape(str(arm.flat["evaluated.variance"]).replace("/", "_"))
    files = arm.evaluation.glob("bound_*.csv")
    found = {int(name[1]): path for path in files if (name := re.fullmatch(rf"bound_(\d+)_{variance}\.csv", path.name))}
    return found[max(found)] if found else None


def _columns(path: Path) -> dict[str, list[float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {})}
    except (OSError, ValueError, TypeError, csv.Error):
        return {}
