"""Pictures of an evaluation: terms and their parts, rate against distortion, scores against steps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ddpm_lab.evaluation.evaluate import BOUND, DISTANCE, Evaluated
from ddpm_lab.likelihood.bound import Bound

SIZE = (9.2, 3.6)


def plot_bound(bound: Bound, title: str, path: Path) -> Path:
    """Each term with its share by means and by variances; and rate against distortion."""
    figure = Figure(figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    times = np.array(bound.times)
    for values, name, style in (
        (bound.terms_bpd, "L_0 at t = 1, then L_(t−1)", "-"),
        (bound.mean_bpd, "by the means", "--"),
        (bound.variance_bpd, "by the variances", ":"),
    ):
        y = values.numpy()
        left.plot(times, np.where(y > 0, y, np.nan), style, label=name, marker="." if len(times) < 30 else None)
    left.set(xscale="log", yscale="log", xlabel="t", ylabel="bits/dim", title=title)
    left.legend(frameon=False, fontsize=8)
    rate, rmse = bound.rate_distortion()
    right.plot(rate.numpy(), rmse.numpy(), marker="." if len(times) < 30 else None)
    right.set(xlabel="rate, bits/dim", ylabel="RMSE of x̂_0, of 255", title="rate and distortion")
    figure.savefig(path, dpi=110)
    return path


def plot_sweep(arms: Sequence[Evaluated], path: Path) -> Path | None:
    """Bound and Fréchet distance against steps, a line per choice; None where nothing varies."""
    if len({arm.steps for arm in arms}) < 2:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    labels = {BOUND: "bits/dim, bound on the sampler's chain", DISTANCE: "Fréchet distance"}
    for ax, (score, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        lines: dict[str, dict[int, float]] = {}
        for arm in arms:
            result, choice = arm.scores.get(score), arm.choice
            if result is not None and result.value > 0:
                names = [choice.names.get("variance", "")] if score == BOUND else choice.names_of_samples.values()
                lines.setdefault(f"{', '.join(names)} {arm.setting}".strip(), {})[arm.steps] = result.value
        for name, points in lines.items():
            steps = sorted(points)
            ax.plot(steps, [points[n] for n in steps], marker="o", markersize=3, label=name)
        values = [value for points in lines.values() for value in points.values()]
        if values and max(values) > 5 * min(values):  # they differ by more than a few times
            ax.set_yscale("log")
        every = sorted({arm.steps for arm in arms})
        ax.set(xscale="log", xlabel="steps", ylabel=label)
        ax.set_xticks(every, list(map(str, every)))
        ax.minorticks_off()
        if lines:
            ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    return path
