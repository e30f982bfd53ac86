"""Codes of data, and what they decode to."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le

from ddpm_lab.core.inversion import decode, encode, last_code
from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures.figure import Drawn, PaperFigure, Trained
from ddpm_lab.likelihood.bound import GREY
from ddpm_lab.pictures import strip


def check_codes(at: float, t: int, of: Trained) -> None:
    """Raises UserError for a t to which data cannot be encoded."""
    last, T = last_code(of.diffusion.schedule), of.diffusion.schedule.T
    if t > last:
        raise UserError(f"figure.at={at:g}: t = {t}, where √ᾱ_t < 0.01; allowed is up to {int(1000 * last / T) / 1000:g}")


@checked
@dataclass
class Inversion(PaperFigure):
    """Held-out data, their codes by the probability flow, and the data that these decode to: DDIM section 5.4."""

    n: PositiveInt = 8
    at: Annotated[float, Gt(0), Le(1)] = 0.98

    def check(self, of: Trained) -> None:
        of.check_size("n", self.n)
        check_codes(self.at, of.times([self.at])[0], of)

    def draw(self, of: Trained) -> Drawn:
        (t,), x0 = of.times([self.at]), of.x0(self.n)
        chain = of.chain.up_to(t)
        code = encode(of.diffusion, of.net, x0, chain)
        decoded = decode(of.diffusion, of.net, code, chain)
        rmse = GREY * (decoded - x0).flatten(1).square().mean(1).sqrt()
        total = float(rmse.square().mean().sqrt())
        caption = (
            f"Inversion (section 5.4 of Song et al. 2021): {self.n} held-out data, their codes x_t at t = {t} of "
            f"{of.diffusion.schedule.T} by the probability flow in {len(chain)} steps ({of.sampler.spacing}), x̂_0 not clipped, "
            f"and what DDIM decodes them to. RMSE {total:.2f} grey levels of 255; of each datum above."
        )
        x, errors = torch.stack([x0, code, decoded]), [f"{e:.2f}" for e in rmse.tolist()]
        return Drawn(strip(x, errors, ["data", "code", "decoded"]), caption, {"rmse_of_255": total}, sampled=False)
