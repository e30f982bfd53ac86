"""Samples on their way from noise to data: as a strip of pictures, as a GIF, as an MP4."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm_lab.errors import UserError, require
from ddpm_lab.files import replacing
from ddpm_lab.models.contract import Model
from ddpm_lab.pictures import save_progression, tiled

FRAME_MS = 120
LAST_MS = 1500
"""How long the data stand still at the end."""
Film = Literal["gif", "mp4"]


class Shown(NamedTuple):
    """Of the first `rows` samples, "xt", the states, or "x0", the estimates x̂_0 that they rest on, at `frames` times."""

    what: Literal["x0", "xt"]
    rows: int
    frames: int
    film: Sequence[Film]

    def check(self, model: Model) -> None:
        """Raises UserError for what cannot be shown."""
        if model.sample_steps < 2:
            raise UserError(f"show={self.what}: the samples of this run are made in one step; leave it out")
        if "mp4" in self.film:
            require("av", "video", "film=[mp4]: ")
            if len(model.shape) != 3:
                raise UserError("film=[mp4]: the samples of this run are vectors; leave film= out for a strip alone")


def write_trajectory(model: Model, seed: int, batch: int, shown: Shown, folder: Path) -> list[Path]:
    """trajectory.png, and of images trajectory.gif and trajectory.mp4 as asked for. x_t is cut to [−1, 1], as pictures are."""
    frames, labels = frames_of(model, seed, batch, shown)
    written = [save_progression(frames, labels, folder / "trajectory.png")]
    if len(model.shape) == 3:
        columns = min(shown.rows, 8)
        pictures = [tiled(x, columns) for x in frames]
        written += [FILMS[kind](pictures, folder / f"trajectory.{kind}") for kind in shown.film]
    return written


def frames_of(model: Model, seed: int, batch: int, shown: Shown) -> tuple[list[Tensor], list[str]]:
    """Pictures of the samples at evenly spaced steps, the first and the last included, with what each is called: x̂_0 by where
    it was estimated, a state by where it is, from which the next step goes on."""
    last, count = model.sample_steps - 1, min(shown.frames, model.sample_steps)
    wanted = [round(i * last / (count - 1)) for i in range(count)]
    parts: list[list[Tensor]] = [[] for _ in wanted]
    labels = ["data"] * (model.sample_steps + 1)
    for start in range(0, shown.rows, batch):
        for i, state in enumerate(model.sample_states(start, min(start + batch, shown.rows), seed)):
            labels[i] = state.label
            if i in wanted:
                parts[wanted.index(i)].append((state.x0 if shown.what == "x0" else state.x).cpu())
    later = shown.what == "xt"
    return [torch.cat(part) for part in parts], [labels[i + later] for i in wanted]


def _write_gif(pictures: Sequence[np.ndarray], path: Path) -> Path:
    first, *others = (Image.fromarray(picture.squeeze()) for picture in pictures)
    durations = [FRAME_MS] * len(others) + [LAST_MS]
    with replacing(path) as partial:
        first.save(partial, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return path


def _write_mp4(pictures: Sequence[np.ndarray], path: Path) -> Path:
    """H.264, 25 frames a second, with sides cut to the even numbers that it takes."""
    import av

    times = [FRAME_MS // 40] * (len(pictures) - 1) + [LAST_MS // 40]
    with replacing(path) as partial, av.open(str(partial), "w") as file:
        height, width = (side // 2 * 2 for side in pictures[0].shape[:2])
        stream = file.add_stream("libx264", rate=25, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"  # type: ignore[union-attr]
        for picture, repeats in zip(pictures, times, strict=True):
            rgb = np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3))[:height, :width])
            for _ in range(repeats):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))  # type: ignore[union-attr]
        file.mux(stream.encode())  # type: ignore[union-attr]
    return path


FILMS = {"gif": _write_gif, "mp4": _write_mp4}
