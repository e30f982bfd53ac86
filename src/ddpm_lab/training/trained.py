"""What a training step leaves for callbacks and for the guard."""

from typing import NamedTuple

from torch import Tensor


class Trained(NamedTuple):
    """What the latest training step saw, for callbacks and for the guard. Detached."""

    counter: int
    t: Tensor
    weight: Tensor
    per_example: Tensor
    parts: dict[str, Tensor]
    loss: Tensor
