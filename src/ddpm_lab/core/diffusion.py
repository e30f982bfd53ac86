"""The two processes: q adds noise, p_θ takes it away. One immutable object that holds every choice but the loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lab.core.gaussian import Normal
from ddpm_lab.core.path import Chain, NoiseSchedule, Step
from ddpm_lab.core.prediction import Prediction
from ddpm_lab.core.types import Coefficient, Data, Incompatible, Times
from ddpm_lab.core.variance import KnowsCovariance, ReverseVariance

Network = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B ...], t [B]) → output [B n_outputs·C ...]."""


class Noised(NamedTuple):
    """Data, noise, what they became, and the step that leads there."""

    x0: Data
    eps: Data
    xt: Data
    step: Step


class Reverse(NamedTuple):
    """p_θ(x_s | x_t) and what it rests on."""

    p: Normal
    x0: Data
    """x̂_0, clipped where asked for."""


class Denoised(NamedTuple):
    """What a sampler may ask of the model at (x_t, t)."""

    x0: Data
    """x̂_0, clipped where asked for; ε̂ that agrees with it is `implied_eps`."""
    log_var: Tensor
    """Of p_θ(x_s | x_t) on the sampler's chain."""
    x0_cov: Coefficient | None = None
    """E Cov(x_0 | x_t), where the variance knows it."""
    max_std: float = math.inf
    """What the variance allows the noise of this step to be."""


Denoise = Callable[[Tensor, int], Denoised]


def diffuse(x0: Data, eps: Data, step: Step) -> Data:
    """DDPM Eq. 4: a draw from q(x_t | x_0)."""
    return step.at_t.signal_scale * x0 + step.at_t.noise_scale * eps


def posterior_mean(x0: Data, xt: Data, step: Step) -> Data:
    """DDPM Eq. 7: mean of q(x_s | x_t, x_0), for any s < t."""
    return step.x0_coef * x0 + step.xt_coef * xt


def beta_tilde(step: Step) -> Coefficient:
    """DDPM Eq. 7, the variance of q(x_s | x_t, x_0); 0 where s = 0."""
    return torch.exp(step.log_beta) * (step.at_s.noise_scale / step.at_t.noise_scale) ** 2


def implied_eps(x0: Data, xt: Data, step: Step) -> Data:
    """DDPM Eq. 4 solved for ε."""
    return (xt - step.at_t.signal_scale * x0) / step.at_t.noise_scale


@dataclass(frozen=True, eq=False)
class GaussianDiffusion:
    """Schedule, prediction, reverse variance, and the grey levels of the decoder (None: continuous data)."""

    schedule: NoiseSchedule
    prediction: Prediction
    variance: ReverseVariance
    levels: int | None = 256

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"levels={self.levels}: a decoder needs at least 2 grey levels.")
        if self.prediction.needs_signal and self.schedule.reaches_zero:
            raise Incompatible(
                f"ᾱ_T = 0 leaves no signal at t = T, and x̂_0 of {type(self.prediction).__name__} divides by √ᾱ_T",
                "schedule",
                "prediction",
            )

    @property
    def clips(self) -> bool:
        """Default of `clip`: true for data with grey levels, as in Ho's sampler and evaluation, unless the prediction is Mu."""
        return self.levels is not None and self.prediction.clips

    def clips_x0(self, clip: bool | None) -> bool:
        """Whether x̂_0 is limited to [−1, 1]: `clip`, or the default where it is None. Raises Incompatible for clip=True on data
        without grey levels, which have no such bounds."""
        if clip and self.levels is None:
            raise Incompatible(
                "clip=true limits x̂_0 to [-1, 1], and data without grey levels have no bounds", "sampler", "data"
            )
        return self.clips if clip is None else clip

    @cached_property
    def chain(self) -> Chain:
        """The full chain, on which training and the bound run."""
        return self.schedule.chain()

    def noised(self, x0: Data, eps: Data, t: Times, chain: Chain | None = None) -> Noised:
        """x_t for times t (on the CPU) of the chain, and everything a loss or a bound needs to know about it."""
        step = (chain or self.chain).step(t, like=x0)
        return Noised(x0, eps, diffuse(x0, eps, step), step)

    def posterior(self, noised: Noised) -> Normal:
        """DDPM Eq. 6-7: q(x_s | x_t, x_0)."""
        return Normal(posterior_mean(noised.x0, noised.xt, noised.step), noised.step.log_beta_tilde)

    def split(self, out: Data, like: Data) -> tuple[Data, Data | None]:
        """The network's output as (prediction, raw variance), each with the C channels of `like`: halves of the channel axis,
        mean first (iDDPM). A head with both may be used with a fixed variance. Raises ValueError for other widths."""
        channels = like.shape[1]
        if out.shape[1] not in (channels * self.variance.n_outputs, 2 * channels):
            raise ValueError(
                f"the network gives {out.shape[1]} channels for data of {channels}; {type(self.variance).__name__} takes "
                f"{channels * self.variance.n_outputs}."
            )
        return out[:, :channels], out[:, channels:] if self.variance.n_outputs == 2 else None

    def reverse(self, out: Data, xt: Data, step: Step, clip: bool = False) -> Reverse:
        """DDPM Eq. 1: p_θ(x_s | x_t). Its mean is that of q at x̂_0, which is Eq. 11 for a network that predicts ε. `clip`
        limits x̂_0 to [−1, 1] before the mean is formed, as Ho's sampler does."""
        said = self.denoised(out, xt, step, clip)
        return Reverse(Normal(posterior_mean(said.x0, xt, step), said.log_var), said.x0)

    def denoised(self, out: Data, xt: Data, step: Step, clip: bool = False) -> Denoised:
        """What the network's output says, but for the mean: not every sampler forms it."""
        prediction, raw = self.split(out, xt)
        x0 = self.prediction.x0(prediction, xt, step)
        return Denoised(x0.clamp(-1, 1) if clip else x0, self.variance.log_var(raw, step))

    def denoiser(self, net: Network, chain: Chain, clip: bool) -> Denoise:
        """The model as a sampler sees it: a function of (x_t, t) for times t on `chain`."""
        knows = self.variance if isinstance(self.variance, KnowsCovariance) else None

        def denoise(xt: Tensor, t: int) -> Denoised:
            step = chain[t]
            out = net(xt, torch.full((len(xt),), t, device=xt.device)).to(xt.dtype)
            said = self.denoised(out, xt, step, clip)
            if knows is None:
                return said
            last = int(step.s) == chain.times[0]
            return said._replace(x0_cov=knows.x0_cov(step), max_std=knows.max_last_std if last else math.inf)

        return denoise
