"""Shapes. `B` is the batch; `...` one datum: C H W for images, D for vectors."""

from collections.abc import Callable
from typing import TypeVar

from jaxtyping import Float, Int
from torch import Tensor

from ddpm_lab.domains import Incompatible as Incompatible
from ddpm_lab.domains import OpenUnit

Data = Float[Tensor, "B ..."]
"""States x_0, x_s, x_t, noise, network outputs."""
PerExample = Float[Tensor, " B"]
Times = Int[Tensor, " B"]
"""The paper's t: 1..T, and 0 for data."""
Coefficient = Float[Tensor, "..."]
"""Zero-dimensional for one step of a sampler, B 1 ... 1 for a batch of times."""
Clip = bool | OpenUnit
"""How x̂_0 is limited to [−1, 1]: see `diffusion.limited`."""

Settings = dict[str, int | float | bool | str | None]
"""What distinguishes a choice from others of its class, for records."""

Function = TypeVar("Function", bound=Callable)


def states(**facts: object) -> Callable[[Function], Function]:
    """Constants of a function, as class attributes are of a class."""

    def stated(function: Function) -> Function:
        vars(function).update(facts)
        return function

    return stated
