"""The path from data to noise, and chains over it.

The one table is ᾱ_0..ᾱ_T in float64, ᾱ_0 = 1, indexed by the paper's own t. A chain is any 0 = t_0 < t_1 < … < t_N; the full
chain is one case, a strided one another, and every step (s, t) of either carries what training, sampling and the bound need.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core.types import Coefficient, Data, Times


class Marginal(NamedTuple):
    """q(x_t | x_0) = N(signal_scale · x_0, noise_scale²): DDPM Eq. 4, √ᾱ_t and √(1−ᾱ_t)."""

    signal_scale: Coefficient
    noise_scale: Coefficient


class Step(NamedTuple):
    """One transition of a chain, from time t down to s < t. Coefficients broadcast against the data they were made for."""

    s: Coefficient
    t: Coefficient
    at_s: Marginal
    at_t: Marginal
    x0_coef: Coefficient
    """Of x_0 in the mean of q(x_s | x_t, x_0): DDPM Eq. 7."""
    xt_coef: Coefficient
    """Of x_t in the same mean."""
    mu_x0_coef: Coefficient
    """Of x_0 in the mean of q(x_{t−1} | x_t, x_0), which a network that predicts μ̃ was trained on, whatever the chain."""
    mu_xt_coef: Coefficient
    """Of x_t in that mean."""
    log_beta: Coefficient
    """log β of the transition, β = 1 − ᾱ_t / ᾱ_s."""
    log_beta_tilde: Coefficient
    """log β̃ (DDPM Eq. 7). β̃ is 0 where s = 0; there it is the β̃ of the chain's second step, as Ho et al. do."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """ᾱ_0..ᾱ_T, T+1 of them, float64. Raises ValueError unless it starts at 1 and falls strictly within [0, 1]."""

    alphas_bar: Float64[Tensor, " times"]
    clipped: int = 0
    """How many β were cut down to a cap, for the schedule card."""

    def __post_init__(self) -> None:
        ab = self.alphas_bar
        if ab.dtype != torch.float64 or ab.ndim != 1 or len(ab) < 2:
            raise ValueError(f"alphas_bar must be float64 of shape T+1, T >= 1; it is {ab.dtype} of {tuple(ab.shape)}.")
        if ab[0] != 1 or ab[-1] < 0 or not bool((ab.diff() < 0).all()):
            raise ValueError("alphas_bar must start at 1 and fall strictly, to no less than 0.")

    @property
    def T(self) -> int:
        """Number of diffusion steps."""
        return len(self.alphas_bar) - 1

    @property
    def betas(self) -> Float64[Tensor, " T"]:
        """β_1..β_T: DDPM Eq. 2."""
        return 1 - self.alphas_bar[1:] / self.alphas_bar[:-1]

    @property
    def reaches_zero(self) -> bool:
        """Whether ᾱ_T = 0: x_T is pure noise."""
        return bool(self.alphas_bar[-1] == 0)

    @property
    def snr(self) -> Float64[Tensor, " times"]:
        """ᾱ_t / (1 − ᾱ_t), infinite at t = 0."""
        return self.alphas_bar / (1 - self.alphas_bar)

    def chain(self, times: Sequence[int] | None = None) -> "Chain":
        """The chain over increasing `times` in 1..T; over all of them by default."""
        return Chain(self, tuple(range(1, self.T + 1)) if times is None else tuple(times))


@dataclass(frozen=True, eq=False)
class Chain:
    """Times 0 < t_1 < … < t_N ≤ T of a schedule (0 is implied). Raises ValueError where they are not such."""

    schedule: NoiseSchedule
    times: tuple[int, ...]
    _table: Float64[Tensor, "N columns"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        whole = (0, *self.times)
        if len(whole) < 2 or whole[-1] > self.schedule.T or any(s >= t for s, t in itertools.pairwise(whole)):
            raise ValueError(f"times of a chain must rise within 1..{self.schedule.T}; they are {self.times}.")
        object.__setattr__(self, "_table", _transitions(self.schedule.alphas_bar, torch.tensor(whole)))

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def _row(self) -> Tensor:
        """Row of the table for each t in 0..T, −1 where t is not on the chain."""
        rows = torch.full((self.schedule.T + 1,), -1)
        rows[torch.tensor(self.times)] = torch.arange(len(self.times))
        return rows

    def step(self, t: Times, like: Data) -> Step:
        """The steps that end at times t (on the CPU), cast and moved once to `like` and shaped to broadcast with it."""
        rows = self._row[t.clamp(0, self.schedule.T)]
        off = (rows < 0) | (t > self.schedule.T)
        if off.any():
            raise ValueError(f"t = {t[off].tolist()} not on this chain.")
        columns = self._table[rows].to(like.dtype)
        if like.is_cuda:
            columns = columns.pin_memory()
        columns = columns.to(like.device, non_blocking=True)
        return _as_step(columns.T.reshape(columns.shape[1], len(t), *[1] * (like.ndim - 1)).unbind())

    def __getitem__(self, t: int) -> Step:
        """The step that ends at time t, as zero-dimensional float64: broadcasts with anything, casts nothing."""
        if not 0 < t <= self.schedule.T or self._row[t] < 0:
            raise ValueError(f"t = {t} not on this chain.")
        return _as_step(self._table[int(self._row[t])].unbind())

    def steps_down(self) -> Iterator[Step]:
        """Steps from t_N to 0, the order of sampling."""
        return (self[t] for t in reversed(self.times))


def _transitions(alphas_bar: Tensor, times: Tensor) -> Tensor:
    """The float64 columns of `Step` for each consecutive pair of times: DDPM Eq. 6-7 for any s < t."""
    s, t = times[:-1], times[1:]
    ab_s, ab_t = alphas_bar[s], alphas_bar[t]
    beta = 1 - ab_t / ab_s
    beta_tilde = beta * (1 - ab_s) / (1 - ab_t)
    beta_tilde[0] = beta_tilde[1] if len(t) > 1 else beta[0]  # a chain of one step has no second: take its β
    marginals = [ab_s.sqrt(), (1 - ab_s).sqrt(), ab_t.sqrt(), (1 - ab_t).sqrt()]
    means = [*_posterior_coefs(ab_s, ab_t), *_posterior_coefs(alphas_bar[t - 1], ab_t)]
    return torch.stack([s, t, *marginals, *means, beta.log(), beta_tilde.log()], dim=1)


def _posterior_coefs(ab_s: Tensor, ab_t: Tensor) -> tuple[Tensor, Tensor]:
    """DDPM Eq. 7 for any s < t: the shares of x_0 and x_t in the mean of q(x_s | x_t, x_0)."""
    return ab_s.sqrt() * (1 - ab_t / ab_s) / (1 - ab_t), (ab_t / ab_s).sqrt() * (1 - ab_s) / (1 - ab_t)


def _as_step(columns: Sequence[Tensor]) -> Step:
    s, t, signal_s, noise_s, signal_t, noise_t, *transition = columns
    return Step(s, t, Marginal(signal_s, noise_s), Marginal(signal_t, noise_t), *transition)
