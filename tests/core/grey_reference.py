"""The decoder of Ho et al. 2020 once more, as reference.py has the rest."""

import math

import torch
from torch import Tensor


def tanh_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor, levels: int = 256) -> Tensor:
    """Eq. 13 with Ho's tanh CDF and 1e-12 floor: one bin per grey level, the outer two open; nats per pixel."""
    values = []
    for xi, mi, si in zip(x.flatten(), mean.flatten(), log_std.flatten(), strict=True):
        half = 1.0 / (levels - 1)
        level = round((float(xi) + 1.0) / 2.0 * (levels - 1))
        upper = tanh_cdf((xi - mi + half) / torch.exp(si))
        lower = tanh_cdf((xi - mi - half) / torch.exp(si))
        if level == 0:
            mass = upper
        elif level == levels - 1:
            mass = 1.0 - lower
        else:
            mass = upper - lower
        values.append(torch.log(torch.clamp(mass, min=1e-12)))
    return torch.stack(values).reshape(x.shape)
