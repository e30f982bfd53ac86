"""The variance of the reverse step p_θ(x_s | x_t), as log σ²."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ddpm_lab.core.path import Step
from ddpm_lab.core.types import Coefficient, Data
from ddpm_lab.domains import ClosedUnit, checked


class ReverseVariance(ABC):
    """`n_outputs` is 2 where the network must supply part of the variance."""

    n_outputs = 1
    fixed = False
    """Whether σ² is one number for each step, the same for every x_t and dimension."""

    @abstractmethod
    def log_var(self, raw: Data | None, step: Step) -> Tensor:
        """log σ². `raw` is the network's second half of channels, or None where n_outputs is 1."""


@runtime_checkable
class KnowsCovariance(Protocol):
    """A reverse variance that estimates E Cov(x_0 | x_t), which samplers with other noise than DDPM's can use too.

    `max_last_std` limits the noise of the last step that has any, in sampling alone.
    """

    max_last_std: float

    def x0_cov(self, step: Step) -> Coefficient: ...


class Beta(ReverseVariance):
    """σ² = β, DDPM section 3.2. In the chain's first step it is the second's β̃, as in Ho's code: that step only decodes."""

    fixed = True

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        return torch.where(step.s == 0, step.log_beta_tilde, step.log_beta)


class BetaTilde(ReverseVariance):
    """σ² = β̃, DDPM Eq. 7: the variance of q(x_s | x_t, x_0)."""

    fixed = True

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        return step.log_beta_tilde


class LearnedRange(ReverseVariance):
    """iDDPM Eq. 15: log σ² = f log β + (1 − f) log β̃ with f = (raw + 1)/2, which is free to leave [0, 1]."""

    n_outputs = 2

    def log_var(self, raw: Data | None, step: Step) -> Data:
        assert raw is not None, "n_outputs is 2: GaussianDiffusion.split gives raw"
        return between((raw + 1) / 2, step)


class LearnedDiagonal(ReverseVariance):
    """log σ² is the network's output, unbounded: the "learned diagonal Σ" of DDPM's Table 2. It starts at σ² = 1."""

    n_outputs = 2

    def log_var(self, raw: Data | None, step: Step) -> Data:
        assert raw is not None, "n_outputs is 2: GaussianDiffusion.split gives raw"
        return raw


@checked
class Interpolated(ReverseVariance):
    """log σ² at one fixed fraction of the way from log β̃ (0) to log β (1): iDDPM Eq. 15 with nothing learned."""

    fixed = True

    def __init__(self, fraction: ClosedUnit = 0.5) -> None:
        self.fraction = fraction

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        return between(self.fraction, step)


def between(fraction: Data | float, step: Step) -> Tensor:
    """iDDPM Eq. 15: log β̃ at fraction 0, log β at 1."""
    return fraction * step.log_beta + (1 - fraction) * step.log_beta_tilde
