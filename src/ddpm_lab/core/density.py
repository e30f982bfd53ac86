"""Distributions of t by a density of the noise level, σ = √(1−ᾱ_t)/√ᾱ_t, which is the same under every schedule.

They change the objective: a loss counts at each noise level as often as it is drawn. `unbiased` weighs it back to the mean over
t.
"""

from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor, distributions

from ddpm_lab.core.gamma import Interpolated, LearnedSchedule
from ddpm_lab.core.loss import Loss
from ddpm_lab.core.path import NoiseSchedule, marginal
from ddpm_lab.core.timesteps import Drawn, Fixed, Placed
from ddpm_lab.core.types import Incompatible
from ddpm_lab.domains import PositiveFloat, checked

LEAST_MASS = 0.001
"""Of a density, that the noise levels of a schedule must hold."""
RAREST = 1e-3
"""The least T p_t of a density whose losses are weighed back by 1/(T p_t): a mean that hangs on rarer t is rarely near. In
continuous time the least density of places in [0, 1]."""


class Density(Fixed):
    """`of_log_sigma`: of ln σ, with one peak, truncated to the noise levels from t = 1 to T."""

    wider: ClassVar[str]
    """Arguments under which weights are moderate on most schedules."""

    def __init__(self, of_log_sigma: distributions.Distribution, unbiased: bool) -> None:
        self.of_log_sigma, self.unbiased = of_log_sigma, unbiased

    def check(self, schedule: NoiseSchedule, loss: Loss | None) -> None:
        name, noise = type(self).__name__, log_sigma(schedule)
        if isinstance(schedule, LearnedSchedule):
            raise Incompatible(
                f"a density of the noise level does not depend on γ: {name} trains none", "timesteps", "schedule"
            )
        if schedule.reaches_zero:
            raise Incompatible(
                f"{name} gives no weight to t = T where ᾱ_T = 0, and sampling starts there", "timesteps", "schedule"
            )
        if float(mass := self.mass(noise)) < LEAST_MASS:
            ends = f"σ = {float(noise[0].exp()):.3g} to {float(noise[-1].exp()):.3g}"
            raise Incompatible(
                f"{float(mass):.2g} of the density of {name} lie on the schedule, {ends}: allowed is {LEAST_MASS} or more",
                "timesteps",
                "schedule",
            )
        if loss is not None and loss.trains_schedule and not self.unbiased:
            raise Incompatible(
                f"{type(loss).__name__} is a bound, and {name} changes it with unbiased=false: unbiased=true weighs it back",
                "loss",
                "timesteps",
            )
        if self.unbiased:
            self._check_weights(schedule.T * self.probabilities(schedule).min(), "T p_t", "schedule")

    def check_places(self, schedule: NoiseSchedule) -> None:
        if self.unbiased:
            self._check_weights(self.least_density(schedule), "the density of places", "time")

    def _check_weights(self, least: Tensor, share: str, other: str) -> None:
        """Raises Incompatible where `share`, by which losses are divided, gets too small."""
        if float(least) < RAREST:
            raise Incompatible(
                f"unbiased=true divides losses by {share}, which {type(self).__name__} lets fall to {float(least):.2g}: "
                f"allowed is {RAREST} or more, as of a wider density ({self.wider}), or less noise at T",
                "timesteps",
                other,
            )

    def mass(self, noise: Float64[Tensor, " T"]) -> Tensor:
        """Of the density between the ends of ln σ_1..ln σ_T, by which truncation divides; 1 for one t."""
        return self.of_log_sigma.cdf(noise[-1]) - self.of_log_sigma.cdf(noise[0]) if len(noise) > 1 else noise.new_ones(())

    def least_density(self, schedule: NoiseSchedule) -> Tensor:
        """Of places in [0, 1], between which ln σ is linear: each piece has its least at one of its ends, as the density of
        ln σ has one peak."""
        noise = log_sigma(schedule)
        density = self.of_log_sigma.log_prob(noise).exp() / self.mass(noise)
        return (torch.minimum(density[1:], density[:-1]) * noise.diff() * (len(noise) - 1)).min()

    def probabilities(self, schedule: NoiseSchedule) -> Float64[Tensor, " T"]:
        """p_1..p_T: the mass between the middles of neighbouring ln σ_t, of the first and last t that of half a cell."""
        noise = log_sigma(schedule)
        if len(noise) == 1:
            return torch.ones_like(noise)
        edges = torch.cat([noise[:1], (noise[1:] + noise[:-1]) / 2, noise[-1:]])
        return self.of_log_sigma.cdf(edges).diff() / self.mass(noise)

    def __call__(self, u: Float64[Tensor, " B"], schedule: NoiseSchedule, first: int, size: int) -> Drawn:
        p = self.probabilities(schedule)
        row = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=schedule.T - 1)
        return Drawn(row + 1, 1 / (schedule.T * p[row]) if self.unbiased else torch.ones_like(u))

    def placed(self, u: Float64[Tensor, " B"], schedule: NoiseSchedule, first: int, size: int) -> Placed:
        path, noise = Interpolated(schedule), log_sigma(schedule)
        start, mass = self.of_log_sigma.cdf(noise[0]), self.mass(noise)
        level = torch.clamp(self.of_log_sigma.icdf(start + mass * u), noise[0], noise[-1])
        place = path.place(2 * level)  # γ = 2 ln σ
        if not self.unbiased:
            return Placed(place, torch.ones_like(u))
        density = self.of_log_sigma.log_prob(level).exp() / mass * path.at(place).rate / 2  # of the place
        return Placed(place, 1 / density)


def _float64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def log_sigma(schedule: NoiseSchedule) -> Float64[Tensor, " T"]:
    """ln σ_1..ln σ_T, rising; infinite where ᾱ_T = 0."""
    return marginal(schedule.alphas_bar[1:]).sigma.log()


@checked
class LogNormal(Density):
    """EDM (Karras et al. 2022) Table 1: ln σ ~ N(`mean`, `std`²), the paper's P_mean and P_std."""

    wider = "mean=0 std=3"

    def __init__(self, mean: float = -1.2, std: PositiveFloat = 1.2, unbiased: bool = False) -> None:
        super().__init__(distributions.Normal(_float64(mean), _float64(std)), unbiased)


@checked
class Laplace(Density):
    """Hang et al. 2024 ("Improved noise schedule for diffusion training"): log SNR ~ Laplace(`mu`, `b`), the most where noise
    and signal are alike. log SNR = −2 ln σ, so ln σ ~ Laplace(−μ/2, b/2)."""

    wider = "b=3"

    def __init__(self, mu: float = 0.0, b: PositiveFloat = 0.5, unbiased: bool = False) -> None:
        super().__init__(distributions.Laplace(_float64(-mu / 2), _float64(b / 2)), unbiased)
