"""The optimiser with its warm-up, decay and gradient clipping, as one choice."""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ddpm_lab.core.gamma import Monotone
from ddpm_lab.core.uncertainty import Uncertainty
from ddpm_lab.domains import (
    Given,
    HalfOpenUnit,
    Incompatible,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    checked,
)
from ddpm_lab.training.decay import Decay, Rate


def trained(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [p for p in net.parameters() if p.requires_grad]


def grouped(net: nn.Module, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """`parameters` of a network in the groups of an optimiser: those of a learned γ and of a learned uncertainty by themselves,
    without weight decay, which would pull γ to a shape that means nothing. One group where there are none of them."""
    learned = [module for module in net.modules() if isinstance(module, Monotone | Uncertainty)]
    beside = {id(p) for module in learned for p in module.parameters()}
    groups = [{"params": [p for p in parameters if id(p) not in beside]}]
    others = [p for p in parameters if id(p) in beside]
    return [*groups, {"params": others, "weight_decay": 0.0}] if others else groups


class Optimiser:
    """An optimiser class of torch with its arguments, in its fused form, as those heed `found_inf` (see guard)."""

    needs: ClassVar[str] = ""
    """An attribute without which a network cannot be trained so."""
    rate: Rate | None = None
    """The learning rate over the run; None has no scheduler."""
    clip: float | None = None
    """The global norm to which gradients are scaled where theirs is larger; None leaves them alone."""

    def __init__(self, kind: type[torch.optim.Optimizer], **arguments: Any) -> None:
        self.kind, self.arguments = kind, arguments | {"fused": True}

    def check(self, net: nn.Module) -> None:
        """Raises Incompatible for a network that cannot be trained so."""

    def make(self, net: nn.Module) -> torch.optim.Optimizer:
        """Of the parameters that are not frozen."""
        return self.kind(grouped(net, trained(net)), **self.arguments)  # type: ignore[arg-type]

    def configure(self, net: nn.Module) -> dict[str, Any]:
        """What LightningModule.configure_optimizers returns."""
        optimizer, rate = self.make(net), self.rate
        if rate is None:
            return {"optimizer": optimizer}
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step))  # of an object it would save settings
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def clip_gradients(self, parameters: list[nn.Parameter]) -> Tensor:
        """Clips in place where that was asked for; returns the global norm before."""
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm, foreach=True)
        return norm


@checked
class Adam(Optimiser):
    """Adam (Kingma & Ba 2015) with warm-up, decay of the learning rate and clipping. `steps`: of the whole run."""

    def __init__(
        self,
        lr: PositiveFloat = 2e-4,
        betas: tuple[HalfOpenUnit, HalfOpenUnit] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        warmup: NonNegativeInt = 5000,
        clip: PositiveFloat | None = 1.0,
        decay: Decay = "none",
        decay_final: HalfOpenUnit | None = None,
        decay_start: PositiveInt | None = None,
        *,
        steps: Given[int | None] = None,
    ) -> None:
        super().__init__(torch.optim.Adam, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
        self.rate, self.clip = Rate(warmup, decay, decay_final, decay_start, steps), clip


@checked
class AdamW(Optimiser):
    """Adam whose weight decay is no part of the gradient (Loshchilov & Hutter 2019): each update also takes the share
    lr · weight_decay of every weight. `steps`: of the whole run."""

    def __init__(
        self,
        lr: PositiveFloat = 2e-4,
        betas: tuple[HalfOpenUnit, HalfOpenUnit] = (0.9, 0.999),
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.01,
        warmup: NonNegativeInt = 5000,
        clip: PositiveFloat | None = 1.0,
        decay: Decay = "none",
        decay_final: HalfOpenUnit | None = None,
        decay_start: PositiveInt | None = None,
        *,
        steps: Given[int | None] = None,
    ) -> None:
        super().__init__(torch.optim.AdamW, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay)
        self.rate, self.clip = Rate(warmup, decay, decay_final, decay_start, steps), clip


class Stock(Optimiser):
    """Another class of torch: no warm-up, no decay, no clipping. Raises Incompatible for one without a fused form, which could
    not skip a step that is not finite."""

    def __init__(self, kind: type[torch.optim.Optimizer], **arguments: Any) -> None:
        if "fused" not in inspect.signature(kind).parameters or arguments.get("fused") is False:
            raise Incompatible(
                f"{kind.__name__} without its fused form updates weights from gradients that are not finite: allowed are "
                "Adam, AdamW, SGD and Adagrad of torch.optim",
                "optim",
            )
        super().__init__(kind, **arguments)
        self.make(nn.ParameterList([torch.zeros(1)]))  # refuses arguments that it does not take
