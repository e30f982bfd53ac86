"""The embedding of time and class that both networks share."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TimeOrder = Literal["sin_cos", "cos_sin"]


class Sinusoids(NamedTuple):
    """DDPM Appendix B, after Vaswani et al. 2017 §3.5: sin(ω_i τ) ‖ cos(ω_i τ) of τ = scale (t + offset), as `width` features.

    The ω_i fall geometrically from 1, with the exponent i / (width/2 − shift) of 1/10000: by a shift of 1 the last is 1/10000,
    as in the code of Ho et al.; by 0 it would be the next, as in Vaswani's. An odd `width` ends in a zero, as in Ho's.
    """

    width: int
    scale: float = 1.0
    offset: float = 0.0
    order: TimeOrder = "sin_cos"
    shift: float = 1.0

    def of(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """[B] -> [B, width]. Phases are never computed in less than float32: bfloat16 cannot tell t = 999 from t = 1000."""
        precision = torch.promote_types(dtype, torch.float32)
        omega = self.frequencies(t.device).to(precision)
        phase = ((t.to(precision) + self.offset) * self.scale)[:, None] * omega
        parts = [phase.sin(), phase.cos()][:: 1 if self.order == "sin_cos" else -1]
        return F.pad(torch.cat(parts, dim=1), (0, self.width % 2)).to(dtype)

    def frequencies(self, device: torch.device | None = None) -> Tensor:
        """The ω_i, [width // 2] in float64."""
        half = self.width // 2
        last = (half - 1) / (half - self.shift) if half > 1 else 1.0
        return torch.linspace(0, -math.log(10_000) * last, half, dtype=torch.float64, device=device).exp()


def class_table(classes: int | None, width: int) -> nn.Embedding | None:
    """A row for each class and, the last, for none. Made after all other layers it leaves their initial weights alone."""
    return None if classes is None else nn.Embedding(classes + 1, width)


def embedded(time: nn.Sequential, table: nn.Embedding | None, features: Tensor, labels: Tensor | None) -> Tensor:
    """[B, inputs], [B] -> [B, width]: the layers of the time embedding, with the row of the class added before the last, as in
    Dhariwal & Nichol 2021. Raises ValueError for labels that are missing, or that the network does not take."""
    if table is None and labels is None:
        return time(features)
    if table is None or labels is None:
        taken = "no labels: it was made without classes" if table is None else "labels, of which the last stands for none"
        raise ValueError(f"labels={'None' if labels is None else tuple(labels.shape)}: this network takes {taken}")
    return time[-1](time[:-1](features) + table(labels))
