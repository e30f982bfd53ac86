"""Networks by torch.compile."""

from typing import Literal

from torch import nn

from ddpm_lab.errors import UserError

Compile = bool | Literal["reduce-overhead"]
"""Whether torch.compile is used, or in which of its modes: "reduce-overhead" has CUDA graphs."""


def compile_by(net: nn.Module, how: Compile) -> None:
    """At its first call."""
    net.compile(mode=None if isinstance(how, bool) else how)


def check_compile(how: Compile, device: str, key: str) -> None:
    """Raises UserError for a mode of torch.compile that the device does not have."""
    if device == "cpu" and not isinstance(how, bool):
        raise UserError(f"{key}={how}: CUDA graphs need a GPU; on a CPU use {key}=true or {key}=false")
