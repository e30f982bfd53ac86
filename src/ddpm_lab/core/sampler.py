"""Samplers: iterators over the states from x_T to x_0."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from ddpm_lab.core import rng, transfer
from ddpm_lab.core.diffusion import Denoise, GaussianDiffusion, Network, posterior_mean
from ddpm_lab.core.path import Chain, Mean, NoiseSchedule, Step
from ddpm_lab.core.spacing import OfChain, Optimal, Spacing, times_of
from ddpm_lab.core.types import Clip, Coefficient, Data, Incompatible
from ddpm_lab.core.types import Settings as Settings
from ddpm_lab.core.variance import OfData, ReverseVariance
from ddpm_lab.domains import ClosedUnit, PositiveFloat, PositiveInt, checked

Noise = Callable[[int], Tensor]
"""Fresh standard normal noise for the step that leaves time t."""
State = TypeVar("State")
"""What a step leaves to the next: None, or the history of a multistep method."""


class Sampled(NamedTuple):
    """The state after a step: its time, x at that time, and the x̂_0 that the step used."""

    t: int
    x: Data
    x0: Data


class Sampler(ABC, Generic[State]):
    """`steps` steps (None: all T) from times spaced by `spacing`. `clip` limits x̂_0 to [−1, 1]: true clamps, a number is the
    quantile of dynamic thresholding (`diffusion.limited`), None takes the default, `GaussianDiffusion.clips_x0`. `optimal`: the
    times of spacing=optimal."""

    draws_noise = True

    def __init__(
        self,
        steps: PositiveInt | None = None,
        spacing: OfChain = "trailing",
        clip: Clip | None = None,
        optimal: Optimal | None = None,
    ) -> None:
        self.steps, self.clip, self.optimal = steps, clip, optimal
        self.spacing: OfChain = spacing

    def chain(self, schedule: NoiseSchedule) -> Chain:
        """The times this sampler visits. Raises Incompatible for more steps than T, an end before T where ᾱ_T = 0, or optimal
        times that were not measured."""
        steps = schedule.T if self.steps is None else self.steps
        if self.spacing != "optimal":
            times = times_of(schedule, steps, self.spacing)
        elif self.optimal is not None and len(self.optimal.times) == steps:
            times = self.optimal.times
        else:
            others = ", ".join(word for word in get_args(Spacing) if word != "trailing")
            raise Incompatible(
                f"spacing=optimal is measured of a trained network, at evaluation only; there are no times for steps={steps}: "
                f"use spacing=trailing, or one of {others}",
                "sampler",
            )
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
    def start(self, chain: Chain) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: State) -> tuple[Data, Data, State]:
        """From x_t to (x_s, x̂_0, state). `z` is fresh noise, None where `noisy` or `adds_noise` is false. The next step gets
        the state."""

    def calls(self, chain: Chain) -> int:
        """Network calls of a sample on this chain."""
        return len(chain)

    @property
    def settings(self) -> Settings:
        """What distinguishes it from others of its class, besides times and clipping."""
        return {}

    def uses(self, variance: ReverseVariance) -> bool:
        """Whether samples depend on the reverse variance."""
        return True

    def noisy(self, variance: ReverseVariance) -> bool:
        """Whether steps draw noise under this variance."""
        return self.draws_noise

    def adds_noise(self, step: Step) -> bool:
        """Whether this step does."""
        return bool(step.s > 0)

    def denoiser(self, diffusion: GaussianDiffusion, net: Network, chain: Chain) -> Denoise:
        """The model as the steps on this chain see it."""
        return diffusion.denoiser(net, chain, diffusion.clips_x0(self.clip))

    @torch.no_grad()
    def __call__(
        self, diffusion: GaussianDiffusion, net: Network, x: Data, noise: Noise, start: int | None = None
    ) -> Iterator[Sampled]:
        """Yields the states from x_T = x, or from x_t = x for t = `start`, down to x_0. Raises ValueError for a start outside
        1..T."""
        chain, noisy = self.chain(diffusion.schedule), self.noisy(diffusion.variance)
        chain = chain if start is None else chain.up_to(start)
        denoise, state = self.denoiser(diffusion, net, chain), self.start(chain)
        for step in chain.steps_down():
            z = noise(int(step.t)) if noisy and self.adds_noise(step) else None
            x, x0, state = self.step(denoise, x, step, z, state)
            yield Sampled(int(step.s), x, x0)


class OneStep(Sampler[None]):
    """A step depends on x_t alone.

    `max_last_noise`, the y of Bao et al. 2022 and all that follow them, limits the noise of the last step that has any:
    σ ≤ y · 2/255 · √(π/2) in every direction, so that its mean size is y grey levels of 256, whatever the levels of the data.
    """

    def __init__(
        self,
        steps: PositiveInt | None = None,
        spacing: OfChain = "trailing",
        clip: Clip | None = None,
        max_last_noise: PositiveFloat | None = None,
        optimal: Optimal | None = None,
    ) -> None:
        super().__init__(steps, spacing, clip, optimal)
        self.max_last_noise = max_last_noise

    @property
    def settings(self) -> Settings:
        return {} if self.max_last_noise is None else {"max_last_noise": self.max_last_noise}

    def denoiser(self, diffusion: GaussianDiffusion, net: Network, chain: Chain) -> Denoise:
        last_std = math.inf if self.max_last_noise is None else self.max_last_noise * 2 / 255 * math.sqrt(math.pi / 2)
        return diffusion.denoiser(net, chain, diffusion.clips_x0(self.clip), last_std)

    def start(self, chain: Chain) -> None:
        return None


@checked
class Ancestral(OneStep):
    """DDPM Algorithm 2: x_s ~ p_θ(x_s | x_t), with the model's own variance; the last step returns the mean."""

    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: None) -> tuple[Data, Data, None]:
        denoised = denoise(xt, int(step.t))
        xs = posterior_mean(denoised.x0, xt, step)
        if z is not None:
            xs += denoised.noise(z)
        return xs, denoised.x0, None


@checked
class DDIM(OneStep):
    """DDIM Eq. 12 and 16 (Song et al. 2021): σ = η √β̃. η = 0 is deterministic, η = 1 is ancestral with σ² = β̃.

    A variance that knows of Cov(x_0 | x_t) adds its share, also at η = 0: Analytic-DDIM, Bao et al. 2022, Theorem 1 with
    λ = σ. Of other variances the samples are independent, but for the times of spacing=optimal.
    """

    def __init__(
        self,
        steps: PositiveInt | None = 50,
        eta: ClosedUnit = 0.0,
        spacing: OfChain = "trailing",
        clip: Clip | None = None,
        max_last_noise: PositiveFloat | None = None,
        optimal: Optimal | None = None,
    ) -> None:
        super().__init__(steps, spacing, clip, max_last_noise, optimal)
        self.eta, self.draws_noise = eta, eta > 0

    @property
    def settings(self) -> Settings:
        return {"eta": self.eta, **super().settings}

    def uses(self, variance: ReverseVariance) -> bool:
        return isinstance(variance, OfData) or self.spacing == "optimal"

    def noisy(self, variance: ReverseVariance) -> bool:
        return self.draws_noise or isinstance(variance, OfData)

    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: None) -> tuple[Data, Data, None]:
        denoised = denoise(xt, int(step.t))
        sigma = self.eta * step.beta_tilde.sqrt()
        mean = ddim_mean(step, sigma)
        xs = mean(denoised.x0, xt)
        if z is not None:
            xs += denoised.other_noise(z, mean.x0_coef, sigma)
        return xs, denoised.x0, None


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
