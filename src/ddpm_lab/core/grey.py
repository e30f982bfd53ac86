"""Grey levels 0..levels−1 and the grid in [−1, 1] on which the decoder's bins stand (DDPM section 3.3). Data without
grey levels (`levels` None) pass through unchanged."""

import torch
from torch import Tensor


def scale(raw: Tensor, levels: int | None) -> Tensor:
    """Grey levels 0..levels−1 to the grid in [−1, 1], float32."""
    return raw if levels is None else raw.float().mul_(2 / (levels - 1)).sub_(1)


def nearest_level(x: Tensor, levels: int) -> Tensor:
    """The nearest grey level 0..levels−1 of values that are clipped to [−1, 1], as whole float64 numbers."""
    return ((x.clamp(-1, 1).double() + 1) * ((levels - 1) / 2)).round()


def quantise(x: Tensor, levels: int | None) -> Tensor:
    """The nearest point of the grid in [−1, 1]. Rounds, and does not truncate."""
    return x if levels is None else scale(nearest_level(x, levels), levels).to(x.dtype)


def to_levels(x: Tensor, levels: int | None) -> Tensor:
    """The nearest grey level as an integer, uint8 up to 256 levels."""
    return x if levels is None else nearest_level(x, levels).to(torch.uint8 if levels <= 256 else torch.int32)


def to_uint8(x: Tensor) -> Tensor:
    """[−1, 1] to 0..255, rounded, for pictures and for networks that take bytes."""
    return to_levels(x, 256)
