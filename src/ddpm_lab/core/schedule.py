"""Noise schedules: functions that return a `NoiseSchedule`, the table ᾱ_0..ᾱ_T."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.domains import ClosedUnit, NonNegativeFloat, OpenUnit, PositiveFloat, Size, checked


def from_betas(betas: Float64[Tensor, " T"], clipped: int = 0) -> NoiseSchedule:
    """ᾱ_t = Π (1 − β_i): DDPM, above Eq. 4. Raises ValueError for no β, one outside (0, 1], or more than float64 can hold."""
    if len(betas) < 1 or betas.dtype != torch.float64:
        raise ValueError(f"betas: {len(betas)} of {betas.dtype}; allowed is float64, one or more")
    wrong = ((betas <= 0) | (betas > 1) | betas.isnan()).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(f"β_{i + 1} = {betas[i]:.4g}: β must lie in (0, 1]; change T or the range of β")
    if (lost := (1 - betas == 1).nonzero()).numel():
        i = int(lost[0])
        raise ValueError(f"β_{i + 1} = {betas[i]:.4g}: below 1.1e-16, 1 − β is 1 in float64; use a larger β")
    alphas_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])
    if (alphas_bar[:-1] == 0).any():
        t = int((alphas_bar == 0).nonzero()[0])
        raise ValueError(f"T={len(betas)}: ᾱ_t vanishes already at t = {t}; use a smaller T or smaller β")
    return NoiseSchedule(alphas_bar, clipped)


def _spaced(start: float, end: float, n: int) -> Float64[Tensor, " n"]:
    return torch.linspace(start, end, n, dtype=torch.float64)


@checked
def linear(T: Size = 1000, beta_start: OpenUnit = 1e-4, beta_end: OpenUnit = 0.02, rescale: bool = False) -> NoiseSchedule:
    """β evenly spaced, Ho et al. 2020 section 4; `rescale` multiplies both ends by 1000/T as iDDPM's code does."""
    factor = 1000 / T if rescale else 1.0
    largest = 1000 * (max(beta_start, beta_end) if T > 1 else beta_start)  # with T = 1 the only β is the first
    if rescale and largest / T > 1:
        raise ValueError(
            f"T={T} rescale=true: β would rise to {largest / T:.4g}, and no β may exceed 1; allowed is "
            f"T >= {math.ceil(largest)}, or rescale=false"
        )
    return from_betas(_spaced(beta_start * factor, beta_end * factor, T))


@checked
def quadratic(T: Size = 1000, beta_start: OpenUnit = 1e-4, beta_end: OpenUnit = 0.02) -> NoiseSchedule:
    """√β evenly spaced: "quad" in Ho's code, "linear" in latent diffusion, "scaled_linear" in diffusers."""
    return from_betas(_spaced(beta_start**0.5, beta_end**0.5, T) ** 2)


@checked
def constant(T: Size = 1000, beta: OpenUnit = 0.02) -> NoiseSchedule:
    """β the same at every t: "const" in Ho's code."""
    return from_betas(_spaced(beta, beta, T))


@checked
def warmup(T: Size = 1000, beta_start: OpenUnit = 1e-4, beta_end: OpenUnit = 0.02, fraction: ClosedUnit = 0.1) -> NoiseSchedule:
    """β rises evenly over the first ⌊fraction · T⌋ steps and then stays: "warmup10" and "warmup50" in Ho's code."""
    rising = int(T * fraction)
    return from_betas(torch.cat([_spaced(beta_start, beta_end, rising), _spaced(beta_end, beta_end, T - rising)]))


@checked
def jsd(T: Size = 1000) -> NoiseSchedule:
    """β_t = 1 / (T − t + 1), Sohl-Dickstein et al. 2015 section 2.4.1: ᾱ_t = 1 − t/T, so that nothing is left at T."""
    return from_betas(1 / _spaced(float(T), 1.0, T))


@checked
def sigmoid_beta(
    T: Size = 1000, beta_start: OpenUnit = 1e-4, beta_end: OpenUnit = 0.02, width: PositiveFloat = 6.0
) -> NoiseSchedule:
    """β follows a sigmoid over [−width, width]: "sigmoid" in diffusers and in the code of DDIM."""
    return from_betas(torch.sigmoid(_spaced(-width, width, T)) * (beta_end - beta_start) + beta_start)


@checked
def sigmoid_alpha_bar(
    T: Size = 1000, start: float = -3.0, end: float = 3.0, tau: PositiveFloat = 1.0, max_beta: OpenUnit = 0.999
) -> NoiseSchedule:
    """ᾱ follows a falling sigmoid over [start, end] of temperature τ, scaled to fall from 1 to 0: Jabri et al. 2022."""
    if start >= end:
        raise ValueError(f"start={start} end={end}: ᾱ would not fall; allowed is start < end")
    f = torch.sigmoid(_spaced(end, start, T + 1) / tau) - torch.sigmoid(torch.tensor(start / tau, dtype=torch.float64))
    return _capped(f, max_beta)


@checked
def cosine(T: Size = 1000, offset: NonNegativeFloat = 0.008, max_beta: OpenUnit = 0.999) -> NoiseSchedule:
    """iDDPM Eq. 17, `offset` being the paper's s. β is capped at `max_beta` and ᾱ follows the capped β, so ᾱ_T > 0."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    return _capped(torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2, max_beta)


@dataclass(frozen=True, eq=False)
class ShiftedSchedule(NoiseSchedule):
    """A table for images of one side."""

    size: int = field(kw_only=True)
    """Side of the images, in pixels, for the schedule card."""


@checked
def shifted_cosine(
    T: Size = 1000,
    size: Size = 64,
    reference: Size = 32,
    reference_low_noise: Size | None = None,
    log_snr_min: float = -15.0,
    log_snr_max: float = 15.0,
) -> ShiftedSchedule:
    """log ᾱ/(1−ᾱ) = −2 log tan(a u + b) + 2 log(d_ref/d) at u = t/T, for images of `size` d and a `reference` d_ref: simple
    diffusion, Hoogeboom et al. 2023. a and b let the cosine run from `log_snr_max` to `log_snr_min` before it is shifted. With
    `reference_low_noise` the shift goes evenly in u from that of this size at u = 0 to that of `reference` at u = 1."""
    if not -30 <= log_snr_min < log_snr_max <= 30:  # beyond, float64 cannot tell ᾱ from 1
        raise ValueError(
            f"log_snr_min={log_snr_min} log_snr_max={log_snr_max}: allowed is -30 <= log_snr_min < log_snr_max <= 30"
        )
    low_noise = reference if reference_low_noise is None else reference_low_noise
    if low_noise < reference:
        raise ValueError(f"reference_low_noise={low_noise}: allowed is an integer >= reference={reference}, or null")
    u = torch.arange(1, T + 1, dtype=torch.float64) / T
    first, last = (math.atan(math.exp(-log_snr / 2)) for log_snr in (log_snr_max, log_snr_min))
    shift = 2 * torch.lerp(torch.full_like(u, math.log(low_noise / size)), torch.full_like(u, math.log(reference / size)), u)
    table = from_log_snr(shift - 2 * torch.tan(first + (last - first) * u).log())
    return ShiftedSchedule(table.alphas_bar, size=size)


def from_log_snr(log_snr: Float64[Tensor, " T"]) -> NoiseSchedule:
    """ᾱ_t = sigmoid(log SNR_t) for t = 1..T, as SNR = ᾱ/(1−ᾱ)."""
    return NoiseSchedule(torch.cat([torch.ones(1, dtype=torch.float64), torch.sigmoid(log_snr)]))


def _capped(f: Float64[Tensor, " times"], max_beta: float) -> NoiseSchedule:
    """β_t = 1 − f_t / f_{t−1}, no more than `max_beta`."""
    betas = 1 - f[1:] / f[:-1]
    return from_betas(betas.clamp(max=max_beta), clipped=int((betas > max_beta).sum()))


Base = Literal["linear", "quadratic", "sigmoid_beta"]
BASES = {"linear": linear, "quadratic": quadratic, "sigmoid_beta": sigmoid_beta}


@checked
def zero_terminal_snr(
    T: Annotated[int, Ge(2), Le(10**6)] = 1000, base: Base = "linear", beta_start: OpenUnit = 1e-4, beta_end: OpenUnit = 0.02
) -> NoiseSchedule:
    """Lin et al. 2024 Algorithm 1: √ᾱ of the base schedule is shifted and scaled so that ᾱ_T = 0 and ᾱ_1 stays."""
    scale = BASES[base](T, beta_start, beta_end).alphas_bar[1:].sqrt()
    first, last = scale[0], scale[-1]
    scale = (scale - last) * first / (first - last)
    return NoiseSchedule(torch.cat([torch.ones(1, dtype=torch.float64), scale**2]))
