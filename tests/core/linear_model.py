"""Data N(0, diag(λ)) and a linear denoiser: the bound, Γ and the best variance in closed form, from ᾱ alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.path import NoiseSchedule

from .support import make

F64 = torch.float64
SPECTRUM = torch.tensor([0.9, 0.3, 0.05, 0.004], dtype=F64)


@dataclass
class LinearModel:
    """`wrong` scales the exact E[x_0 | x_t]; λ is of the data."""

    schedule: NoiseSchedule
    wrong: float = 1.0
    spectrum: Tensor = SPECTRUM
    prediction: str = "eps"

    def diffusion(self, variance) -> GaussianDiffusion:
        variance = make("variance", variance) if isinstance(variance, str) else variance
        return GaussianDiffusion(self.schedule, make("prediction", self.prediction), variance, levels=None)

    def data(self, n: int, seed: int = 0) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        return torch.randn(n, len(self.spectrum), generator=g, dtype=F64) * self.spectrum.sqrt()

    def gain(self, t) -> Tensor:
        """x̂_0 = gain · x_t."""
        ab = self.schedule.alphas_bar[t]
        return self.wrong * ab.sqrt() * self.spectrum / (ab * self.spectrum + 1 - ab)

    def net(self, xt: Tensor, t: Tensor) -> Tensor:
        ab = self.schedule.alphas_bar[t][:, None]
        x0 = self.gain(t[:, None]) * xt
        if self.prediction == "x0":
            return x0
        eps = (xt - ab.sqrt() * x0) / (1 - ab).sqrt()
        return eps if self.prediction == "eps" else ab.sqrt() * eps - (1 - ab).sqrt() * x0

    def error(self, t: int) -> Tensor:
        """E (x̂_0 − x_0)² by dimension."""
        ab, gain = self.schedule.alphas_bar[t], self.gain(t)
        return (gain * ab.sqrt() - 1) ** 2 * self.spectrum + gain**2 * (1 - ab)

    def gamma(self, t: int) -> Tensor:
        """E ε̂² by dimension."""
        ab = self.schedule.alphas_bar[t]
        return ((1 - ab.sqrt() * self.gain(t)) ** 2 / (1 - ab)) * (ab * self.spectrum + 1 - ab)

    def conditional(self, t: int) -> Tensor:
        """Var(x_0 | x_t) by dimension."""
        ab = self.schedule.alphas_bar[t]
        return self.spectrum * (1 - ab) / (ab * self.spectrum + 1 - ab)

    def moments(self, s: int, t: int) -> tuple[float, float, float, float]:
        """β, β̃ and the shares of x_0 and x_t in the mean of q(x_s | x_t, x_0)."""
        ab_s, ab_t = (float(self.schedule.alphas_bar[u]) for u in (s, t))
        beta = 1 - ab_t / ab_s
        x0_share, xt_share = math.sqrt(ab_s) * beta / (1 - ab_t), math.sqrt(ab_t / ab_s) * (1 - ab_s) / (1 - ab_t)
        return beta, beta * (1 - ab_s) / (1 - ab_t), x0_share, xt_share

    def term_bpd(self, s: int, t: int, var: float) -> float:
        """E L of the step from t to s under the reverse variance `var`; the decoder's Gaussian density where s = 0."""
        _, beta_tilde, share, _ = self.moments(s, t)
        if s == 0:
            nats = 0.5 * (math.log(2 * math.pi * var) + self.error(t) / var)
        else:
            ratio = beta_tilde / var
            nats = 0.5 * (ratio - 1 - math.log(ratio) + share**2 * self.error(t) / var)
        return float(nats.mean()) / math.log(2)

    def prior_bpd(self, t: int) -> float:
        ab = float(self.schedule.alphas_bar[t])
        return 0.5 * (ab * float(self.spectrum.mean()) - ab - math.log1p(-ab)) / math.log(2)

    def variance_of(self, kind: str, times: tuple[int, ...]) -> list[float]:
        """σ² of each step; the first of the chain has the second's β̃."""
        pairs = list(zip((0, *times[:-1]), times, strict=True))
        found = [self.moments(s, t)[0 if kind == "beta" else 1] for s, t in pairs]
        return [self.moments(*pairs[1])[1], *found[1:]]

    def bound_bpd(self, times: tuple[int, ...], variances: list[float]) -> float:
        pairs = zip((0, *times[:-1]), times, strict=True)
        return self.prior_bpd(times[-1]) + sum(self.term_bpd(s, t, v) for (s, t), v in zip(pairs, variances, strict=True))
