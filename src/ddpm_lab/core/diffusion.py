"""The forward process q and the reverse process p_θ of one diffusion."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, overload

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ddpm_lab.core.covariance import Covariance
from ddpm_lab.core.gamma import ByVariance, Interpolated, Path, ReadOff
from ddpm_lab.core.gaussian import Normal
from ddpm_lab.core.guidance import Conditional
from ddpm_lab.core.guidance import Network as Network
from ddpm_lab.core.path import Chain, Marginal, NoiseSchedule, Step
from ddpm_lab.core.prediction import Prediction
from ddpm_lab.core.types import Clip, Coefficient, Data, Incompatible, Times
from ddpm_lab.core.variance import OfData, ReverseVariance, Seen
from ddpm_lab.domains import shown


class Noised(NamedTuple):
    """Data, noise, the x_t they give, and the step that ends at t."""

    x0: Data
    eps: Data
    xt: Data
    step: Step
    rate: Coefficient | None = None
    """In continuous time, how fast γ rises there."""
    by_variance: ByVariance | None = None
    """In continuous time, of a learned γ."""


class Reverse(NamedTuple):
    """p_θ(x_s | x_t), and the x̂_0 that its mean is computed from."""

    mean: Data
    covariance: Covariance
    x0: Data
    """x̂_0, clipped where `clip` is true."""


class Denoised(NamedTuple):
    """The model's output at (x_t, t), as samplers use it."""

    x0: Data
    """x̂_0, clipped where `clip` is true. `implied_eps` gives the ε̂ that agrees with it."""
    seen: Seen
    variance: ReverseVariance
    max_std: float = math.inf
    """Upper limit on the standard deviation of this step's noise, in every direction."""

    def noise(self, z: Data) -> Data:
        """That of p_θ(x_s | x_t) on the sampler's chain, from z ~ N(0, I)."""
        return self.variance.covariance(self.seen).colour(z, self.max_std)

    def other_noise(self, z: Data, c: Coefficient, std: Coefficient) -> Data:
        """That of a sampler whose own noise has `std` and whose mean has c as the share of x_0. A variance that knows of
        Cov(x_0 | x_t) adds c² of it: Bao et al. 2022, Theorem 1 with λ = `std`."""
        if not isinstance(self.variance, OfData):
            return std.clamp(max=self.max_std) * z
        return self.variance.data_covariance(self.seen).scaled(c, std**2).colour(z, self.max_std)


Denoise = Callable[[Tensor, int], Denoised]


def diffuse(x0: Data, eps: Data, step: Step) -> Data:
    """DDPM Eq. 4: a draw from q(x_t | x_0)."""
    return step.at_t.signal_scale * x0 + step.at_t.noise_scale * eps


def posterior_mean(x0: Data, xt: Data, step: Step) -> Data:
    """DDPM Eq. 7: mean of q(x_s | x_t, x_0), for any s < t."""
    return step.posterior(x0, xt)


def implied_eps(x0: Data, xt: Data, at_t: Marginal) -> Data:
    """DDPM Eq. 4 solved for ε."""
    return (xt - at_t.signal_scale * x0) / at_t.noise_scale


def limited(x0: Data, clip: Clip) -> Data:
    """x̂_0 as it is (False), clamped to [−1, 1] (True), or under the dynamic thresholding of Imagen (Saharia et al. 2022,
    section 2.3): clamped to [−s, s] and divided by s, where s ≥ 1 is the quantile `clip` of |x̂_0| over each datum."""
    if isinstance(clip, bool):
        return x0.clamp(-1, 1) if clip else x0
    s = x0.abs().flatten(1).quantile(clip, dim=1).clamp(min=1).reshape(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-s, s) / s


def eps_weight(step: Step, log_var: Tensor) -> Tensor:
    """DDPM Eq. 12: β² / (2σ² α (1 − ᾱ_t)), which multiplies ‖ε − ε̂‖² in L_{t−1}, for any s < t. `log_var` is log σ²."""
    beta = torch.exp(step.log_beta)
    return beta**2 / (2 * log_var.exp() * (1 - beta) * step.at_t.noise_scale**2)


@contextmanager
def differentiable_twice() -> Iterator[None]:
    """Networks run without what torch differentiates only once: fused attention, and what torch.compile makes."""
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        yield


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
        if self.variance.needs_signal and self.schedule.reaches_zero:
            raise Incompatible(
                f"ᾱ_T = 0 leaves no signal at t = T, and {type(self.variance).__name__} divides by √ᾱ_t", "schedule", "variance"
            )

    @overload
    def clips_x0(self, clip: bool | None = None) -> bool: ...
    @overload
    def clips_x0(self, clip: Clip | None) -> Clip: ...
    def clips_x0(self, clip: Clip | None = None) -> Clip:
        """Whether and how x̂_0 is limited to [−1, 1], as `limited` says: `clip`, or the default where it is None, which is true
        for data with grey levels, as in Ho's sampler and evaluation, unless the prediction is Mu. Raises Incompatible for a
        clip on data without grey levels, which have no such bounds."""
        if clip and self.levels is None:
            raise Incompatible(
                f"clip={shown(clip)} limits x̂_0 to [-1, 1], and data without grey levels have no bounds", "sampler", "data"
            )
        return self.levels is not None and self.prediction.clips if clip is None else clip

    @cached_property
    def path(self) -> Path:
        """γ in continuous time. Raises Incompatible for a schedule that has none."""
        return self.schedule.path if isinstance(self.schedule, ReadOff) else Interpolated(self.schedule)

    @cached_property
    def chain(self) -> Chain:
        """The full chain, on which training and the bound run."""
        return self.schedule.chain()

    def noised(self, x0: Data, eps: Data, t: Times, chain: Chain | None = None) -> Noised:
        """DDPM Eq. 4: x_t for times t (on the CPU) of the chain, with its step."""
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

    def seen(self, out: Data, xt: Data, step: Step) -> Seen:
        """What the reverse variance may look at, from the network's output alone."""
        prediction, raw = self.split(out, xt)
        return Seen(xt, step, self.prediction.x0(prediction, xt, step), raw)

    def output(self, net: Network, xt: Data, t: Tensor, step: Step) -> Data:
        """One call of the network at x_t, t on its device, in the precision of x_t."""
        return net(*self.prediction.inputs(xt, self.schedule.told(t, step), step)).to(xt.dtype)

    def look(self, net: Network, xt: Data, t: Tensor, step: Step, probes: Tensor | None = None) -> Seen:
        """The same by one call of the network at (x_t, t), differentiated where the variance does so, and both ways where there
        are probes."""
        if not self.variance.differentiates:
            return self.seen(self.output(net, xt, t, step), xt, step)
        both = probes is not None and len(probes) > 0
        with torch.inference_mode(False), torch.enable_grad(), differentiable_twice() if both else nullcontext():
            x = xt.detach().clone().requires_grad_()
            out = self.output(net, x, t, step)
            pullback = self.pullback(out, x, step)
            pushforward = self.pushforward(out, x, step) if both else None
        return self.seen(out.detach(), xt, step)._replace(pullback=pullback, pushforward=pushforward, probes=probes)

    def pullback(self, out: Data, x: Data, step: Step) -> Callable[[Data], Data]:
        """v ↦ (∂x̂_0/∂x_t)ᵀ v, from the output at x_t = x, which requires a gradient. x̂_0 is linear in output and x_t together,
        so that is x̂_0 of (output gradient, v)."""
        prediction, _ = self.split(out, x)

        def product(v: Data) -> Data:
            (gradient,) = torch.autograd.grad(prediction, x, v, retain_graph=True)
            return self.prediction.x0(gradient, v, step)

        return product

    def pushforward(self, out: Data, x: Data, step: Step) -> Callable[[Data], Data]:
        """v ↦ ∂x̂_0/∂x_t v, from the same. The output's gradient is linear in u, by which it is weighted, with the transposed
        Jacobian; the derivative by u transposes it again. So no forward-mode derivative is asked of the network."""
        prediction, _ = self.split(out, x)
        u = torch.zeros_like(prediction, requires_grad=True)
        (weighted,) = torch.autograd.grad(prediction, x, u, create_graph=True)

        def product(v: Data) -> Data:
            (tangent,) = torch.autograd.grad(weighted, u, v, retain_graph=True)
            return self.prediction.x0(tangent, v, step)

        return product

    def reverse(self, seen: Seen, clip: Clip = False) -> Reverse:
        """DDPM Eq. 1: p_θ(x_s | x_t), its mean Eq. 7 at x̂_0, which is Eq. 11 for a network that predicts ε. `clip` limits x̂_0
        to [−1, 1] before the mean is formed, as Ho's sampler does."""
        x0 = limited(seen.x0, clip)
        return Reverse(posterior_mean(x0, seen.xt, seen.step), self.variance.covariance(seen), x0)

    def denoiser(self, net: Network, chain: Chain, clip: Clip, last_std: float = math.inf) -> Denoise:
        """The model as a sampler sees it, guided where its network is: a function of (x_t, t) for times t on `chain`.
        `last_std`: upper limit on the standard deviation of the last noise, of the step that ends at the chain's first time."""

        def denoise(xt: Tensor, t: int) -> Denoised:
            step = chain[t]
            network = net.at(step) if isinstance(net, Conditional) else net
            seen = self.look(network, xt, torch.full((len(xt),), t, device=xt.device), step)
            max_std = last_std if int(step.s) == chain.times[0] else math.inf
            return Denoised(limited(seen.x0, clip), seen, self.variance, max_std)

        return denoise
