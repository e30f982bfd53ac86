"""The optimiser with its warm-up and gradient clipping, as one choice."""

from typing import Any

import torch
from torch import Tensor, nn


class Adam:
    """Adam (Kingma & Ba 2015), learning rate rising linearly from 0 over `warmup` steps (Ho's code: lr · step / warmup),
    gradients scaled to a global norm of at most `clip` (None: left alone)."""

    def __init__(
        self, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, warmup: int, clip: float | None
    ) -> None:
        if len(betas) != 2:
            raise ValueError(f"optim.betas={list(betas)}: two numbers are needed.")
        self.arguments: dict[str, Any] = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        self.warmup, self.clip = warmup, clip

    def configure(self, parameters: list[nn.Parameter]) -> dict[str, Any]:
        """What LightningModule.configure_optimizers returns. Fused: one launch, and it heeds `found_inf` (see guard)."""
        optimizer = torch.optim.Adam(parameters, **self.arguments, fused=True)
        rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / self.warmup, 1.0) if self.warmup else 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rise, "interval": "step"}}

    def clip_gradients(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clips in place; returns the norm before."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm, foreach=True)
        return norm
