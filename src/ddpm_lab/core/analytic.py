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

from ddpm_lab.core.path import Step
from ddpm_lab.core.transfer import to_device
from ddpm_lab.core.types import Coefficient, Data
from ddpm_lab.core.variance import ReverseVariance
from ddpm_lab.domains import PositiveFloat, checked


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
class Analytic(ReverseVariance):
    """σ² = β̃ + c² Cov(x_0 | x_t), c the share of x_0 in the mean of q(x_s | x_t, x_0): Bao et al. 2022, Theorem 1 and Eq. 9
    with λ² = β̃, for any s < t. `gamma` must have every t of the chain.

    β̃ is the true one, 0 in a chain's first step; where nothing is left of σ², its log is that of the β̃ which `Step` carries.
    `clip_cov` limits the covariance to [0, 1], which data in [−1, 1] cannot leave. `max_last_noise`, the paper's y, limits the
    noise of the last step that has any, when sampling: σ ≤ y · 2/255 · √(π/2), so that its mean size is y grey levels of 256,
    whatever the levels of the data.
    """

    fixed = True

    def __init__(self, gamma: Gamma, clip_cov: bool = True, max_last_noise: PositiveFloat | None = None) -> None:
        self.gamma, self.clip_cov, self.max_last_noise = gamma, clip_cov, max_last_noise
        self.max_last_std = math.inf if max_last_noise is None else max_last_noise * 2 / 255 * math.sqrt(math.pi / 2)
        low, high = gamma.cov < 0, gamma.cov > 1
        self.clipped = Clipped(int(low.sum()), int(high.sum())) if clip_cov else Clipped(0, 0)
        self._table = torch.full((2, max(gamma.times) + 1), math.nan, dtype=torch.float64)
        cov = gamma.cov.clamp(0, 1) if clip_cov else gamma.cov
        self._table[:, torch.tensor(gamma.times)] = torch.stack([cov, gamma.alphas_bar])

    def x0_cov(self, step: Step) -> Coefficient:
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

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        """Bao et al. 2022 Eq. 9, with λ² = β̃."""
        var = step.beta_tilde + step.posterior.x0_coef**2 * self.x0_cov(step)
        return torch.where(var > 0, var.log(), step.log_beta_tilde)
