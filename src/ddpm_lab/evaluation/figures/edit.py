"""Image-to-image."""

from dataclasses import dataclass, field

import torch

from ddpm_lab.core.editing import edit
from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.evaluation.figures.figure import Drawn, Fractions, PaperFigure, Trained
from ddpm_lab.pictures import strip


@checked
@dataclass
class Edit(PaperFigure):
    """Held-out data, noised to several t and sampled from there: SDEdit (Meng et al. 2022)."""

    n: PositiveInt = 6
    at: Fractions = field(default_factory=lambda: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0])

    def check(self, of: Trained) -> None:
        of.check_size("n", self.n)

    def draw(self, of: Trained) -> Drawn:
        x0, times = of.x0(self.n), of.times(self.at)
        edited = [edit(of.sampler, of.diffusion, of.net, x0, t, of.noise(self.n)) for t in times]
        caption = (
            f"Image-to-image (SDEdit, Meng et al. 2022): {self.n} held-out data, one a row (left), noised to x_t and sampled "
            f"from there; t of {of.diffusion.schedule.T} above. Each row has one noise."
        )
        return Drawn(strip(torch.stack([x0, *edited], 1), ["data", *(f"t = {t}" for t in times)]), caption)
