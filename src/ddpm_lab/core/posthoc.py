"""Averages over training by powers of the step, and of any length afterwards: Karras et al. 2024 ("EDM2", "Analyzing and
Improving the Training Dynamics of Diffusion Models"), section 3 and its appendix.

The average of exponent γ after t steps weighs the network of step τ ≤ t by (γ + 1) τ^γ / t^(γ + 1), the density of its profile.
Its length is σ_rel, the standard deviation of that density as a share of t.
"""

import math
from typing import Annotated, NamedTuple

import torch
from annotated_types import Gt, Le
from jaxtyping import Float64
from torch import Tensor

LONGEST = 0.2886
"""σ_rel of γ = 0, which weighs all steps alike, is 1/√12, a little above."""
Length = Annotated[float, Gt(0), Le(LONGEST)]
"""σ_rel of an average with γ ≥ 0."""


class Profiles(NamedTuple):
    """Profiles of averages: N of them, by the step `t` at which each ended and its exponent `gamma`."""

    t: Float64[Tensor, " N"]
    gamma: Float64[Tensor, " N"]


class Combined(NamedTuple):
    """How N profiles are added up to each of M others."""

    coefficients: Float64[Tensor, "N M"]
    error: Float64[Tensor, " M"]
    """‖sum − profile‖ / ‖profile‖, in L² over the steps."""


def length(gamma: float) -> float:
    """σ_rel of an exponent: EDM2 Eq. 123. The profile of t = 1 is the density of Beta(γ + 1, 1)."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def exponent(sigma_rel: float) -> float:
    """γ of a length in (0, 1/√12]: the largest root of (γ + 2)² (γ + 3) = (γ + 1)/σ_rel², EDM2 Eq. 126 and Algorithm 2.

    With z = γ + 7/3 the cubic is z³ − 3 r² z + q = 0. Its three roots are real, and the largest is 2 r cos(arccos(−q / 2r³)/3).
    """
    inverse = sigma_rel**-2
    r, q = math.sqrt(inverse / 3 + 1 / 9), 4 * inverse / 3 + 2 / 27
    return 2 * r * math.cos(math.acos(-q / (2 * r**3)) / 3) - 7 / 3


def past(t: int, gamma: float) -> float:
    """β_γ(t), the weight of the average of t − 1 steps in that of t ≥ 1: EDM2 Eq. 127. Of the first step it is 0.

    The weights (τ^(γ+1) − (τ−1)^(γ+1)) / t^(γ+1) that follow are those of the profile, if the network of step τ is that of all
    times from τ − 1 to τ.
    """
    return (1 - 1 / t) ** (gamma + 1)


def inner(a: Profiles, b: Profiles) -> Float64[Tensor, "N M"]:
    """∫ p_a p_b dτ of each profile of a with each of b: EDM2 Eq. 151."""
    (t_a, gamma_a), (t_b, gamma_b) = (column[:, None] for column in a), (row[None] for row in b)
    powers = torch.where(t_a < t_b, (t_a / t_b) ** gamma_b, (t_b / t_a) ** gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * powers / torch.maximum(t_a, t_b)


def combined(kept: Profiles, wanted: Profiles) -> Combined:
    """The sum of the kept profiles that is nearest to each wanted one: the least squares of EDM2 Algorithm 3, among sums whose
    coefficients add up to 1.

    So the average of a constant is that constant, which the paper's solution, without that condition, misses by up to its
    error. No two kept profiles may be the same.
    """
    gram, right = inner(kept, kept), inner(kept, wanted)
    ones = torch.ones_like(kept.t)[:, None]
    free, shift = torch.linalg.solve(gram, torch.cat([right, ones], 1)).split([right.shape[1], 1], 1)
    x = free + shift * (1 - free.sum(0)) / shift.sum()
    squared = torch.diagonal(inner(wanted, wanted))
    distance = (squared - 2 * (x * right).sum(0) + (x * (gram @ x)).sum(0)).clamp(min=0)
    return Combined(x, (distance / squared).sqrt())


def rounding(
    coefficients: Float64[Tensor, "N M"], unit: Float64[Tensor, " N"], of_coefficients: float
) -> Float64[Tensor, " M"]:
    """√Σ_i (u_i |x_i| + v)²: what roundings add to M sums Σ_i x_i θ_i, as a share of their weight θ.

    Each θ_i is stored with a relative error of at most `unit` u_i, each coefficient x_i is used with an absolute error v,
    `of_coefficients`. Where all θ_i are about as large as θ, and the roundings are independent with mean 0, this bounds the
    root mean square of the error. Coefficients of opposite signs make it as large as they are, however near the profiles are.
    """
    return (unit[:, None] * coefficients.abs() + of_coefficients).norm(dim=0)
