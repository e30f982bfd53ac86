"""Samplers: iterators over the states from x_T to x_0."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ddpm_lab.core import rng, transfer
from ddpm_lab.core.diffusion import Denoise, GaussianDiffusion, Network, posterior_mean
from ddpm_lab.core.path import Chain, Mean, NoiseSchedule, Step
from ddpm_lab.core.types import Coefficient, Data, Incompatible
from ddpm_lab.core.variance import KnowsCovariance, ReverseVariance
from ddpm_lab.domains import ClosedUnit, PositiveInt, checked

Spacing = Literal["trailing", "leading", "linspace", "quadratic"]
Noise = Callable[[int], Tensor]
"""Fresh standard normal noise for the step that leaves time t."""


class Sampled(NamedTuple):
    """The state after a step: its time, x at that time, and the x̂_0 that the step used."""

    t: int
    x: Data
    x0: Data


@checked
def spaced_times(T: PositiveInt, n: PositiveInt, spacing: Spacing = "trailing") -> tuple[int, ...]:
    """n increasing times in 1..T. Raises Incompatible for n > T.

    trailing ends at T and leading starts at 1, both with gaps of T/n (iDDPM's "ddimN" is leading); linspace holds both ends
    (iDDPM's "N"); quadratic grows as the square and ends at T (DDIM appendix D.2, widened where the squares coincide).
    """
    if n > T:
        raise Incompatible(f"steps={n} exceeds T={T}; allowed is 1 to {T}, or null for all", "sampler", "schedule")
    match spacing:
        case "trailing":
            return tuple(-(-i * T // n) for i in range(1, n + 1))
        case "leading":
            return tuple(i * T // n + 1 for i in range(n))
        case "linspace":
            return (T,) if n == 1 else tuple(round(i * (T - 1) / (n - 1)) + 1 for i in range(n))
        case "quadratic":
            return tuple(max(i, round(T * (i / n) ** 2)) for i in range(1, n + 1))


class Sampler(ABC):
    """`steps` network calls (None: all T) at times spaced by `spacing`. `clip` limits x̂_0 to [−1, 1]; None takes the default,
    `GaussianDiffusion.clips_x0`."""

    draws_noise = True

    def __init__(self, steps: PositiveInt | None = None, spacing: Spacing = "trailing", clip: bool | None = None) -> None:
        self.steps, self.clip = steps, clip
        self.spacing: Spacing = spacing

    def chain(self, schedule: NoiseSchedule) -> Chain:
        """The times this sampler visits. Raises Incompatible for more steps than T, or an end before T where ᾱ_T = 0."""
        times = spaced_times(schedule.T, schedule.T if self.steps is None else self.steps, self.spacing)
        if schedule.reaches_zero and times[-1] != schedule.T:
            raise Incompatible(
                f"spacing={self.spacing} starts at t = {times[-1]} of T={schedule.T}, and ᾱ_t = 0 at t = T alone: "
                "x_t would be taken for pure noise where it is not",
                "sampler",
                "schedule",
            )
        return schedule.chain(times)

    def check(self, diffusion: GaussianDiffusion) -> None:
        """Raises Incompatible where this sampler cannot run on the diffusion."""
        self.chain(diffusion.schedule)
        diffusion.clips_x0(self.clip)

    @abstractmethod
    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: Any) -> tuple[Data, Data, Any]:
        """From x_t to (x_s, x̂_0, state). `z` is fresh noise, None in the last step and where `noisy` is false. The next step
        gets `state`, for multistep methods."""

    def uses(self, variance: ReverseVariance) -> bool:
        """Whether samples depend on the reverse variance."""
        return True

    def noisy(self, variance: ReverseVariance) -> bool:
        """Whether steps draw noise under this variance."""
        return self.draws_noise

    @torch.inference_mode()
    def __call__(
        self, diffusion: GaussianDiffusion, net: Network, x: Data, noise: Noise, start: int | None = None
    ) -> Iterator[Sampled]:
        """Yields the states from x_T = x, or from x_t = x for t = `start`, down to x_0. Raises ValueError for a start outside
        1..T."""
        chain, state, noisy = self.chain(diffusion.schedule), None, self.noisy(diffusion.variance)
        chain = chain if start is None else chain.up_to(start)
        denoise = diffusion.denoiser(net, chain, diffusion.clips_x0(self.clip))
        for step in chain.steps_down():
            z = noise(int(step.t)) if noisy and step.s > 0 else None
            x, x0, state = self.step(denoise, x, step, z, state)
            yield Sampled(int(step.s), x, x0)


@checked
class Ancestral(Sampler):
    """DDPM Algorithm 2: x_s ~ p_θ(x_s | x_t), with the model's own variance; the last step returns the mean."""

    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: None) -> tuple[Data, Data, None]:
        denoised = denoise(xt, int(step.t))
        xs = posterior_mean(denoised.x0, xt, step)
        if z is not None:
            xs = xs + torch.exp(0.5 * denoised.log_var).clamp(max=denoised.max_std) * z
        return xs, denoised.x0, None


@checked
class DDIM(Sampler):
    """DDIM Eq. 12 and 16 (Song et al. 2021): σ = η √β̃. η = 0 is deterministic, η = 1 is ancestral with σ² = β̃.

    A variance that estimates E Cov(x_0 | x_t) adds its share, also at η = 0: Analytic-DDIM, Bao et al. 2022, Theorem 1 with
    λ = σ. Of other variances the samples are independent.
    """

    def __init__(
        self,
        steps: PositiveInt | None = 50,
        eta: ClosedUnit = 0.0,
        spacing: Spacing = "trailing",
        clip: bool | None = None,
    ) -> None:
        super().__init__(steps, spacing, clip)
        self.eta, self.draws_noise = eta, eta > 0

    def uses(self, variance: ReverseVariance) -> bool:
        return isinstance(variance, KnowsCovariance)

    def noisy(self, variance: ReverseVariance) -> bool:
        return self.draws_noise or self.uses(variance)

    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: None) -> tuple[Data, Data, None]:
        denoised = denoise(xt, int(step.t))
        sigma = self.eta * step.beta_tilde.sqrt()
        mean = ddim_mean(step, sigma)
        xs = mean(denoised.x0, xt)
        if denoised.x0_cov is not None:
            sigma = (sigma**2 + mean.x0_coef**2 * denoised.x0_cov).clamp(min=0).sqrt()
        return (xs if z is None else xs + sigma.clamp(max=denoised.max_std) * z), denoised.x0, None


def ddim_mean(step: Step, sigma: Coefficient) -> Mean:
    """DDIM Eq. 7 (Song et al. 2021): the mean of q_σ(x_s | x_t, x_0)."""
    direction = (step.at_s.noise_scale**2 - sigma**2).sqrt() / step.at_t.noise_scale
    return Mean(step.at_s.signal_scale - direction * step.at_t.signal_scale, direction)


def draw(
    sampler: Sampler,
    diffusion: GaussianDiffusion,
    net: Network,
    shape: Sequence[int],
    *,
    seed: int,
    start: int,
    stop: int,
    like: Tensor,
) -> Iterator[Sampled]:
    """The states of samples start..stop−1, each of `shape`, from noise to data, with the device and type of `like`. Sample i
    depends on (seed, i) alone."""

    def noise(t: int) -> Tensor:
        return transfer.like(rng.normal(shape, seed, "sampling", t, start, stop), like)

    return sampler(diffusion, net, noise(0), noise)  # no step starts at t = 0: its noise is x_T
