"""Figures along an axis: steps of training, times of the chain, rate, and what a model says of itself."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_lab.compare.choices import ComparedChoice, ComparedRun
from ddpm_lab.compare.figures import Entry, Figure, axis, crowded, entry
from ddpm_lab.compare.measures import measure_of
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.run_folder import DescribedCurve, columns

POINTS = 200
"""Of a line at most."""
BOUND = "val/bound_bpd"
LOSS = "train/loss"
Values = Sequence[float] | np.ndarray


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
            band = (values.min(0), values.max(0)) if len(runs) > 1 and not crowded(study) else None
            text = f"mean of {len(runs)}" if len(runs) > 1 else "one seed"
            data.append(_line(study, choice, steps, values.mean(0), text, band=band))
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


def thinned(n: int, log: bool = False) -> list[int]:
    """Indices of at most POINTS of n points."""
    if n <= POINTS:
        return list(range(n))
    places = np.geomspace(1, n, POINTS) - 1 if log else np.linspace(0, n - 1, POINTS)
    return sorted({round(place) for place in places})


def _rounded(values: Values, kept: Sequence[int]) -> list[float | None]:
    """To 6 digits. What is not a number leaves a gap."""
    return [None if np.isnan(values[i]) else float(f"{values[i]:.6g}") for i in kept]


def _line(
    study: Study,
    choice: ComparedChoice,
    x: Sequence[float],
    y: Values,
    text: str,
    log: bool = False,
    band: tuple[Values, Values] | None = None,
) -> Entry:
    """Thinned. `band`: the lowest and the highest at each x."""
    kept = thinned(len(x), log)
    ends = dict(zip(("low", "high"), (_rounded(end, kept) for end in band or ()), strict=False))
    return entry(study, choice, text, x=[x[i] for i in kept], y=_rounded(y, kept), **ends)


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
