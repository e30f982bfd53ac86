"""Networks as models make them: with initial weights fixed by the seed, and in bfloat16."""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Classes
from ddpm_lab.core.gamma import Monotone
from ddpm_lab.core.uncertainty import Uncertainty

Factory = Callable[..., nn.Module]
Net = TypeVar("Net", bound=nn.Module)


def made(net: Factory, shape: tuple[int, ...], n_outputs: int, classes: Classes | None = None) -> nn.Module:
    """A network for data of `shape`, n_outputs times as many channels wide where it ends."""
    size, given = shape[-1] if len(shape) == 3 else None, {} if classes is None else {"classes": classes.null}
    return net(in_channels=shape[0], out_channels=shape[0] * n_outputs, size=size, **given)


def seeded(make: Callable[[], Net], seed: int) -> Net:
    """With initial weights fixed by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(rng.address(seed, "init"))
        return make()


def initialised(net: Factory, shape: tuple[int, ...], n_outputs: int, seed: int, classes: Classes | None = None) -> nn.Module:
    """With initial weights fixed by the seed. A second output widens one layer, and would shift the random numbers of all that
    are made after it: the others are those of the network with one, so that runs which differ in the variance start alike."""
    whole = seeded(lambda: made(net, shape, n_outputs, classes), seed)
    if n_outputs > 1:
        weights, plain = whole.state_dict(), seeded(lambda: made(net, shape, 1, classes), seed).state_dict()
        alike = {name: plain[name] for name, value in weights.items() if name in plain and plain[name].shape == value.shape}
        whole.load_state_dict(weights | alike)
    return whole


class Accompanied(nn.Module):
    """A network with what is trained beside it, a learned schedule or a learned uncertainty: called, and asked for features, as
    the network alone."""

    def __init__(self, network: nn.Module, path: Monotone | None = None, uncertainty: Uncertainty | None = None) -> None:
        super().__init__()
        self.network: Any = network
        self.path, self.uncertainty = path, uncertainty

    def forward(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        return self.network(x, t, *labels)

    def features(self, x: Tensor, t: Tensor, *labels: Tensor) -> Tensor:
        return self.network.features(x, t, *labels)

    def leave(self, features: Tensor) -> Tensor:
        return self.network.leave(features)

    @property
    def ends(self) -> tuple[nn.Module, nn.Module]:
        """The first and the last layer of the network, where it names them."""
        return self.network.ends


def path_of(net: nn.Module) -> Monotone | None:
    """The learned schedule beside a network, or beside the one that it is a head on."""
    inner = getattr(net, "base", net)
    return inner.path if isinstance(inner, Accompanied) else None


def uncertainty_of(net: nn.Module) -> Uncertainty | None:
    """The learned uncertainty beside a network."""
    return net.uncertainty if isinstance(net, Accompanied) else None


def innermost(net: nn.Module) -> nn.Module:
    """The network alone."""
    return net.network if isinstance(net, Accompanied) else net


def alone(net: nn.Module) -> nn.Module:
    """The network without what training alone needs beside it."""
    return net.network if isinstance(net, Accompanied) and net.path is None else net


def given(net: Callable[..., Tensor], condition: tuple[Tensor, ...], x: Tensor, t: Tensor) -> Tensor:
    """The network's output at (x, t), of a conditional model given its labels."""
    return net(x, t, *condition)


@torch.inference_mode(False)  # in which Lightning validates: it would make weights that cannot be changed outside of it
def in_bf16(net: nn.Module) -> nn.Module:
    """A copy with the weights of convolutions and matrix products in bfloat16."""
    net = copy.deepcopy(net)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.to(torch.bfloat16)
    return net
