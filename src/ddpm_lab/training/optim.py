"""The optimiser with its warm-up and gradient clipping, as one choice."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.domains import HalfOpenUnit, Incompatible, NonNegativeFloat, NonNegativeInt, PositiveFloat, checked


class Optimiser:
    """An optimiser class of torch with its arguments, in its fused form, as those heed `found_inf` (see guard)."""

    warmup: int | None = None
    """Steps in which the learning rate rises linearly from 0 (Ho's code: lr · step / warmup); None has no scheduler."""
    clip: float | None = None
    """The global norm to which gradients are scaled where theirs is larger; None leaves them alone."""

    def __init__(self, kind: type[torch.optim.Optimizer], **arguments: Any) -> None:
        self.kind, self.arguments = kind, arguments | {"fused": True}

    def configure(self, parameters: list[nn.Parameter]) -> dict[str, Any]:
        """What LightningModule.configure_optimizers returns."""
        optimizer = self.kind(parameters, **self.arguments)  # type: ignore[arg-type]
        if self.warmup is None:
            return {"optimizer": optimizer}
        rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / self.warmup, 1.0) if self.warmup else 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rise, "interval": "step"}}

    def clip_gradients(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clips in place where that was asked for; returns the global norm before."""
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm, foreach=True)
        return norm


@checked
class Adam(Optimiser):
    """Adam (Kingma & Ba 2015) with warm-up and clipping."""

    def __init__(
        self,
        lr: PositiveFloat = 2e-4,
        betas: tuple[HalfOpenUnit, HalfOpenUnit] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        warmup: NonNegativeInt = 5000,
        clip: PositiveFloat | None = 1.0,
    ) -> None:
        super().__init__(torch.optim.Adam, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
        self.warmup, self.clip = warmup, clip


class Stock(Optimiser):
    """Another class of torch: no warm-up, no clipping. Raises Incompatible for one without a fused form, which could not skip a
    step that is not finite."""

    def __init__(self, kind: type[torch.optim.Optimizer], **arguments: Any) -> None:
        if "fused" not in inspect.signature(kind).parameters or arguments.get("fused") is False:
            raise Incompatible(
                f"{kind.__name__} without its fused form updates weights from gradients that are not finite: allowed are "
                "Adam, AdamW, SGD and Adagrad of torch.optim",
                "optim",
            )
        super().__init__(kind, **arguments)
        self.configure([nn.Parameter(torch.zeros(1))])  # refuses arguments that it does not take
