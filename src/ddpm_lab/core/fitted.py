"""Noise schedules that follow from what was measured: of the data, or of a trained network.

The measured numbers are arguments, so a schedule is a pure function of them. Both measures give the path from data to noise a
length, and a schedule moves along it by equal lengths.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, MinLen
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.domains import PositiveFloat, PositiveInt, Size, Text, checked

GROUPS = 64
"""Variances, or distances, that are kept at most."""
CELLS = 10000
"""Of the quadrature along γ."""
COARSE = 20
"""Of its places, every so many are enough for the weights of axes."""
DIGITS = 6
"""Of a measured number that is kept: fewer than differ by the order of sums."""

Gamma = Float64[Tensor, " places"]
"""γ = log (1−ᾱ)/ᾱ at increasing places."""
LogSNR = Annotated[float, Ge(-30), Le(30)]


@dataclass(frozen=True, eq=False)
class FittedSchedule(NoiseSchedule):
    """A table that followed from measured numbers."""

    fit: str = field(kw_only=True)
    """What it was fitted to, for the schedule card."""


@checked
def tangent(
    T: Size = 1000,
    log_snr_min: LogSNR = -10.0,
    n: Annotated[int, Ge(2)] = 10000,
    floor: PositiveFloat | None = None,
    variances: Annotated[list[PositiveFloat], MinLen(1)] | None = None,
    measured_n: PositiveInt | None = None,
) -> FittedSchedule:
    """The tangent law (Sun, Poor & Zhang 2026) for Gaussian data with `variances` λ_k along their principal axes.

    One step of DDIM with the exact network takes the standard deviation along an axis from √(ᾱ_t λ + 1−ᾱ_t) to that at s, but
    for a factor cos(θ_t − θ_s), tan θ_t = √(1−ᾱ_t)/√(ᾱ_t λ). So samples have variances λ_k Π_t cos²(θ_kt − θ_ks), but for the
    prior at T. For one λ they are closest to the data where the θ_t are evenly spaced. For several their divergence in nats is
    Σ_k (Σ_t (θ_kt − θ_ks)²)²/4 to leading order, in either direction, and this schedule minimises it for many steps.

    From t = 0 to T, where log ᾱ_T/(1−ᾱ_T) = `log_snr_min`. `variances`: measured on the first `n` training data before
    training, those below `floor` raised to it. `measured_n`: on how many. Raises ValueError where there are no variances.
    """
    if variances is None:
        raise ValueError("variances=null: they are measured before training, on the data; allowed here is a list of numbers")
    spectrum = torch.tensor(sorted(variances), dtype=torch.float64)
    # the path before the first place is shorter than what float64 tells from 0
    gamma = torch.linspace(float(spectrum[0].log()) - 36, -log_snr_min, 2 * CELLS + 1, dtype=torch.float64)
    rate = angle_rate(gamma, spectrum)
    speed = (rate**2 @ axis_weights(gamma[::COARSE], rate[::COARSE])).sqrt()
    lengths = 2 * speed[0] + _integral(gamma, speed)
    whole = f"{len(spectrum)} variances from {spectrum[0]:.3g} to {spectrum[-1]:.3g}"
    source = "given" if measured_n is None else f"of {measured_n} training data"
    given = f"log_snr_min={log_snr_min} T={T} variances={_ends(spectrum.tolist())}"
    advice = "a lower log_snr_min, a smaller T, or variances that differ by less"
    table = _at_even_lengths(gamma[::2], lengths, speed[::2], T)
    return _table(table, f"tangent law for {whole}, {source}", given, advice)


def angle_rate(gamma: Gamma, variances: Float64[Tensor, " K"]) -> Float64[Tensor, "places K"]:
    """dθ/dγ of tan θ = e^(γ/2)/√λ: √λ s/(2 (λ + s²)), s = e^(γ/2)."""
    s = torch.exp(gamma / 2)[:, None]
    return variances.sqrt() * s / (2 * (variances + s**2))


def axis_weights(gamma: Gamma, rate: Float64[Tensor, "places K"]) -> Float64[Tensor, " K"]:
    """w_k of the path that minimises J = Σ_k S_k², S_k = ∫ (dθ_k/du)² du over u = t/T: T⁻² J/4 is the divergence of `tangent`.

    J is convex in du/dγ, and its variation is 2 Σ_k S_k δS_k. So the minimum moves evenly in the length ∫ √(Σ_k w_k (dθ_k)²)
    with w_k = S_k. S_k falls as 1/√w_k where no other axis turns: w ← (w S²)^(1/3) then arrives at once."""
    weights = torch.ones(rate.shape[1], dtype=torch.float64)
    square = rate**2
    for _ in range(100):
        S = torch.trapezoid(square / (square @ weights).sqrt()[:, None], gamma, dim=0)
        before, weights = weights, (weights * S**2) ** (1 / 3)
        weights = weights / weights.mean()
        if torch.allclose(weights, before, rtol=1e-10, atol=0):
            break
    return weights


def _integral(x: Tensor, y: Tensor) -> Tensor:
    """∫ y dx from the first place to every second, by Simpson's rule; places are evenly spaced."""
    cells = (x[2::2] - x[:-2:2]) * (y[:-2:2] + 4 * y[1::2] + y[2::2]) / 6
    return torch.cat([torch.zeros_like(cells[:1]), cells.cumsum(0)])


def _at_even_lengths(gamma: Gamma, lengths: Tensor, speed: Tensor, T: int) -> Float64[Tensor, " T"]:
    """γ after 1..T of T equal parts of the whole length, `speed` being d length/dγ: cubic Hermite interpolation."""
    target = lengths[-1] * torch.arange(1, T + 1, dtype=torch.float64) / T
    right = torch.searchsorted(lengths, target).clamp(1, len(lengths) - 1)
    left = right - 1
    cell = lengths[right] - lengths[left]
    x = (target - lengths[left]) / cell
    bend = (1 - x) * cell / speed[left] - x * cell / speed[right]
    return torch.lerp(gamma[left], gamma[right], x**2 * (3 - 2 * x)) + x * (1 - x) * bend


def _ends(numbers: list[float]) -> str:
    return str(numbers if len(numbers) < 3 else [numbers[0], ..., numbers[-1]]).replace("Ellipsis", "…")


def _table(gamma: Gamma, fit: str, given: str, advice: str) -> FittedSchedule:
    """Of γ_1..γ_T. Raises ValueError, by what was `given`, where float64 cannot tell ᾱ of neighbours apart."""
    alphas_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.sigmoid(-gamma)])
    if not bool((alphas_bar.diff() < 0).all()):
        raise ValueError(f"{given}: float64 cannot tell ᾱ of some t and t + 1 apart; allowed is {advice}")
    return FittedSchedule(alphas_bar, fit=fit)


def principal_variances(x: Float64[Tensor, "N D"], floor: float) -> list[float]:
    """Eigenvalues of the covariance of N data, falling, none below `floor`. Of more than `GROUPS` the geometric means of so
    many groups of neighbours, equally large up to one. Rounded to `DIGITS`. Raises ValueError for fewer than two data, and
    where one is zero."""
    if len(x) < 2:
        raise ValueError(f"n={len(x)}: a covariance needs two data or more")
    centred = (x - x.mean(0)) / math.sqrt(len(x) - 1)
    wide = x.shape[1] > len(x)  # the same eigenvalues, but for zeros
    found = torch.linalg.eigvalsh(centred @ centred.T if wide else centred.T @ centred).flip(0)
    found = torch.cat([found, found.new_zeros(x.shape[1] - len(found))]).clamp(min=floor)
    if found[-1] <= 1e-12 * found[0]:
        raise ValueError("floor=null: along some direction these data do not vary; allowed is floor > 0, the least variance")
    groups = found.log().tensor_split(min(GROUPS, len(found)))
    return [rounded(float(group.mean().exp())) for group in groups]


def rounded(number: float) -> float:
    """To `DIGITS` significant digits."""
    return float(f"{number:.{DIGITS}g}")


Quantity = Literal["x0", "eps"]
"""What of a network's output is compared between times: x̂_0 or ε̂."""


@checked
def constant_rate(
    T: Size = 1000,
    pilot: Text | None = None,
    quantity: Quantity = "x0",
    n: PositiveInt = 256,
    log_snr: Annotated[list[float], MinLen(2)] | None = None,
    distances: Annotated[list[PositiveFloat], MinLen(1)] | None = None,
    measured_n: PositiveInt | None = None,
) -> FittedSchedule:
    """Constant rate scheduling (Okada et al. 2026): the discrepancy v between neighbours on the path is the same at every t,
    dα/dt ∝ 1/v(α).

    Of the paper's three kinds of discrepancy those of a network: how far x̂_0 or ε̂ (`quantity`) moves as x_t of one x_0 and
    one ε goes from each of `log_snr` = log ᾱ/(1−ᾱ) to the next, `distances`, root mean squares. They add up along the path, and
    each of its T steps gets the same share; between two of `log_snr` the rate per log SNR is even. u = t/T is 0 at the first
    `log_snr` and 1 at the last. `distances` are measured before training with the network of the run `pilot`, on the first `n`
    training data; `measured_n`: on how many. Raises ValueError where there are none, and where lists do not fit."""
    if log_snr is None or distances is None:
        raise ValueError("distances: allowed is a list, with one of log_snr; both null are measured before training, by pilot")
    knots = -torch.tensor(log_snr, dtype=torch.float64)
    if len(log_snr) != len(distances) + 1 or not bool((knots.diff() > 0).all()) or float(knots.abs().max()) > 36:
        raise ValueError(
            f"log_snr={log_snr}: allowed are numbers that fall, within -36 to 36, one more than the {len(distances)} distances"
        )
    lengths = torch.cat([torch.zeros(1, dtype=torch.float64), torch.tensor(distances, dtype=torch.float64).cumsum(0)])
    target = lengths[-1] * torch.arange(1, T + 1, dtype=torch.float64) / T
    right = torch.searchsorted(lengths, target).clamp(1, len(distances))
    share = (target - lengths[right - 1]) / (lengths[right] - lengths[right - 1])
    compared = f" of {'x̂_0' if quantity == 'x0' else 'ε̂'}, of {measured_n} data by the network of {pilot}"
    source = ", given" if measured_n is None else compared
    gamma = torch.lerp(knots[right - 1], knots[right], share)
    fit = f"constant rate by {len(distances)} distances{source}"
    return _table(gamma, fit, f"log_snr={_ends(log_snr)} T={T}", "a smaller T, or log_snr that starts lower and falls further")
