"""The forward process."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge

from ddpm_lab.core.diffusion import diffuse
from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.evaluation.figures.figure import Drawn, PaperFigure, Trained
from ddpm_lab.pictures import strip


@checked
@dataclass
class Forward(PaperFigure):
    """x_t ~ q(x_t | x_0) of held-out data: DDPM Eq. 4 at evenly spaced t, each datum with one noise."""

    of_classes = True

    n: PositiveInt = 4
    frames: Annotated[int, Ge(2)] = 11

    def check(self, of: Trained) -> None:
        of.check_size("n", self.n)

    def draw(self, of: Trained) -> Drawn:
        T, x0, eps = of.diffusion.schedule.T, of.x0(self.n), of.noise(self.n)(0)
        times = sorted({round(i * T / (self.frames - 1)) for i in range(self.frames)})
        x = [x0 if t == 0 else diffuse(x0, eps, of.diffusion.chain[t]) for t in times]
        caption = (
            f"The forward process: x_t ~ q(x_t | x_0) of {self.n} held-out data, one a row, each with one noise ε at all t "
            f"(Eq. 4 of Ho et al. 2020); t of {T} above. Values are cut to [−1, 1] where they are shown."
        )
        return Drawn(strip(torch.stack(x, 1), [f"t = {t}" if t else "data" for t in times]), caption, sampled=False)
