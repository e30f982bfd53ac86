"""Progressive generation."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge

from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures.figure import Drawn, PaperFigure, Trained
from ddpm_lab.evaluation.trajectory import Shown, frames_of
from ddpm_lab.pictures import strip


@checked
@dataclass
class Progressive(PaperFigure):
    """x̂_0 of samples on their way from noise to data: DDPM Fig. 6."""

    of_classes = True

    n: PositiveInt = 8
    frames: Annotated[int, Ge(2)] = 10

    def check(self, of: Trained) -> None:
        if of.model.sample_steps < 2:
            raise UserError(f"sampler.steps={of.model.sample_steps}: a sample has no way to show; allowed are 2 and more")

    def draw(self, of: Trained) -> Drawn:
        frames, labels = frames_of(of.model, of.subject.seed, of.subject.batch, Shown("x0", self.n, self.frames, ()))
        caption = (
            f"Progressive generation (as Fig. 6 of Ho et al. 2020): the estimate x̂_0 of {self.n} samples, one a row, "
            f"at {len(frames)} times from x_T (left) to the sample (right)."
        )
        return Drawn(strip(torch.stack(frames, 1), labels), caption)
