"""The analytic reverse variance, Bao et al. 2022 ("Analytic-DPM"): the best σ² that one number per time can give.

It rests on Γ_t = E‖ε̂(x_t, t)‖²/d, whose ε̂ stands for −√(1−ᾱ_t) ∇ log q(x_t). It is the optimum as far as the network is
E[x_0 | x_t]; the paper measures it with the average of the weights, on training data, for each schedule and checkpoint.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core.covariance import DataCovariance, DiagonalOfData
from ddpm_lab.core.path import Step
from ddpm_lab.core.transfer import to_device
from ddpm_lab.core.types import Coefficient, Settings
from ddpm_lab.core.variance import OfData, Seen
from ddpm_lab.domains import checked


@dataclass(frozen=True)
class Gamma:
    """Γ at some times, and the mean variance of x_0 given x_t that follows; errors are over n data."""

    times: tuple[int, ...]
    alphas_bar: Float64[Tensor, " N"]
    mean: Float64[Tensor, " N"]
    """Γ_t = E‖ε̂‖²/d."""
    se: Float64[Tensor, " N"]
    cov: Float64[Tensor, " N"]
    """E tr Cov(x_0 | x_t)/d as estimated, not clipped: it may lie outside [0, 1]."""
    cov_se: Float64[Tensor, " N"]
    n: int


class Clipped(NamedTuple):
    """At how many times the covariance was cut, at 0 and at 1."""

    low: int
    high: int


@checked
class Analytic(OfData):
    """σ² = β̃ + c² E tr Cov(x_0 | x_t)/d: Bao et al. 2022, Eq. 9 with λ² = β̃. `gamma` must have every t of the chain.
    `clip_cov` limits the covariance to [0, 1], which data in [−1, 1] cannot leave."""

    fixed = True

    def __init__(self, gamma: Gamma, clip_cov: bool = True) -> None:
        self.gamma, self.clip_cov = gamma, clip_cov
        low, high = gamma.cov < 0, gamma.cov > 1
        self.clipped = Clipped(int(low.sum()), int(high.sum())) if clip_cov else Clipped(0, 0)
        self._table = torch.full((2, max(gamma.times) + 1), math.nan, dtype=torch.float64)
        cov = gamma.cov.clamp(0, 1) if clip_cov else gamma.cov
        self._table[:, torch.tensor(gamma.times)] = torch.stack([cov, gamma.alphas_bar])

    @property
    def settings(self) -> Settings:
        """From how many data and times Γ was estimated, and at how many times Cov(x_0 | x_t) was cut at 0 and 1."""
        return {
            "gamma_n": self.gamma.n,
            "gamma_times": len(self.gamma.times),
            "clip_cov": self.clip_cov,
            "cov_clipped_at_0": self.clipped.low,
            "cov_clipped_at_1": self.clipped.high,
        }

    def data_covariance(self, seen: Seen) -> DataCovariance:
        return DiagonalOfData(self.mean_var(seen.step))

    def mean_var(self, step: Step) -> Coefficient:
        """E tr Cov(x_0 | x_t)/d. Raises ValueError for a t that Γ was not measured at, or a schedule it was not measured on; of
        steps on another device than the CPU it is nan there, since the host would wait for the device to know."""
        t, table = step.t.long(), to_device(self._table, step.t.device)
        cov, alphas_bar = table[:, t.clamp(max=table.shape[1] - 1)]
        measured = (t < table.shape[1]) & ~cov.isnan()
        known = torch.isclose(alphas_bar, step.at_t.signal_scale.double() ** 2, rtol=1e-4, atol=1e-8)
        if t.device.type != "cpu":
            return torch.where(measured & known, cov, math.nan).to(step.t)
        if not measured.all():
            raise ValueError(f"Γ was not measured at t = {sorted(set(t[~measured].tolist()))}.")
        if not known.all():
            raise ValueError("Γ was measured on another schedule.")
        return cov.to(step.t)
