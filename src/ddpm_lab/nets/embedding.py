"""The time embedding that both networks share."""

import math

import torch
from torch import Tensor
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
