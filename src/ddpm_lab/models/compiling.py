"""Networks by torch.compile."""

from typing import Any, Literal

from torch import nn

from ddpm_lab.errors import UserError

Compile = bool | Literal["reduce-overhead"]
"""Whether torch.compile is used, or in which of its modes: "reduce-overhead" has CUDA graphs."""


def compile_by(net: nn.Module, how: Compile) -> None:
    """At its first call."""
    net.compile(mode=None if isinstance(how, bool) else how)


def compile_model(model: Any, how: Compile, key: str) -> None:
    """By `Model.compile_net`. Raises UserError for a model that has nothing to compile."""
    try:
        model.compile_net(how)
    except ValueError as error:
        raise UserError(f"{key}={str(how).lower()}: {error}; allowed is {key}=false") from error


def check_compile(how: Compile, device: str, key: str) -> None:
    """Raises UserError for a mode of torch.compile that the device does not have."""
    if device == "cpu" and not isinstance(how, bool):
        raise UserError(f"{key}={how}: CUDA graphs need a GPU; on a CPU use {key}=true or {key}=false")
