"""Which times of a schedule a sampler visits."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ddpm_lab.core.path import NoiseSchedule, marginal
from ddpm_lab.core.types import Incompatible
from ddpm_lab.domains import PositiveInt, checked

Even = Literal["trailing", "leading", "linspace"]
ByIndex = Literal[Even, "quadratic"]
Spacing = Literal[ByIndex, "log_snr", "karras"]
OfChain = Literal[Spacing, "optimal"]
"""Of samplers that follow the model's reverse chain: optimal is for its bound, and measured of a trained network."""
RHO = 7
"""Karras et al. 2022, section 3."""


class Optimal(NamedTuple):
    """Times with the lowest bound, found by what a network errs by on n training data at every t: see `core.optimal`."""

    times: tuple[int, ...]
    n: int


def times_of(schedule: NoiseSchedule, n: PositiveInt, spacing: Spacing) -> tuple[int, ...]:
    """At most n increasing times in 1..T. Raises Incompatible for n > T, and where a spacing by noise has no ends.

    log_snr (Lu et al. 2022, DPM-Solver) has equal gaps of log(ᾱ/(1 − ᾱ)), karras (Karras et al. 2022, Eq. 5 with ρ = 7) equal
    gaps of σ^(1/ρ), σ = √(1 − ᾱ)/√ᾱ. Both hold t = 1 and T. Each time is rounded to that of the table with the nearest log σ,
    and times that coincide are visited once, so there may be fewer than n.
    """
    if spacing != "log_snr" and spacing != "karras":
        return spaced_times(schedule.T, n, spacing)
    check_number(schedule.T, n)
    if n == 1:
        raise Incompatible(f"spacing={spacing} places both ends, and steps=1 has one: allowed is steps >= 2", "sampler")
    if schedule.reaches_zero:
        raise Incompatible(
            f"spacing={spacing} divides log σ up to t = T, where ᾱ_T = 0 and σ is infinite", "sampler", "schedule"
        )
    ends, share = marginal(schedule.alphas_bar[[1, -1]]).sigma.log(), torch.linspace(0, 1, n, dtype=torch.float64)
    if spacing == "log_snr":
        wanted = torch.lerp(ends[0], ends[1], share)
    else:
        root = torch.exp(ends / RHO)
        wanted = RHO * torch.lerp(root[0], root[1], share).log()
    return tuple(nearest_times(schedule, wanted).unique().tolist())


def nearest_times(schedule: NoiseSchedule, log_sigma: Float64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """The t in 1..T with the nearest log σ."""
    table = marginal(schedule.alphas_bar[1:]).sigma.log()
    return 1 + torch.searchsorted((table[1:] + table[:-1]) / 2, log_sigma)


@checked
def spaced_times(T: PositiveInt, n: PositiveInt, spacing: ByIndex = "trailing") -> tuple[int, ...]:
    """n increasing times in 1..T. Raises Incompatible for n > T.

    trailing ends at T and leading starts at 1, both with gaps of T/n (iDDPM's "ddimN" is leading); linspace holds both ends
    (iDDPM's "N"); quadratic grows as the square and ends at T (DDIM appendix D.2, widened where the squares coincide).
    """
    check_number(T, n)
    match spacing:
        case "trailing":
            return tuple(-(-i * T // n) for i in range(1, n + 1))
        case "leading":
            return tuple(i * T // n + 1 for i in range(n))
        case "linspace":
            return (T,) if n == 1 else tuple(round(i * (T - 1) / (n - 1)) + 1 for i in range(n))
        case "quadratic":
            return tuple(max(i, round(T * (i / n) ** 2)) for i in range(1, n + 1))


def check_number(T: int, n: int) -> None:
    """Raises Incompatible for more steps than T."""
    if n > T:
        raise Incompatible(f"steps={n} exceeds T={T}; allowed is 1 to {T}, or null for all", "sampler", "schedule")
