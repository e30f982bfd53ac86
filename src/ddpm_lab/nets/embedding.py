"""The embedding of time and class that both networks share."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal(t: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """DDPM Appendix B, after Vaswani et al. 2017 §3.5: sin(ω_i t) ‖ cos(ω_i t), [B] -> [B, width].

    The ω_i fall geometrically from 1 to 1/10000, both included (the exponent is i / (width/2 - 1)). An odd `width`
    ends in a zero, as in the code of Ho et al. Phases are never computed in less than float32: bfloat16 cannot
    tell t = 999 from t = 1000.
    """
    precision = torch.promote_types(dtype, torch.float32)
    log_omega = torch.linspace(0, -math.log(10_000), width // 2, dtype=torch.float64, device=t.device)
    phase = t[:, None].to(precision) * log_omega.exp().to(precision)
    return F.pad(torch.cat([phase.sin(), phase.cos()], dim=1), (0, width % 2)).to(dtype)


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
