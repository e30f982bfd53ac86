"""The sampler of EDM (Karras et al. 2022): Heun's method for the probability flow in σ = √(1−ᾱ_t)/√ᾱ_t.

The flow of x̃ = x_t/√ᾱ_t is dx̃/dσ = ε̂ (EDM Eq. 3 with this x̃ and σ). Euler's step is DDIM's.
"""

import math

import torch

from ddpm_lab.core.diffusion import Denoise, implied_eps
from ddpm_lab.core.path import Chain, Marginal, Step, marginal
from ddpm_lab.core.sampler import Settings, Spacing, State
from ddpm_lab.core.solver import Solver
from ddpm_lab.core.spacing import nearest_times
from ddpm_lab.core.types import Clip, Data
from ddpm_lab.domains import NonNegativeFloat, PositiveFloat, PositiveInt, checked


def euler(slope: Data, x: Data, start: Marginal, end: Marginal) -> Data:
    """x at `end` from x at `start`, where dx̃/dσ is `slope`."""
    return end.signal_scale * (x / start.signal_scale + (end.sigma - start.sigma) * slope)


def heun(denoise: Denoise, x: Data, t: int, at_t: Marginal, step: Step) -> tuple[Data, Data]:
    """(x_s, x̂_0 at t) from x at t, which need not be the t of `step`: EDM Algorithm 1. The mean of the slopes at t and s; where
    s = 0, at which there is no network, the slope at t alone."""
    x0 = denoise(x, t).x0
    slope = implied_eps(x0, x, at_t)
    xs = euler(slope, x, at_t, step.at_s)
    if step.s > 0:
        slope_s = implied_eps(denoise(xs, int(step.s)).x0, xs, step.at_s)
        xs = euler((slope + slope_s) / 2, x, at_t, step.at_s)
    return xs, x0


class TwoCalls(Solver[State]):
    """Two network calls a step, one in the last."""

    def calls(self, chain: Chain) -> int:
        return 2 * len(chain) - 1


@checked
class Heun(TwoCalls[None]):
    """EDM Algorithm 1 (Karras et al. 2022): second order, two network calls a step, one in the last, which is DDIM's."""

    def __init__(self, steps: PositiveInt | None = 18, spacing: Spacing = "karras", clip: Clip | None = None) -> None:
        super().__init__(steps, spacing, clip)

    def start(self, chain: Chain) -> None:
        return None

    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: None) -> tuple[Data, Data, None]:
        return *heun(denoise, xt, int(step.t), step.at_t, step), None


@checked
class EDMChurn(TwoCalls[Chain]):
    """EDM Algorithm 2 (Karras et al. 2022): before each step of Heun's method noise of scale `noise_scale` raises σ to σ̂ =
    (1 + γ)σ, γ = min(churn/N, √2 − 1) where churn_min ≤ σ ≤ churn_max (None: no limit), else 0. N is the number of steps.

    The time of σ̂ is rounded to the table, as EDM does for networks of discrete times, and the σ̂ of that time is used: the mean
    and variance of a step are exact. Where the nearest is t itself, as at t = T, no noise is added.
    """

    draws_noise = True

    def __init__(
        self,
        steps: PositiveInt | None = 50,
        churn: NonNegativeFloat = 40.0,
        churn_min: NonNegativeFloat = 0.05,
        churn_max: PositiveFloat | None = 50.0,
        noise_scale: PositiveFloat = 1.003,
        spacing: Spacing = "karras",
        clip: Clip | None = None,
    ) -> None:
        super().__init__(steps, spacing, clip)
        self.churn, self.churn_min, self.churn_max, self.noise_scale = churn, churn_min, churn_max, noise_scale

    @property
    def settings(self) -> Settings:
        return {name: getattr(self, name) for name in ("churn", "churn_min", "churn_max", "noise_scale")}

    def start(self, chain: Chain) -> Chain:
        """The whole chain: N is that of a sample from x_T, wherever this one starts."""
        return self.chain(chain.schedule)

    def adds_noise(self, step: Step) -> bool:
        above = self.churn_max is not None and bool(step.at_t.sigma > self.churn_max)
        return self.churn > 0 and bool(step.at_t.sigma >= self.churn_min) and not above

    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: Chain) -> tuple[Data, Data, Chain]:
        if z is None:
            return *heun(denoise, xt, int(step.t), step.at_t, step), state
        t = self.raised(step, state)
        at, sigma = marginal(state.schedule.alphas_bar[t]), step.at_t.sigma
        added = self.noise_scale * (at.sigma**2 - sigma**2).sqrt() * z
        x = at.signal_scale * (xt / step.at_t.signal_scale + added)
        return *heun(denoise, x, t, at, step), state

    def raised(self, step: Step, chain: Chain) -> int:
        """The time of σ̂."""
        gamma = min(self.churn / len(chain), math.sqrt(2) - 1)
        return int(nearest_times(chain.schedule, torch.log((1 + gamma) * step.at_t.sigma)))
