"""How training chooses t. Every choice maps one shared uniform number per example to (t, weight) by inverse CDF, so that
two runs that differ in T or in the choice itself still see paired times."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core.types import Times


class Drawn(NamedTuple):
    """Times 1..T and the weights that keep the loss unbiased for a mean over t."""

    t: Times
    weight: Float64[Tensor, " B"]


@runtime_checkable
class Timesteps(Protocol):
    def __call__(self, u: Float64[Tensor, " B"], T: int) -> Drawn: ...


class Uniform:
    """DDPM Algorithm 1: t ~ Uniform{1, …, T}."""

    def __call__(self, u: Float64[Tensor, " B"], T: int) -> Drawn:
        return Drawn((u * T).long().clamp(max=T - 1) + 1, torch.ones_like(u))
