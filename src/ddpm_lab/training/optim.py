"""The optimiser with its warm-up and gradient clipping, as one choice."""

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ddpm_lab.domains import HalfOpenUnit, Incompatible, NonNegativeFloat, NonNegativeInt, PositiveFloat, checked


class Optimiser(Protocol):
    """What a training step asks for."""

    def configure(self, parameters: list[nn.Parameter]) -> dict[str, Any]:
        """What LightningModule.configure_optimizers returns. Fused, as those heed `found_inf` (see guard)."""
        ...

    def clip_gradients(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clips in place where that was asked for; returns the global norm before."""
        ...


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Over all parameters."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)


@checked
class Adam:
    """Adam (Kingma & Ba 2015), learning rate rising linearly from 0 over `warmup` steps (Ho's code: lr · step / warmup),
    gradients scaled to a global norm of at most `clip` (None: left alone)."""

    def __init__(
        self,
        lr: PositiveFloat = 2e-4,
        betas: tuple[HalfOpenUnit, HalfOpenUnit] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        warmup: NonNegativeInt = 5000,
        clip: PositiveFloat | None = 1.0,
    ) -> None:
        self.arguments: dict[str, Any] = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        self.warmup, self.clip = warmup, clip

    def configure(self, parameters: list[nn.Parameter]) -> dict[str, Any]:
        optimizer = torch.optim.Adam(parameters, **self.arguments, fused=True)
        rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / self.warmup, 1.0) if self.warmup else 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rise, "interval": "step"}}

    def clip_gradients(self, parameters: list[nn.Parameter]) -> Tensor:
        norm = gradient_norm(parameters)
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm, foreach=True)
        return norm


class Stock:
    """An optimiser class of torch with its arguments: no warm-up, no clipping. Raises Incompatible for one without a fused
    form, which could not skip a step that is not finite."""

    def __init__(self, kind: type[torch.optim.Optimizer], **arguments: Any) -> None:
        if "fused" not in inspect.signature(kind).parameters or arguments.get("fused") is False:
            raise Incompatible(
                f"{kind.__name__} without its fused form updates weights from gradients that are not finite: allowed are "
                "Adam, AdamW, SGD and Adagrad of torch.optim",
                "optim",
            )
        self.kind, self.arguments = kind, arguments | {"fused": True}
        self.configure([nn.Parameter(torch.zeros(1))])  # refuses arguments that it does not take

    def configure(self, parameters: list[nn.Parameter]) -> dict[str, Any]:
        return {"optimizer": self.kind(parameters, **self.arguments)}  # type: ignore[arg-type]

    def clip_gradients(self, parameters: list[nn.Parameter]) -> Tensor:
        return gradient_norm(parameters)
