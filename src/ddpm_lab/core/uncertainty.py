"""Weights of the noise levels that are learned with the network, by how uncertain its output is there."""

import math

import torch
from torch import nn

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.loss import Loss, Simple, Weighted
from ddpm_lab.core.path import Marginal
from ddpm_lab.core.timesteps import Timesteps
from ddpm_lab.core.types import Incompatible, PerExample
from ddpm_lab.domains import PositiveInt, checked


def uncertain(parts: dict[str, PerExample], u: PerExample) -> dict[str, PerExample]:
    """EDM2 (Karras et al. 2024), after Kendall et al. 2018: L e^{−u} + u, for L the sum of the parts. The mean of that is least
    where e^u is the mean of L."""
    return {name: part * torch.exp(-u) for name, part in parts.items()} | {"uncertainty": u}


@checked
class Uncertainty(nn.Module):
    """u(σ) of EDM2 (Karras et al. 2024): `features` sinusoids of c_noise = ¼ ln σ, and one linear layer, which starts at 0.

    Samples and bounds have no use for it. The frequencies are the quantiles of those that EDM2 draws from N(0, (2π)²).
    """

    def __init__(self, features: PositiveInt = 64) -> None:
        super().__init__()
        middles = (torch.arange(features, dtype=torch.float64) + 0.5) / features
        frequencies = 2 * math.pi * torch.special.ndtri(0.5 + middles / 2)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)
        self.weight, self.bias = nn.Parameter(torch.zeros(2 * features)), nn.Parameter(torch.zeros(()))

    def check(self, diffusion: GaussianDiffusion, loss: Loss, timesteps: Timesteps) -> None:
        """Raises Incompatible for a loss that is no squared error, for times drawn by losses, and where σ is infinite."""
        if not isinstance(loss, Simple | Weighted):
            raise Incompatible(
                f"learned weights of noise levels are for squared errors, and {type(loss).__name__} has terms beside them",
                "uncertainty",
                "loss",
            )
        if timesteps.learns:
            raise Incompatible(
                f"{type(timesteps).__name__} draws t by the size of its losses, which L e^(−u) + u is not",
                "uncertainty",
                "timesteps",
            )
        if diffusion.schedule.reaches_zero:
            raise Incompatible("u is a function of ln σ, which is infinite where ᾱ_T = 0", "uncertainty", "schedule")

    def forward(self, at_t: Marginal) -> PerExample:
        """u of each row."""
        c_noise = (at_t.noise_scale.log() - at_t.signal_scale.log()).flatten() / 4
        phases = c_noise[:, None] * self.get_buffer("frequencies")
        return torch.cat([phases.sin(), phases.cos()], 1) @ self.weight + self.bias
