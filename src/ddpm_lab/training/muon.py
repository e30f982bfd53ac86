"""Muon for the matrices inside a network, AdamW for all else, as one optimiser of torch."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

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
from ddpm_lab.models.networks import Accompanied
from ddpm_lab.training.decay import Decay, Rate
from ddpm_lab.training.optim import Optimiser, grouped, trained


def hidden_kernels(net: nn.Module) -> list[nn.Parameter]:
    """The weights of linear layers and convolutions between the first and the last layer of a network, which it names as
    `ends`: the matrices that Muon is made for (Jordan et al. 2024). Raises Incompatible for a network that has none."""
    ends = getattr(net, "ends", ())
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d) and layer not in ends]
    kernels = dict.fromkeys(layer.weight for layer in layers if layer.weight.requires_grad and _is_in_rows(layer.weight))
    if not ends or not kernels:
        name = type(net.network if isinstance(net, Accompanied) else net).__name__
        raise Incompatible(f"{name} has no layer between a first and a last, as muon needs", "optim", "net")
    return cast(list[nn.Parameter], list(kernels))


def _is_in_rows(kernel: Tensor) -> bool:
    """Whether all weights of an output lie together in memory."""
    return kernel.is_contiguous() or (kernel.dim() == 4 and kernel.is_contiguous(memory_format=torch.channels_last))


def as_matrix(kernel: Tensor, channels_last: bool) -> Tensor:
    """[outputs, inputs] or [outputs, inputs, H, W] -> [outputs, the rest], in the order of memory, so that it is a view. Muon
    treats all orders of columns alike."""
    return (kernel.movedim(1, -1) if channels_last else kernel).flatten(1)


class MuonWithAdamW(torch.optim.Optimizer):
    """torch.optim.Muon of `kernels`, as matrices, and the fused torch.optim.AdamW of `others`, in groups.

    Where `found_inf` is 1 a step leaves weights and momenta alone, as it does in fused optimisers: Muon's are put back by
    `torch.where`, so that no device waits for the host.
    """

    def __init__(
        self, kernels: Sequence[nn.Parameter], others: list[dict[str, Any]], muon: dict[str, Any], adamw: dict[str, Any]
    ) -> None:
        self.kernels = [(kernel, not kernel.is_contiguous()) for kernel in kernels]
        views = [nn.Parameter(as_matrix(kernel.detach(), channels_last)) for kernel, channels_last in self.kernels]
        self.muon, self.adamw = torch.optim.Muon(views, **muon), torch.optim.AdamW(others, **adamw, fused=True)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Both work on the groups and states of this one, which schedulers change and checkpoints hold."""
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self.muon.state = self.adamw.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf: Tensor | None = getattr(self, "found_inf", None)  # from the guard, which the closure calls
        self._step_muon(found_inf)
        self.adamw.found_inf, self.adamw.grad_scale = found_inf, None  # type: ignore[attr-defined]
        self.adamw.step()
        return loss

    def _step_muon(self, found_inf: Tensor | None) -> None:
        changed: list[Tensor] = []
        for (kernel, channels_last), view in zip(self.kernels, self.muon.param_groups[0]["params"], strict=True):
            view.grad = None if kernel.grad is None else as_matrix(kernel.grad, channels_last)
            if view.grad is not None:
                changed += [view, self.state[view].setdefault("momentum_buffer", torch.zeros_like(view))]
        before = [] if found_inf is None else [tensor.clone() for tensor in changed]
        self.muon.step()
        for view in self.muon.param_groups[0]["params"]:
            view.grad = None  # or the gradients of this step would outlive zero_grad
        if found_inf is not None:
            for tensor, value in zip(changed, before, strict=True):
                torch.where(found_inf > 0, value, tensor, out=tensor)


@checked
class Muon(Optimiser):
    """Muon (Jordan et al. 2024): the momentum of each matrix, orthogonalised by Newton–Schulz iterations, for layers between
    the first and the last; AdamW for those two, biases, norms and embeddings.

    Both have the learning rate `lr`: Muon's is scaled by 0.2 √max(rows, columns), which gives updates the size of AdamW's
    (Liu et al. 2025). A convolution is a matrix of its outputs by all else. `betas` and `eps` are AdamW's, `momentum` is
    Muon's. `steps`: of the whole run.
    """

    needs = "ends"

    def __init__(
        self,
        lr: PositiveFloat = 2e-4,
        momentum: HalfOpenUnit = 0.95,
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
        shared: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        self.of_kernels = {**shared, "momentum": momentum, "adjust_lr_fn": "match_rms_adamw"}
        self.of_others = {**shared, "betas": tuple(betas), "eps": eps}
        self.rate, self.clip = Rate(warmup, decay, decay_final, decay_start, steps), clip

    def check(self, net: nn.Module) -> None:
        hidden_kernels(net)

    def make(self, net: nn.Module) -> torch.optim.Optimizer:
        kernels = hidden_kernels(net)
        taken = set(map(id, kernels))
        others = [p for p in trained(net) if id(p) not in taken]
        return MuonWithAdamW(kernels, grouped(net, others), self.of_kernels, self.of_others)
