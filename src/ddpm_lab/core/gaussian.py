"""Gaussians: divergence, densities, and the discretised decoder. Everything in nats, elementwise."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ddpm_lab.core.types import Data


class Normal(NamedTuple):
    """A diagonal Gaussian by mean and log variance, which broadcast with each other."""

    mean: Tensor
    log_var: Tensor


def kl_spread_nats(q: Normal, p: Normal) -> Tensor:
    """The share of KL(q ‖ p) due to the variances; 0 where they are equal."""
    difference = q.log_var - p.log_var
    return 0.5 * (torch.expm1(difference) - difference)


def kl_shift_nats(q: Normal, p: Normal) -> Tensor:
    """DDPM Eq. 8: the share of KL(q ‖ p) due to the means, (μ_q − μ_p)² / 2σ_p². DDPM Eq. 9 and Eq. 10 write the means by ε."""
    return 0.5 * (q.mean - p.mean) ** 2 * torch.exp(-p.log_var)


def kl_nats(q: Normal, p: Normal) -> Tensor:
    """KL(q ‖ p) of two Gaussians, the divergences of DDPM Eq. 5."""
    return kl_spread_nats(q, p) + kl_shift_nats(q, p)


def log_density_nats(x: Tensor, p: Normal) -> Tensor:
    """log N(x; mean, var), the decoder of data without grey levels."""
    return -0.5 * (math.log(2 * math.pi) + p.log_var + (x - p.mean) ** 2 * torch.exp(-p.log_var))


def normal_cdf(z: Tensor) -> Tensor:
    """Φ(z) by the tanh form that Ho et al. and Nichol & Dhariwal use; off by at most 3e-4, but itself a distribution."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def log_bin_nats(x: Data, p: Normal, levels: int) -> Tensor:
    """DDPM Eq. 13: log probability of the grey level x under p, bins of width 2/(levels−1), the outer two open-ended.

    x lies on the grid of `levels` values in [−1, 1]. Probabilities are floored at 1e-12, where the gradient is 0.
    """
    half = 1 / (levels - 1)
    inv_std = torch.exp(-0.5 * p.log_var)
    upper = torch.where(x > 1 - half / 2, 1.0, normal_cdf((x - p.mean + half) * inv_std))
    lower = torch.where(x < -1 + half / 2, 0.0, normal_cdf((x - p.mean - half) * inv_std))
    return (upper - lower).clamp(min=1e-12).log()
