"""Distributions of t in training. Each maps one uniform number per example to (t, weight) by inverse CDF, so that runs which
differ in T or in the distribution see paired times. In continuous time t is real, and a place in [0, 1] says how far from 1 to
T it is."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core.loss import Loss
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.transfer import OnItsWay
from ddpm_lab.core.types import Incompatible, PerExample, Times
from ddpm_lab.domains import OpenUnit, PositiveInt, checked


class Drawn(NamedTuple):
    """Times 1..T and weights of their losses; those that keep the loss unbiased for a mean over t, unless it is not to be."""

    t: Times
    weight: Float64[Tensor, " B"]


class Placed(NamedTuple):
    """Places in [0, 1] and weights of their losses, as those of `Drawn`."""

    place: Float64[Tensor, " B"]
    weight: Float64[Tensor, " B"]


class Timesteps(ABC):
    """`u` are the uniform numbers of rows first, first + 1, … of a batch of `size` rows, over all devices."""

    learns: bool
    """Whether the distribution depends on past losses: then `update` must get those of every batch."""
    shared = False
    """Whether all rows of a batch get the u of its first."""

    def check(self, schedule: NoiseSchedule, loss: Loss | None) -> None:  # noqa: B027  (most have nothing to refuse)
        """Raises Incompatible for a schedule that it cannot draw from, and for a bound that it would change. Loss None: that of
        a head, whose target does not depend on how often a t is drawn."""

    @abstractmethod
    def __call__(self, u: Float64[Tensor, " B"], schedule: NoiseSchedule, first: int, size: int) -> Drawn:
        """In discrete time."""

    def check_places(self, schedule: NoiseSchedule) -> None:  # noqa: B027
        """Raises Incompatible for a schedule that it cannot draw from in continuous time alone."""

    def placed(self, u: Float64[Tensor, " B"], schedule: NoiseSchedule, first: int, size: int) -> Placed:
        """In continuous time. Raises Incompatible for a distribution over whole times."""
        raise Incompatible(f"{type(self).__name__} is a distribution over the times 1..T", "timesteps", "time")

    @abstractmethod
    def update(self, t: Times, losses: PerExample) -> None:
        """Losses of the whole batch, in the order of its rows, before weighting; they may still be computed."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """The state to resume from."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from a state."""


class Fixed(Timesteps):
    """A distribution that does not depend on losses, and has no state."""

    learns = False

    def update(self, t: Times, losses: PerExample) -> None: ...

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        assert not state, "only a distribution that learns has a state"


def spread(u: Float64[Tensor, " B"], T: int) -> Times:
    """Uniform numbers to uniform times."""
    return (u * T).long().clamp(max=T - 1) + 1


class Even(Fixed):
    """Each t as likely as any other."""

    @abstractmethod
    def place(self, u: Float64[Tensor, " B"], first: int, size: int) -> Float64[Tensor, " B"]:
        """Of each row, uniform in [0, 1)."""

    def __call__(self, u: Float64[Tensor, " B"], schedule: NoiseSchedule, first: int, size: int) -> Drawn:
        return Drawn(spread(self.place(u, first, size), schedule.T), torch.ones_like(u))

    def placed(self, u: Float64[Tensor, " B"], schedule: NoiseSchedule, first: int, size: int) -> Placed:
        return Placed(self.place(u, first, size), torch.ones_like(u))


class Uniform(Even):
    """DDPM Algorithm 1: t ~ Uniform{1, …, T}."""

    def place(self, u: Float64[Tensor, " B"], first: int, size: int) -> Float64[Tensor, " B"]:
        return u


class Stratified(Even):
    """Row i of n draws from the i-th of n equal parts of 1..T: each t as likely as before, each batch spread evenly over all
    of them. `Antithetic` shares one offset among the parts; here each has its own."""

    def place(self, u: Float64[Tensor, " B"], first: int, size: int) -> Float64[Tensor, " B"]:
        return (torch.arange(first, first + len(u), dtype=u.dtype) + u) / size


class Antithetic(Even):
    """VDM (Kingma et al. 2021), appendix I.1: row i of n is at (u + i/n) mod 1, one u for the whole batch."""

    shared = True

    def place(self, u: Float64[Tensor, " B"], first: int, size: int) -> Float64[Tensor, " B"]:
        return (u + torch.arange(first, first + len(u), dtype=u.dtype) / size) % 1


@checked
class Importance(Timesteps):
    """iDDPM section 3.3: p_t ∝ √E[L_t²] over the last `history` losses at t, mixed with a uniform `floor`; weight 1 / (T p_t).

    Uniform until every t has that many losses: with ten each, after some 24,000 examples at T = 1000 and 100,000 at T = 4000.
    p_t of a batch rests on the losses of the one before it, so that the next draw has to wait for the device to finish them.
    """

    learns = True

    def __init__(self, history: PositiveInt = 10, floor: OpenUnit = 0.001) -> None:
        self.history, self.floor = history, floor
        self._losses, self._count = torch.empty(0, history, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
        self._unseen: tuple[Times, OnItsWay] | None = None

    def probabilities(self, T: int) -> Float64[Tensor, " T"]:
        """p_1..p_T, iDDPM Eq. 18."""
        self._learn()
        if len(self._count) < T or bool((self._count < self.history).any()):
            return torch.full((T,), 1 / T, dtype=torch.float64)
        root = (self._losses**2).mean(1).sqrt()
        return (1 - self.floor) * root / root.sum() + self.floor / T

    def __call__(self, u: Float64[Tensor, " B"], schedule: NoiseSchedule, first: int, size: int) -> Drawn:
        T = schedule.T
        if len(self._count) != T:
            self._unseen = None
            self._losses, self._count = self._losses.new_zeros(T, self.history), self._count.new_zeros(T)
        p = self.probabilities(T)
        row = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=T - 1)
        return Drawn(row + 1, 1 / (T * p[row]))

    def update(self, t: Times, losses: PerExample) -> None:
        self._learn()
        self._unseen = t, OnItsWay(losses)

    def _learn(self) -> None:
        """From the losses of the last `update`."""
        if self._unseen is None:
            return
        (t, losses), self._unseen = self._unseen, None
        history, count = self._losses.numpy(), self._count.numpy()
        for row, loss in zip((t - 1).tolist(), losses.arrived().tolist(), strict=True):
            history[row, count[row] % self.history] = loss
            count[row] += 1

    def state_dict(self) -> dict[str, Tensor]:
        self._learn()
        return {"losses": self._losses, "count": self._count}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError for losses that are not finite, or not `history` for each count."""
        losses, count = state["losses"], state["count"]
        if losses.shape != (len(count), self.history) or not losses.isfinite().all() or (count < 0).any():
            raise ValueError(f"losses: allowed are finite numbers of the shape ({len(count)}, {self.history}), and counts >= 0")
        self._unseen = None
        self._losses, self._count = losses.clone(), count.clone()
