"""The path from data to noise, and chains over it.

The table is ᾱ_0..ᾱ_T in float64, ᾱ_0 = 1, indexed by the paper's t. A chain is any 0 = t_0 < t_1 < … < t_N; the full
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

from ddpm_lab.core.transfer import to_device
from ddpm_lab.core.types import Coefficient, Data, Times


class Marginal(NamedTuple):
    """DDPM Eq. 4: q(x_t | x_0) = N(signal_scale · x_0, noise_scale²), with √ᾱ_t and √(1−ᾱ_t)."""

    signal_scale: Coefficient
    noise_scale: Coefficient

    @property
    def snr(self) -> Coefficient:
        """ᾱ_t / (1 − ᾱ_t), the signal-to-noise ratio; infinite at t = 0."""
        return (self.signal_scale / self.noise_scale) ** 2

    @property
    def sigma(self) -> Coefficient:
        """√(1−ᾱ_t)/√ᾱ_t, the noise of x_t/√ᾱ_t = x_0 + σ ε: σ of Karras et al. 2022. 0 at t = 0, infinite where ᾱ_t = 0."""
        return self.noise_scale / self.signal_scale


class Mean(NamedTuple):
    """A mean of x_s that is linear in x_0 and x_t."""

    x0_coef: Coefficient
    xt_coef: Coefficient

    def __call__(self, x0: Data, xt: Data) -> Data:
        mean = self.x0_coef * x0
        mean += self.xt_coef * xt  # in place: memory is what a step costs
        return mean


class Step(NamedTuple):
    """One transition of a chain, from time t down to s < t. Coefficients broadcast against the data they were made for."""

    s: Coefficient
    t: Coefficient
    at_s: Marginal
    at_t: Marginal
    posterior: Mean
    """μ̃, the mean of q(x_s | x_t, x_0): DDPM Eq. 7."""
    mu: Mean
    """The mean of q(x_{t−1} | x_t, x_0), the target of a network that predicts μ̃, whatever the chain."""
    log_beta: Coefficient
    """log β of the transition, β = 1 − ᾱ_t / ᾱ_s."""
    log_beta_tilde: Coefficient
    """log β̃ (DDPM Eq. 7). Where s = 0, and β̃ is 0, the log β̃ of the chain's second step, as in Ho's code."""

    @property
    def beta_tilde(self) -> Coefficient:
        """β̃, the variance of q(x_s | x_t, x_0): DDPM Eq. 7. 0 where s = 0."""
        return beta_tilde(torch.exp(self.log_beta), self.at_s, self.at_t)


def beta_tilde(beta: Coefficient, at_s: Marginal, at_t: Marginal) -> Coefficient:
    """DDPM Eq. 7: β̃ = β (1 − ᾱ_s) / (1 − ᾱ_t), for any s < t."""
    return beta * (at_s.noise_scale / at_t.noise_scale) ** 2


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

    @cached_property
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
        """ᾱ_t / (1 − ᾱ_t) for t = 0..T."""
        return marginal(self.alphas_bar).snr

    @property
    def trained_ends(self) -> bool:
        """Whether ᾱ_T depends on parameters that are being trained, and L_T with it."""
        return False

    def told(self, t: Tensor, step: Step) -> Tensor:
        """What the network is told of the times of x_t, shape [B], at `step`: t itself."""
        return t

    def chain(self, times: Sequence[int] | None = None) -> "Chain":
        """The chain over increasing `times` in 1..T; over all of them by default. Made once."""
        chosen = tuple(range(1, self.T + 1)) if times is None else tuple(times)
        if chosen not in self._chains:
            self._chains[chosen] = Chain(self, chosen)
        return self._chains[chosen]

    @cached_property
    def _chains(self) -> "dict[tuple[int, ...], Chain]":
        """Those that were asked for, by their times."""
        return {}


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

    def up_to(self, t: int) -> "Chain":
        """The chain that goes no further than to t: its times below t, and t. Raises ValueError for a t outside 1..T."""
        return Chain(self.schedule, (*(time for time in self.times if time < t), t))

    def step(self, t: Times, like: Data) -> Step:
        """The steps that end at times t (on the CPU), cast and moved once to `like` and shaped to broadcast with it."""
        try:
            rows = self._table.index_select(0, to_device(self._row.index_select(0, t), self._table.device))
        except IndexError:
            raise ValueError(f"t = {sorted(set(t.tolist()) - set(self.times))} not on this chain.") from None
        columns = to_device(rows.to(like.dtype), like.device)
        return _as_step(columns.T.reshape(columns.shape[1], len(t), *[1] * (like.ndim - 1)).unbind())

    def __getitem__(self, t: int) -> Step:
        """The step that ends at time t, as zero-dimensional float64: broadcasts with anything, casts nothing."""
        if t not in self._steps:
            if not 0 < t <= self.schedule.T or self._row[t] < 0:
                raise ValueError(f"t = {t} not on this chain.")
            self._steps[t] = _as_step(self._table[self._row[t]].unbind())
        return self._steps[t]

    @cached_property
    def _steps(self) -> dict[int, Step]:
        """Those that were asked for, by t."""
        return {}

    def steps_down(self) -> Iterator[Step]:
        """Steps from t_N to 0, the order of sampling."""
        return (self[t] for t in reversed(self.times))

    def steps_up(self) -> Iterator[Step]:
        """The same from 0 to t_N."""
        return (self[t] for t in self.times)


def transition(alphas_bar: Tensor, s: Tensor, t: Tensor) -> Step:
    """DDPM Eq. 6-7: the steps from times t down to s < t, tensors of one shape, in float64. log β̃ is −∞ where s = 0."""
    ab_s, ab_t = alphas_bar[s], alphas_bar[t]
    at_s, at_t = marginal(ab_s), marginal(ab_t)
    beta = 1 - ab_t / ab_s
    means = posterior_mean_coefs(ab_s, ab_t), posterior_mean_coefs(alphas_bar[t - 1], ab_t)
    variance, last = beta_tilde(beta, at_s, at_t), s == 0
    log_variance = torch.where(last, 1.0, variance).log()  # without log 0, whose gradient would be nan
    return Step(s.double(), t.double(), at_s, at_t, *means, beta.log(), log_variance.masked_fill(last, -torch.inf))


def _transitions(alphas_bar: Tensor, times: Tensor) -> Tensor:
    """The columns of `Step` for each consecutive pair of times."""
    step = transition(alphas_bar, times[:-1], times[1:])
    log_variance = step.log_beta_tilde
    log_variance[0] = log_variance[1] if len(times) > 2 else step.log_beta[0]  # a chain of one step has no second: β instead
    return torch.stack([step.s, step.t, *itertools.chain(*step[2:6]), step.log_beta, log_variance], dim=1)


def marginal(alphas_bar: Tensor) -> Marginal:
    """DDPM Eq. 4 at ᾱ_t."""
    return Marginal(alphas_bar.sqrt(), (1 - alphas_bar).sqrt())


def by_row(value: Coefficient, like: Data) -> Tensor:
    """A coefficient as one number for each row of `like`, shape [B], on its device and in its precision."""
    return value.flatten() if value.ndim else torch.full((len(like),), float(value), dtype=like.dtype, device=like.device)


def posterior_mean_coefs(ab_s: Tensor, ab_t: Tensor) -> Mean:
    """DDPM Eq. 7: μ̃ from ᾱ_s and ᾱ_t, for any s < t."""
    return Mean(ab_s.sqrt() * (1 - ab_t / ab_s) / (1 - ab_t), (ab_t / ab_s).sqrt() * (1 - ab_s) / (1 - ab_t))


def _as_step(columns: Sequence[Tensor]) -> Step:
    s, t, *pairs = columns[:10]
    at_s, at_t, posterior, mu = zip(pairs[::2], pairs[1::2], strict=True)
    return Step(s, t, Marginal(*at_s), Marginal(*at_t), Mean(*posterior), Mean(*mu), *columns[10:])
