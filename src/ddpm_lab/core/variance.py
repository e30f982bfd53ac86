"""The variance of the reverse step p_θ(x_s | x_t), as log σ². `n_outputs` is 2 where the network must supply part of it."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ddpm_lab.core.schedule import Step
from ddpm_lab.core.types import Coefficient, Data


@runtime_checkable
class ReverseVariance(Protocol):
    """`raw` is the network's second half of channels, or None where n_outputs is 1."""

    n_outputs: int

    def log_var(self, raw: Data | None, step: Step) -> Tensor: ...


class Beta:
    """σ² = β, DDPM section 3.2. In the chain's first step it is the second's β̃, as in Ho's code: that step only decodes."""

    n_outputs = 1

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        return torch.where(step.s == 0, step.log_beta_tilde, step.log_beta)


class BetaTilde:
    """σ² = β̃, DDPM Eq. 7: the variance of q(x_s | x_t, x_0)."""

    n_outputs = 1

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        return step.log_beta_tilde


class LearnedRange:
    """iDDPM Eq. 15: log σ² = f log β + (1 − f) log β̃ with f = (raw + 1)/2, which is free to leave [0, 1]."""

    n_outputs = 2

    def log_var(self, raw: Data | None, step: Step) -> Data:
        assert raw is not None, "n_outputs is 2: GaussianDiffusion.split gives raw"
        fraction = (raw + 1) / 2
        return fraction * step.log_beta + (1 - fraction) * step.log_beta_tilde
