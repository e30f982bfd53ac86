"""Networks between data and a code of few numbers."""

import math
from itertools import pairwise
from typing import Literal

from torch import nn

from ddpm_lab.domains import Incompatible

Architecture = Literal["mlp", "conv"]


def encoder(architecture: Architecture, shape: tuple[int, ...], outputs: int, width: int) -> nn.Sequential:
    """B × shape -> [B, outputs]. Two hidden layers of `width`, or two convolutions that halve the side. Raises Incompatible for
    convolutions on data that are no images, or whose side is no multiple of 4."""
    if architecture == "mlp":
        return nn.Sequential(nn.Flatten(), *layers(math.prod(shape), width, width, outputs))
    side = _quarter(shape)
    halving = [nn.Conv2d(shape[0], width, 3, 2, 1), nn.SiLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.SiLU()]
    return nn.Sequential(*halving, nn.Flatten(), nn.Linear(2 * width * side**2, outputs))


def decoder(architecture: Architecture, inputs: int, shape: tuple[int, ...], n_outputs: int, width: int) -> nn.Sequential:
    """[B, inputs] -> B × shape with n_outputs times as many channels. The encoder's layers in the other order."""
    wide = (shape[0] * n_outputs, *shape[1:])
    if architecture == "mlp":
        return nn.Sequential(*layers(inputs, width, width, math.prod(wide)), nn.Unflatten(1, wide))
    side = _quarter(shape)
    opened = [nn.Linear(inputs, 2 * width * side**2), nn.SiLU(), nn.Unflatten(1, (2 * width, side, side))]
    doubling = [nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(width, wide[0], 4, 2, 1)]
    return nn.Sequential(*opened, *doubling)


def layers(*sizes: int) -> list[nn.Module]:
    """Affine ones between so many units, SiLU between them."""
    both: list[nn.Module] = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.SiLU())]
    return both[:-1]


def _quarter(shape: tuple[int, ...]) -> int:
    if len(shape) != 3 or shape[-1] % 4:
        data = f"images of {shape[-1]}×{shape[-1]}" if len(shape) == 3 else f"vectors of {shape[0]}"
        raise Incompatible(f"convolutions take images whose side is a multiple of 4, and the data are {data}", "model", "data")
    return shape[-1] // 4
