"""What a training step leaves for callbacks and for the guard."""

from typing import NamedTuple

from torch import Tensor

from ddpm_lab.models.contract import Positions


class Trained(NamedTuple):
    """The latest training step of this process, detached."""

    counter: int
    """The number of the batch in the run."""
    parts: dict[str, Tensor]
    weight: Tensor
    per_example: Tensor
    """The sum of the parts."""
    positions: Positions | None
    loss: Tensor
