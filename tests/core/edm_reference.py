"""Table 1 and Eq. 7 of Karras et al. 2022 once more, as reference.py has the other papers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def preconditioning(sigma: float, sigma_data: float = 0.5) -> tuple[float, float, float, float]:
    """Karras et al. 2022, Table 1: c_skip, c_out, c_in, c_noise."""
    total = math.sqrt(sigma**2 + sigma_data**2)
    return sigma_data**2 / (sigma**2 + sigma_data**2), sigma * sigma_data / total, 1.0 / total, 0.25 * math.log(sigma)


def c_out(snr: float) -> float:
    return preconditioning(1.0 / math.sqrt(snr))[1]


def edm_lambda(snr: float) -> float:
    """Karras et al. 2022, Table 1: (σ² + σ_data²) / (σ σ_data)²."""
    sigma = 1.0 / math.sqrt(snr)
    return (sigma**2 + 0.25) / (sigma * 0.5) ** 2


def edm_network(denoiser: Callable[[Tensor, Tensor], Tensor], sigma_data: float = 0.5) -> Callable[[Tensor, Tensor], Tensor]:
    """F of (c_in x̃, c_noise) for D(x̃, σ): Karras et al. 2022, Eq. 7 solved for F; σ has the shape of c_noise, with ones."""

    def net(x_in: Tensor, c_noise: Tensor) -> Tensor:
        sigma = torch.exp(4.0 * c_noise).reshape(-1, *[1] * (x_in.ndim - 1))
        total = torch.sqrt(sigma**2 + sigma_data**2)
        x = total * x_in
        return (denoiser(x, sigma) - sigma_data**2 / total**2 * x) * total / (sigma * sigma_data)

    return net
