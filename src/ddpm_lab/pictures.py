"""Samples as pictures."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ddpm_lab.core.grey import to_uint8
from ddpm_lab.files import replacing


def not_finite(x: Tensor) -> int:
    """How many of N × … have a value that is not finite."""
    return int((~x.flatten(1).isfinite().all(1)).sum())


def diverged(broken: int, n: int, levels: int | None) -> str:
    """A warning about samples that are not finite. `levels`: grey levels of the data; only x̂_0 of such can be clipped."""
    clip = "" if levels is None else ", or sampler.clip=true"
    what = f"{broken} of {n} samples are not finite: the sampler diverged, so their quality is not measured"
    return f"{what}; try more sampler.steps{clip}"


def save_grid(x: Tensor, path: Path, columns: int | None = None) -> Path:
    """N C H W in [−1, 1] as one PNG: rows of `columns` images (None: as square as can be), small ones enlarged to 48 pixels;
    N×D vectors (D ≥ 2) as a scatter plot of the first two dimensions. Returns the path."""
    if x.ndim == 2:
        return _save_scatter([x], path)
    with replacing(path) as partial:
        Image.fromarray(tiled(x, columns or math.ceil(math.sqrt(len(x)))).squeeze()).save(partial, format="PNG")
    return path


GAP = 2
"""Pixels between images."""


def tiled(x: Tensor, columns: int) -> np.ndarray:
    """N C H W in [−1, 1] as one picture, rows of `columns`, small images enlarged to 48 pixels, with gaps between."""
    zoom = max(1, 48 // x.shape[3])
    tiles = to_uint8(x).cpu().repeat_interleave(zoom, 2).repeat_interleave(zoom, 3).permute(0, 2, 3, 1).numpy()
    n, height, width, channels = tiles.shape
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 96, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def save_progression(frames: list[Tensor], labels: list[str], path: Path) -> Path:
    """Frames (each N × shape) side by side, one column per frame, labelled above."""
    if frames[0].ndim == 2:
        return _save_scatter(frames, path, labels)
    return _save_figure(strip(torch.stack(frames, 1), labels), path)


def strip(x: Tensor, columns: Sequence[str], rows: Sequence[str] = ()) -> Figure:
    """Rows × columns × C H W in [−1, 1] as a picture of 100 dots per inch, columns labelled above, rows at the left."""
    canvas = tiled(x.flatten(0, 1), len(columns))
    left = 12 + 6 * max(map(len, rows), default=0)
    height, width = canvas.shape[0] + 40, canvas.shape[1] + 10 + left
    figure = Figure(figsize=(width / 100, height / 100))
    axes = figure.add_axes((left / width, 10 / height, canvas.shape[1] / width, canvas.shape[0] / height))
    draw_strip(axes, canvas, columns, rows)
    return figure


def draw_strip(axes: Axes, canvas: np.ndarray, columns: Sequence[str], rows: Sequence[str] = ()) -> None:
    """`tiled` pictures on axes, every pixel sharp."""
    height, width = canvas.shape[:2]
    axes.imshow(canvas.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([(i + 0.5) * width / len(columns) for i in range(len(columns))], columns, fontsize=7)
    axes.set_yticks([(i + 0.5) * height / len(rows) for i in range(len(rows))], rows, fontsize=7)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.spines[:].set_visible(False)


def _save_figure(figure: Figure, path: Path) -> Path:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
    return path


def _save_scatter(clouds: list[Tensor], path: Path, labels: list[str] | None = None) -> Path:
    figure = Figure(figsize=(3.2 * len(clouds), 3.4), layout="constrained")
    finite = clouds[-1][clouds[-1].isfinite().all(1)]
    reach = 1.1 * float(finite[:, :2].abs().max()) if len(finite) and finite.any() else 1.0
    for i, cloud in enumerate(clouds):
        axes = figure.add_subplot(1, len(clouds), i + 1, aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        axes.scatter(*cloud[:, :2].T.cpu().numpy(), s=2, alpha=0.5, linewidths=0)
        if labels:
            axes.set_title(labels[i], fontsize=10)
    return _save_figure(figure, path)
