"""Samples as pictures."""

import math
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ddpm_lab.metrics.extractors import to_uint8


def quantise(x: Tensor, levels: int | None) -> Tensor:
    """The nearest grey level, as a value in [−1, 1]; data without levels as they are. Rounds, and does not truncate."""
    if levels is None:
        return x
    top = levels - 1
    return ((x.clamp(-1, 1) + 1) * (top / 2)).round() * (2 / top) - 1


def save_grid(x: Tensor, path: Path, columns: int | None = None) -> Path:
    """N C H W in [−1, 1] as one PNG: rows of `columns` images (None: as square as can be), small ones enlarged to 48 pixels;
    N×D vectors (D ≥ 2) as a scatter plot of the first two dimensions. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if x.ndim == 2:
        return _save_scatter([x], path)
    n, _, height, width = x.shape
    columns = columns or math.ceil(math.sqrt(n))
    zoom, gap = max(1, 48 // width), 2
    tiles = to_uint8(x).cpu().repeat_interleave(zoom, 2).repeat_interleave(zoom, 3).permute(0, 2, 3, 1).numpy()
    rows = math.ceil(n / columns)
    canvas = np.full((rows * (height * zoom + gap) + gap, columns * (width * zoom + gap) + gap, tiles.shape[3]), 96, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // columns * (height * zoom + gap), gap + i % columns * (width * zoom + gap)
        canvas[top : top + height * zoom, left : left + width * zoom] = tile
    Image.fromarray(canvas.squeeze()).save(path)
    return path


def save_progression(frames: list[Tensor], labels: list[str], path: Path) -> Path:
    """Frames (each N × shape) side by side, one column per frame, labelled above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if frames[0].ndim == 2:
        return _save_scatter(frames, path, labels)
    figure = Figure(figsize=(1.1 * len(frames), 1.1 * len(frames[0]) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    for row in range(len(frames[0])):
        for column, frame in enumerate(frames):
            axes = figure.add_subplot(len(frames[0]), len(frames), row * len(frames) + column + 1)
            axes.imshow(to_uint8(frame[row]).cpu().permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(labels[column], fontsize=9)
    figure.savefig(path, dpi=100)
    return path


def _save_scatter(clouds: list[Tensor], path: Path, labels: list[str] | None = None) -> Path:
    figure = Figure(figsize=(3.2 * len(clouds), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    finite = clouds[-1][clouds[-1].isfinite().all(1)]
    reach = 1.1 * float(finite[:, :2].abs().max()) if len(finite) and finite.any() else 1.0
    for i, cloud in enumerate(clouds):
        axes = figure.add_subplot(1, len(clouds), i + 1, aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        axes.scatter(*cloud[:, :2].T.cpu().numpy(), s=2, alpha=0.5, linewidths=0)
        if labels:
            axes.set_title(labels[i], fontsize=10)
    figure.savefig(path, dpi=100)
    return path
