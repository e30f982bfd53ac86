"""Pictures of an evaluation: terms and their parts, rate against distortion, scores against steps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm_lab.evaluation.evaluate import BOUND, DISTANCE, SECONDS, Evaluated
from ddpm_lab.evaluation.tables import comparable, feature_space
from ddpm_lab.likelihood.bound import Bound

SIZE = (9.2, 3.6)
DASHES = ("-", "--", ":", "-.")


def plot_bound(bound: Bound, title: str, path: Path) -> Path:
    """Each term with its share by means and by variances, on a log scale if any is positive, which those of densities need not
    be; and rate against distortion."""
    figure = Figure(figsize=SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    times = np.array(bound.times)
    terms = np.stack([bound.terms_bpd.numpy(), bound.mean_bpd.numpy(), bound.variance_bpd.numpy()])
    log = bool((terms > 0).any())
    names = {"L_0 at the smallest t, then divergences": "-", "by the means": "--", "by the variances": ":"}
    for y, (name, style) in zip(terms, names.items(), strict=True):
        left.plot(times, np.where(y > 0, y, np.nan) if log else y, style, label=name, marker="." if len(times) < 30 else None)
    left.set(xscale="log", yscale="log" if log else "linear", xlabel="t", ylabel="bits/dim", title=title)
    left.legend(frameon=False, fontsize=8)
    rate, rmse = bound.rate_distortion()
    right.plot(rate.numpy(), rmse.numpy(), marker="." if len(times) < 30 else None)
    right.set(xlabel="rate, bits/dim", ylabel="RMSE of x̂_0, of 255", title="rate and distortion")
    figure.savefig(path, dpi=110)
    return path


def plot_sweep(arms: Sequence[Evaluated], path: Path) -> Path | None:
    """Bound and Fréchet distance against steps, and the distance against seconds where these are known, a line per choice; None
    where nothing varies, and where no choice has either. Of several feature spaces it shows the first. Seconds that may not be
    compared with those of the first choice are left out."""
    if len({arm.steps for arm in arms}) < 2 or not _have_scores(arms):
        return None
    first = next((feature_space(arm, DISTANCE) for arm in arms if DISTANCE in arm.scores), "")
    arms = [arm for arm in arms if DISTANCE not in arm.scores or feature_space(arm, DISTANCE) == first]
    distance = f"Fréchet distance, {first}" if first else "Fréchet distance"
    timed = next(iter(comparable([arm for arm in arms if DISTANCE in arm.scores], SECONDS)), [])
    figure = Figure(figsize=(SIZE[0] * (1.5 if timed else 1) + 3, SIZE[1]), layout="constrained")
    left, middle, *right = figure.subplots(1, 3 if timed else 2)
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(_coloured(arm.choice.names, arm) for arm in arms))}
    _plot_scores(left, arms, BOUND, "bits/dim, bound on the sampler's chain", colours)
    _plot_scores(middle, arms, DISTANCE, distance, colours)
    for ax, place in ((left, "outside left center"), (middle, "outside right center")):
        if lines := ax.get_legend_handles_labels()[0]:
            figure.legend(handles=lines, loc=place, frameon=False, fontsize=8)  # pyright: ignore
    every = sorted({arm.steps for arm in arms})
    for ax in (left, middle):
        ax.set_xlabel("steps")
        ax.set_xticks(every, list(map(str, every)))
        ax.minorticks_off()
    for ax in right:
        _plot_scores(ax, timed, DISTANCE, distance, colours, lambda arm: arm.scores[SECONDS].value)
        ax.set_xlabel("seconds per 1,000 samples")
    with matplotlib.rc_context({"axes.formatter.min_exponent": 4}):  # 0.02, and not 2 · 10⁻²
        figure.savefig(path, dpi=110)
    return path


def plot_lengths(arms: Sequence[Evaluated], path: Path) -> Path | None:
    """Bound and Fréchet distance against the length σ_rel of averages, 0 for raw weights, a line for each choice of the rest;
    None where fewer than two lengths were measured, and where no choice has either."""
    arms = sorted((arm for arm in arms if arm.length is not None), key=lambda arm: arm.length or 0.0)
    if len({arm.length for arm in arms}) < 2 or not _have_scores(arms):
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    labels = {BOUND: "bits/dim, bound on the sampler's chain", DISTANCE: "Fréchet distance"}
    for ax, (score, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        for group in comparable(arms, score):
            lines: dict[str, list[Evaluated]] = {}
            for arm in group:
                names = arm.choice.names if score == BOUND else arm.choice.names_of_samples
                groups = ("variance",) if score == BOUND else [name for name in names if name != "weights"]
                parts = [
                    *(names.get(name, "") for name in groups),
                    f"{arm.steps} steps",
                    arm.setting,
                    feature_space(arm, score),
                ]
                lines.setdefault(", ".join(filter(None, parts)), []).append(arm)
            for name, line in lines.items():
                results = [arm.scores[score] for arm in line]
                errors = [result.known_se or 0 for result in results]
                x, y = [arm.length for arm in line], [result.value for result in results]
                ax.errorbar(x, y, errors if any(errors) else None, marker="o", markersize=3, label=name)
        ax.set(xlabel="length of the average, σ_rel (0: raw)", ylabel=label)
        ax.locator_params(axis="x", nbins=5)
        if ax.lines:
            ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def _have_scores(arms: Sequence[Evaluated]) -> bool:
    """Whether a picture of them would hold something."""
    return any({BOUND, DISTANCE} & arm.scores.keys() for arm in arms)


def _coloured(names: Mapping[str, str], arm: Evaluated) -> str:
    """What has one colour in all plots: a variance, or all that samples do not depend on."""
    return f"{names.get('variance', '')} {arm.beside}"


def _plot_scores(
    ax: Axes,
    arms: Sequence[Evaluated],
    score: str,
    label: str,
    colours: Mapping[str, str],
    place: Callable[[Evaluated], float] = lambda arm: arm.steps,
) -> None:
    """The score of each arm at its place on a logarithmic axis, joined in the order of steps; samplers by their dashes. Means
    over sets of samples have bars of one standard error."""
    lines: dict[str, dict[int, tuple[float, float, float]]] = {}
    styles: dict[str, tuple[str, str]] = {}
    samplers = list(dict.fromkeys(arm.choice.names.get("sampler", "") for arm in arms))
    for arm in arms:
        result, choice = arm.scores.get(score), arm.choice
        if result is not None and result.value > 0:
            names = choice.names if score == BOUND else choice.names_of_samples
            groups = ("variance",) if score == BOUND else [group for group in names if group != "weights"]
            name = f"{', '.join(names.get(group, '') for group in groups)} {arm.beside}".strip()
            dash = "-" if score == BOUND else DASHES[samplers.index(choice.names.get("sampler", "")) % len(DASHES)]
            styles[name] = colours.get(_coloured(names, arm), "black"), dash
            lines.setdefault(name, {})[arm.steps] = place(arm), result.value, (result.known_se or 0) if result.sets else 0
    for name, points in lines.items():
        colour, dash = styles[name]
        x, y, se = np.array([points[n] for n in sorted(points)]).T
        ax.plot(x, y, color=colour, linestyle=dash, marker="o", markersize=3, label=name)
        if se.any():
            ax.errorbar(x, y, se, fmt="none", ecolor=colour)
    values = [value for points in lines.values() for _, value, _ in points.values()]
    if values and max(values) > 5 * min(values):  # they differ by more than a few times
        ax.set_yscale("log")
    ax.set(xscale="log", ylabel=label)
