"""Samples that share a latent."""

from dataclasses import dataclass, field

import torch

from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.evaluation.figures.figure import Drawn, Fractions, PaperFigure, Trained
from ddpm_lab.pictures import strip


@checked
@dataclass
class Shared(PaperFigure):
    """Several x_0 ~ p_θ(x_0 | x_t) of one x_t, at several t: DDPM Fig. 7."""

    n: PositiveInt = 8
    at: Fractions = field(default_factory=lambda: [1.0, 0.75, 0.5, 0.25])

    def check(self, of: Trained) -> None:
        of.check_noise()

    def draw(self, of: Trained) -> Drawn:
        noise, times = of.noise(1), of.chain.times
        latents = {times[-1]: noise(0)}
        latents |= {state.t: state.x for state in of.sampler(of.diffusion, of.net, noise(0), noise)}
        chosen = [min(times, key=lambda known: abs(known - t)) for t in of.times(self.at)]
        rows = []
        for row, t in enumerate(chosen):
            xt = latents[t].expand(self.n, *of.model.shape)
            rows.append(torch.cat([latents[t], of.samples(xt, t, of.noise(self.n, 1 + row * self.n))]))
        caption = (
            f"Samples that share x_t (as Fig. 7 of Ho et al. 2020): left x_t, on the way to one sample, then {self.n} "
            f"samples of p_θ(x_0 | x_t) by different noise; t = {', '.join(map(str, chosen))} of {of.diffusion.schedule.T}."
        )
        columns = ["x_t", *(str(i + 1) for i in range(self.n))]
        return Drawn(strip(torch.stack(rows), columns, [f"t = {t}" for t in chosen]), caption)
