"""The variance of the reverse step p_θ(x_s | x_t)."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lab.core.covariance import Covariance, DataCovariance, Diagonal
from ddpm_lab.core.path import Step
from ddpm_lab.core.types import Coefficient, Data, Settings
from ddpm_lab.domains import ClosedUnit, checked


class Seen(NamedTuple):
    """What a reverse variance may look at: x_t, and what the network makes of it."""

    xt: Data
    step: Step
    x0: Data
    """x̂_0, never clipped."""
    raw: Data | None
    """The second half of the network's channels, where it has one."""
    pullback: Callable[[Data], Data] | None = None
    """v ↦ (∂x̂_0/∂x_t)ᵀ v of each example; None unless the variance `differentiates`."""
    pushforward: Callable[[Data], Data] | None = None
    """v ↦ ∂x̂_0/∂x_t v of each example; None unless there are `probes`."""
    probes: Tensor | None = None
    """P × B × … vectors of ±1 for divergences, of each example its own, P by `probes_for`. None when sampling."""


class ReverseVariance(ABC):
    """`n_outputs` is 2 where the network must supply part of the variance.
    `fixed`: Σ is σ² I, and σ² one number for each step, for which it looks at `Seen.step` alone.
    `differentiates`: whether the network is differentiated by x_t, as `Seen.pullback` does.
    `needs_signal`: it is not defined where ᾱ_t = 0.
    `of_unit_steps`: it is learned of the step from t to t − 1, and known of no longer one.
    """

    n_outputs = 1
    fixed = False
    differentiates = False
    needs_signal = False
    of_unit_steps = False

    @abstractmethod
    def covariance(self, seen: Seen) -> Covariance:
        """Σ of p_θ(x_s | x_t)."""

    @property
    def settings(self) -> Settings:
        """What distinguishes it from others of its class, for records."""
        return {}

    def check(self, size: int, levels: int | None) -> None:  # noqa: B027
        """Raises ValueError for data of so many dimensions, or without grey levels (None), that it cannot be computed, or that
        some of its settings would be ignored."""

    def probes_for(self, size: int) -> int:
        """Vectors per example that divergences of data with `size` dimensions need; 0 where they are exact."""
        return 0

    def products(self, size: int) -> int:
        """Products of a vector with the network's Jacobian, in each noisy step of a sampler of data with `size` dimensions."""
        return 0


class OfStep(ReverseVariance):
    """A variance of the step, and of the network's second output where it has one."""

    @abstractmethod
    def log_var(self, raw: Data | None, step: Step) -> Tensor:
        """log σ². `raw` is the network's second half of channels, or None where n_outputs is 1."""

    def covariance(self, seen: Seen) -> Covariance:
        return Diagonal(self.log_var(seen.raw, seen.step))


class OfData(ReverseVariance):
    """A reverse variance that rests on Cov(x_0 | x_t), which samplers with other noise than DDPM's can use too: Bao et al. 2022
    (Analytic-DPM), Theorem 1."""

    @abstractmethod
    def data_covariance(self, seen: Seen) -> DataCovariance:
        """What it knows of Cov(x_0 | x_t)."""

    def covariance(self, seen: Seen) -> Covariance:
        """β̃ I + c² Cov(x_0 | x_t), c the share of x_0 in the mean of q(x_s | x_t, x_0): Bao et al. 2022, Theorem 1 with λ² = β̃,
        for any s < t. β̃ is the true one, 0 in a chain's first step; where nothing is left, the log is that of `Step`."""
        step = seen.step
        return self.data_covariance(seen).scaled(step.posterior.x0_coef, step.beta_tilde, step.log_beta_tilde)


class Beta(OfStep):
    """σ² = β, DDPM section 3.2. In the chain's first step it is the second's β̃, as in Ho's code: that step only decodes."""

    fixed = True

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        return torch.where(step.s == 0, step.log_beta_tilde, step.log_beta)


class BetaTilde(OfStep):
    """σ² = β̃, DDPM Eq. 7: the variance of q(x_s | x_t, x_0)."""

    fixed = True

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        return step.log_beta_tilde


class LearnedRange(OfStep):
    """iDDPM Eq. 15: log σ² = f log β + (1 − f) log β̃ with f = (raw + 1)/2, which is free to leave [0, 1]."""

    n_outputs = 2

    def log_var(self, raw: Data | None, step: Step) -> Data:
        assert raw is not None, "n_outputs is 2: GaussianDiffusion.split gives raw"
        return between((raw + 1) / 2, step)


class LearnedDiagonal(OfStep):
    """log σ² is the network's output, unbounded: the "learned diagonal Σ" of DDPM's Table 2. It starts at σ² = 1."""

    n_outputs = 2
    of_unit_steps = True

    def log_var(self, raw: Data | None, step: Step) -> Data:
        assert raw is not None, "n_outputs is 2: GaussianDiffusion.split gives raw"
        return raw


@checked
class Interpolated(OfStep):
    """log σ² at one fixed fraction of the way from log β̃ (0) to log β (1): iDDPM Eq. 15 with nothing learned."""

    fixed = True

    def __init__(self, fraction: ClosedUnit = 0.5) -> None:
        self.fraction = fraction

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        return between(self.fraction, step)


def between(fraction: Data | float, step: Step) -> Tensor:
    """iDDPM Eq. 15: log β̃ at fraction 0, log β at 1."""
    return fraction * step.log_beta + (1 - fraction) * step.log_beta_tilde
