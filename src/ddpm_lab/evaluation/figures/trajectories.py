"""Several ways back from one x_t."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from matplotlib.figure import Figure
from torch import Tensor

from ddpm_lab.core.diffusion import diffuse
from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.evaluation.figures.figure import Drawn, PaperFigure, Trained
from ddpm_lab.pictures import strip


@checked
@dataclass
class Trajectories(PaperFigure):
    """Reverse trajectories from one x_t ~ q(x_t | x_0) by different noise."""

    of_vectors = True

    n: PositiveInt = 5
    at: Annotated[float, Gt(0), Le(1)] = 0.5
    frames: Annotated[int, Ge(2)] = 8
    datum: Annotated[int, Ge(0)] = 0

    def check(self, of: Trained) -> None:
        of.check_size("datum", self.datum + 1)
        of.check_noise()

    def draw(self, of: Trained) -> Drawn:
        (t,), x0 = of.times([self.at]), of.x0(1, self.datum)
        xt = diffuse(x0, of.noise(1)(0), of.diffusion.chain[t])
        start = xt.expand(self.n, *of.model.shape)
        states = [(t, start)]
        states += [(s.t, s.x) for s in of.sampler(of.diffusion, of.net, start, of.noise(self.n, 1), start=t)]
        caption = (
            f"{self.n} reverse trajectories by different noise from one x_t, t = {t} of {of.diffusion.schedule.T}, drawn from "
            f"q(x_t | x_0) of held-out datum {self.datum}"
        )
        if len(of.model.shape) == 1:
            return Drawn(_in_plane(x0[0], torch.stack([x for _, x in states], 1)), f"{caption}: the first two dimensions.")
        places = sorted({round(i * (len(states) - 1) / (self.frames - 1)) for i in range(self.frames)})
        x = torch.stack([x0.expand_as(start), *(states[i][1] for i in places)], 1)
        labels = ["x_0", *(f"t = {states[i][0]}" if states[i][0] else "sample" for i in places)]
        return Drawn(strip(x, labels), f"{caption} (left): x_s on the way, one trajectory a row.")


def _in_plane(x0: Tensor, paths: Tensor) -> Figure:
    """paths: n × times × dimensions."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot(aspect="equal", xlabel="dimension 1", ylabel="dimension 2")
    for path in paths.cpu().numpy():
        axes.plot(path[:, 0], path[:, 1], linewidth=0.8)
        axes.plot(*path[-1, :2], "o", color=axes.lines[-1].get_color(), markersize=4)
    axes.plot(*x0[:2].cpu().numpy(), "k*", markersize=9, label="x_0")
    axes.plot(*paths[0, 0, :2].cpu().numpy(), "ks", markersize=5, label="x_t")
    axes.legend(frameon=False)
    return figure
