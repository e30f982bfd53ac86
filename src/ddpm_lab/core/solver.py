"""Deterministic samplers of higher order than DDIM's: solvers of the probability flow."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ddpm_lab.core.diffusion import Denoise, GaussianDiffusion, Network
from ddpm_lab.core.path import Chain
from ddpm_lab.core.sampler import Sampler, State
from ddpm_lab.core.types import Coefficient, Data, Incompatible
from ddpm_lab.core.variance import BetaTilde, ReverseVariance


class Solver(Sampler[State]):
    """A sampler that no reverse variance concerns. Its steps may call the network at any t of the schedule.

    `needs_signal`: ᾱ_T must not be 0, since the method divides by √ᾱ_t.
    """

    draws_noise = False
    needs_signal = True

    def check(self, diffusion: GaussianDiffusion) -> None:
        super().check(diffusion)
        if self.needs_signal and diffusion.schedule.reaches_zero:
            raise Incompatible(f"{type(self).__name__} divides by √ᾱ_t, and ᾱ_T = 0 at t = T", "sampler", "schedule")

    def uses(self, variance: ReverseVariance) -> bool:
        return False

    def denoiser(self, diffusion: GaussianDiffusion, net: Network, chain: Chain) -> Denoise:
        """On the full chain, as steps may call the network between their ends. A fixed variance stands for that of the model,
        which need not be known at such t."""
        full = replace(diffusion, variance=BetaTilde())
        return full.denoiser(net, full.chain, diffusion.clips_x0(self.clip))


def combined(weights: Sequence[Coefficient | float], values: Sequence[Data]) -> Data:
    """Σ_i weight_i value_i."""
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)
