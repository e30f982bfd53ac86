"""Inpainting."""

import os
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import MinLen
from PIL import Image
from torch import Tensor

from ddpm_lab.core.editing import inpaint
from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures.figure import Drawn, PaperFigure, Trained
from ddpm_lab.pictures import strip

REGIONS = ("left", "top", "center")


@checked
@dataclass
class Inpainting(PaperFigure):
    """Held-out data with a part that is filled in several times: RePaint (Lugmayr et al. 2022)."""

    mask: Annotated[str, MinLen(1)] = "left"
    n: PositiveInt = 6
    copies: PositiveInt = 5
    jump: PositiveInt = 10
    resamplings: PositiveInt = 5

    def check(self, of: Trained) -> None:
        of.check_size("n", self.n)
        known_of(self.mask, *of.model.shape[1:])
        if self.resamplings > 1 and self.jump >= (steps := len(of.chain)):
            raise UserError(
                f"figure.jump={self.jump}: the sampler takes {steps} steps: allowed is 1 to {steps - 1}, or "
                "figure.resamplings=1"
            )

    def draw(self, of: Trained) -> Drawn:
        x0, known = of.x0(self.n), known_of(self.mask, *of.model.shape[1:]).to(of.subject.device)
        repeated, noise = x0.repeat_interleave(self.copies, 0), of.noise(self.n * self.copies)
        filled = inpaint(of.sampler, of.diffusion, of.net, repeated, known, noise, self.jump, self.resamplings)
        x = torch.cat([torch.stack([x0, torch.where(known, x0, 0)], 1), filled.unflatten(0, (self.n, self.copies))], 1)
        caption = (
            f"Inpainting (RePaint, Lugmayr et al. 2022): {self.n} held-out data, one a row, with {(~known).float().mean():.0%} "
            f"of the pixels (mask {self.mask}, grey in the second column) filled in {self.copies} times; {self.resamplings} "
            f"resamplings in jumps of {self.jump} steps."
        )
        return Drawn(strip(x, ["data", "given", *(str(i + 1) for i in range(self.copies))]), caption)


def known_of(mask: str, height: int, width: int) -> Tensor:
    """H × W, false where pixels are to be filled in. Raises UserError for a file that is no mask of this size."""
    known = torch.ones(height, width, dtype=torch.bool)
    if mask in REGIONS:
        rows = {"left": slice(None), "top": slice(height // 2), "center": slice(height // 4, height - height // 4)}[mask]
        columns = {"left": slice(width // 2), "top": slice(None), "center": slice(width // 4, width - width // 4)}[mask]
        known[rows, columns] = False
        return known
    values = _read(mask)
    if values.shape != (height, width):
        size = "×".join(map(str, values.shape))
        raise UserError(f"figure.mask={mask}: its size is {size}; allowed is {height}×{width}, the size of the data")
    known = torch.as_tensor(values > (values.max() / 2 if values.dtype != bool else 0))
    if known.all() or not known.any():
        raise UserError(
            f"figure.mask={mask}: all its pixels are alike; allowed are black ones, to be filled in, and white ones"
        )
    return known


def _read(mask: str) -> np.ndarray:
    path = os.path.expanduser(mask)
    if not os.path.isfile(path):
        raise UserError(f"figure.mask={mask}: allowed is {', '.join(REGIONS)}, or a PNG or .npy file that exists")
    try:
        values = np.load(path) if path.endswith(".npy") else np.asarray(Image.open(path).convert("L"))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"figure.mask={mask}: not readable as a picture or .npy of numbers") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "buif" or not np.isfinite(values).all():
        raise UserError(f"figure.mask={mask}: allowed is a picture, or an .npy of real numbers")
    return values
