"""Interpolation between two data."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from ddpm_lab.core.diffusion import diffuse
from ddpm_lab.core.inversion import decode, encode, slerp
from ddpm_lab.domains import checked
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures.figure import Drawn, Fractions, PaperFigure, Trained
from ddpm_lab.evaluation.figures.inversion import check_codes
from ddpm_lab.pictures import strip

HOW = {
    "q": "both noised to x_t by one ε, mixed linearly, and sampled from there by one noise (as Fig. 8 and 9 of Ho et al. 2020)",
    "ddim": "their codes at t by the probability flow, mixed on the arc between them and decoded by DDIM (section 5.3 of "
    "Song et al. 2021), x̂_0 not clipped, in the part below t of {steps} steps of all T ({spacing})",
}


@checked
@dataclass
class Interpolation(PaperFigure):
    """Between two held-out data at several t: DDPM Fig. 8 and 9, or DDIM section 5.3."""

    method: Literal["q", "ddim"] = "q"
    pair: tuple[Annotated[int, Ge(0)], Annotated[int, Ge(0)]] = (0, 1)
    points: Annotated[int, Ge(2)] = 9
    at: Fractions = field(default_factory=lambda: [0.125, 0.25, 0.5, 0.75, 0.9])

    def check(self, of: Trained) -> None:
        if max(self.pair) >= (size := of.subject.size("val")):
            raise UserError(f"figure.pair={list(self.pair)}: there are {size} held-out data, 0 to {size - 1}")
        for fraction, t in zip(self.at, of.times(self.at), strict=True):
            if self.method == "ddim":
                check_codes(fraction, t, of)

    def draw(self, of: Trained) -> Drawn:
        a, b = (of.x0(1, i) for i in self.pair)
        times, between = of.times(self.at), {"q": _by_q, "ddim": _by_codes}[self.method]
        fractions = torch.linspace(0, 1, self.points)
        rows = [torch.cat([a, between(of, a, b, fractions, t), b]) for t in times]
        how = HOW[self.method].format(steps=len(of.chain), spacing=of.sampler.spacing)
        caption = (
            f"Interpolation between held-out data {self.pair[0]} (left) and {self.pair[1]} (right) at t = "
            f"{', '.join(map(str, times))} of {of.diffusion.schedule.T}, one a row: {how}. Share λ of the second "
            "above."
        )
        columns = ["data", *(f"λ = {fraction:.3g}" for fraction in fractions.tolist()), "data"]
        return Drawn(strip(torch.stack(rows), columns, [f"t = {t}" for t in times]), caption, sampled=self.method == "q")


def _by_q(of: Trained, a: Tensor, b: Tensor, fractions: Tensor, t: int) -> Tensor:
    """The same as mixing x_0 and noising: x_t is linear in x_0 for one ε."""
    share = fractions.to(a).reshape(-1, *[1] * (a.ndim - 1))
    noise = of.noise(1, copies=len(fractions))
    step = of.diffusion.chain[t]
    ends = [diffuse(x, of.noise(1)(0), step) for x in (a, b)]
    return of.samples((1 - share) * ends[0] + share * ends[1], t, noise)


def _by_codes(of: Trained, a: Tensor, b: Tensor, fractions: Tensor, t: int) -> Tensor:
    chain = of.chain.up_to(t)
    codes = encode(of.diffusion, of.net, torch.cat([a, b]), chain)
    first, second = (code.expand(len(fractions), *of.model.shape) for code in codes)
    return decode(of.diffusion, of.net, slerp(first, second, fractions), chain)
