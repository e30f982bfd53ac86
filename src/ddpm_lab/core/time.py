"""Discrete or continuous time: which t training draws, and how x_t comes about."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ddpm_lab.core.diffusion import GaussianDiffusion, Noised, diffuse
from ddpm_lab.core.gamma import LearnedSchedule, Monotone, marginal_of
from ddpm_lab.core.loss import Loss
from ddpm_lab.core.path import Marginal, Mean, Step
from ddpm_lab.core.prediction import Mu
from ddpm_lab.core.timesteps import Drawn, Timesteps
from ddpm_lab.core.transfer import to_device
from ddpm_lab.core.types import Data, Incompatible


class Time(ABC):
    """How training sees the times of a schedule."""

    @abstractmethod
    def check(self, diffusion: GaussianDiffusion, loss: Loss, timesteps: Timesteps) -> None:
        """Raises Incompatible for parts that do not go with this time."""

    @abstractmethod
    def drawn(self, timesteps: Timesteps, diffusion: GaussianDiffusion, u: Tensor, first: int, size: int) -> Drawn:
        """Times for the uniform numbers u of the rows first, first + 1, … of a batch of `size`."""

    @abstractmethod
    def noised(self, diffusion: GaussianDiffusion, x0: Data, eps: Data, t: Tensor) -> Noised:
        """x_t for times t (on the CPU)."""


class Discrete(Time):
    """t in 1..T, the steps of the chain: DDPM."""

    def check(self, diffusion: GaussianDiffusion, loss: Loss, timesteps: Timesteps) -> None:
        if loss.of_rate:
            raise Incompatible(f"{type(loss).__name__} needs the derivative of a continuous γ", "loss", "time")

    def drawn(self, timesteps: Timesteps, diffusion: GaussianDiffusion, u: Tensor, first: int, size: int) -> Drawn:
        return timesteps(u, diffusion.schedule, first, size)

    def noised(self, diffusion: GaussianDiffusion, x0: Data, eps: Data, t: Tensor) -> Noised:
        return diffusion.noised(x0, eps, t)


class Continuous(Time):
    """t real in [1, T]: VDM, and EDM. γ is linear between whole times, or learned."""

    def check(self, diffusion: GaussianDiffusion, loss: Loss, timesteps: Timesteps) -> None:
        if loss.of_steps:
            limit = "; its limit in continuous time is VDM" if loss.trains_schedule else ""
            raise Incompatible(
                f"{type(loss).__name__} is about the step from t to t − 1, of discrete time{limit}", "loss", "time"
            )
        self.check_process(diffusion)
        timesteps.placed(torch.zeros(1, dtype=torch.float64), diffusion.schedule, 0, 1)
        timesteps.check_places(diffusion.schedule)

    def check_process(self, diffusion: GaussianDiffusion) -> None:
        """Raises Incompatible for a prediction or a schedule that has no continuous time."""
        if isinstance(diffusion.prediction, Mu):
            raise Incompatible("Mu is the mean of the step from t to t − 1, of discrete time", "prediction", "time")
        if not isinstance(diffusion.schedule, LearnedSchedule):
            _ = diffusion.path

    def drawn(self, timesteps: Timesteps, diffusion: GaussianDiffusion, u: Tensor, first: int, size: int) -> Drawn:
        place, weight = timesteps.placed(u, diffusion.schedule, first, size)
        return Drawn(1 + (diffusion.schedule.T - 1) * place, weight)

    def noised(self, diffusion: GaussianDiffusion, x0: Data, eps: Data, t: Tensor) -> Noised:
        u, path, by_variance = (t - 1) / (diffusion.schedule.T - 1), diffusion.path, None
        if isinstance(path, Monotone):
            (gamma, rate), by_variance = path.trained_at(to_device(u, path.device))
        else:
            gamma, rate = path.at(u)
        columns = torch.stack([to_device(t, gamma.device), *marginal_of(gamma), rate]).to(x0.dtype)
        *at, rate = to_device(columns, x0.device).reshape(4, len(u), *[1] * (x0.ndim - 1)).unbind()
        step = instant(at[0], Marginal(*at[1:]))
        return Noised(x0, eps, diffuse(x0, eps, step), step, rate, by_variance)


def instant(t: Tensor, at_t: Marginal) -> Step:
    """What there is of a `Step` at one real t. What only a transition has is nan."""
    none = torch.full_like(t, torch.nan)
    return Step(t, t, at_t, at_t, Mean(none, none), Mean(none, none), none, none)
