"""Progressive coding."""

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, Le, MinLen
from matplotlib.figure import Figure

from ddpm_lab.core.diffusion import diffuse
from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures.figure import Drawn, PaperFigure, Trained
from ddpm_lab.likelihood.bound import BoundMeter, RateDistortion
from ddpm_lab.pictures import draw_strip, tiled

Rates = Annotated[list[Annotated[float, Gt(0), Le(64)]], MinLen(1)]


@checked
@dataclass
class Coding(PaperFigure):
    """Distortion against rate, DDPM section 4.3 and Fig. 5; and x̂_0 of data at given rates."""

    n: PositiveInt = 64
    stride: PositiveInt = 10
    rows: PositiveInt = 4
    rates: Rates = field(default_factory=lambda: [0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5])

    def check(self, of: Trained) -> None:
        of.check_size("n", self.n)
        of.check_size("rows", self.rows)
        if self.stride > (T := of.diffusion.schedule.T) or self.n < 2 * self.stride:
            raise UserError(f"figure.stride={self.stride}: allowed is 1 to {min(T, self.n // 2)}, T = {T} and half of figure.n")

    def draw(self, of: Trained) -> Drawn:
        meter = BoundMeter(of.diffusion, of.diffusion.chain, self.stride, of.subject.seed, batch=of.subject.batch)
        for first in range(0, self.n, of.subject.batch):
            meter.add(of.net, of.x0(min(of.subject.batch, self.n - first), first), first)
        bound = meter.result()
        curve = bound.rate_distortion()
        times = [_last(curve, bound.times[::-1], rate) for rate in self.rates]
        columns = [*(f"{rate:g}\nt = {t}" for rate, t in zip(self.rates, times, strict=True)), "data"]
        canvas = tiled(_pictures(of, self.rows, times), len(columns))
        figure = _beside(_smooth(curve, self.stride), canvas, columns)
        caption = (
            "Progressive coding (as section 4.3 and Fig. 5 of Ho et al. 2020). Left: distortion, the RMSE of x̂_0 in grey "
            f"levels of 255, against rate, the bits/dim sent before x_t is known, on {self.n} held-out data, each at one in "
            f"{self.stride} of T = {of.diffusion.schedule.T} times; lossless at {bound.total_bpd:.2f} bits/dim. "
            f"Right: x̂_0 of {self.rows} data, one a row, at the rates above. Reverse variance {of.choice.names['variance']}, "
            f"x̂_0 {'clipped' if of.diffusion.clips_x0() else 'not clipped'}."
        )
        numbers = {"bound_bpd": bound.total_bpd, "n": self.n, "stride": self.stride}
        return Drawn(figure, caption, numbers, sampled=False)


def _beside(curve: RateDistortion, canvas: np.ndarray, columns: list[str]) -> Figure:
    """The curve, and the pictures at two inches of height."""
    width = 1.9 * canvas.shape[1] / canvas.shape[0]
    figure = Figure(figsize=(3.6 + width, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3.2, width))
    left.plot(curve.rate_bpd, curve.rmse, color="#0072b2")
    left.set(xlabel="rate, bits/dim", ylabel="distortion, RMSE of 255", xlim=(0, None), ylim=(0, None))
    draw_strip(right, canvas, columns)
    return figure


def _smooth(curve: RateDistortion, stride: int) -> RateDistortion:
    """Means over `stride` times, among which each datum is measured once; those below 2 · `stride` as they are."""
    parts = [values[: -2 * stride] for values in (curve.rate_bpd, curve.rmse.square())]
    whole = len(parts[0]) // stride * stride
    rate, square = (part[len(part) - whole :].reshape(-1, stride).mean(1) for part in parts)
    ends = (curve.rate_bpd[-2 * stride :], curve.rmse[-2 * stride :])
    return RateDistortion(torch.cat([rate, ends[0]]), torch.cat([square.sqrt(), ends[1]]))


def _last(curve: RateDistortion, times: tuple[int, ...], rate: float) -> int:
    """The last t, on the way from T, at which no more than `rate` was sent."""
    return times[max(0, int((curve.rate_bpd <= rate).sum()) - 1)]


@torch.no_grad()
def _pictures(of: Trained, n: int, times: list[int]) -> torch.Tensor:
    """x̂_0 at times, then x_0: n × (times + 1) rows of pictures, datum by datum."""
    x0, eps, chain = of.x0(n), of.noise(n)(0), of.diffusion.chain
    denoise = of.diffusion.denoiser(of.net, chain, of.diffusion.clips_x0())
    estimates = [denoise(diffuse(x0, eps, chain[t]), t).x0 for t in times]
    return torch.stack([*estimates, x0], 1).flatten(0, 1)
