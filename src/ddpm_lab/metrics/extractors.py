"""What a Fréchet distance is measured between: an extractor maps data to features, and says how to call the distance."""

from typing import Any, Protocol

import torch
from torch import Tensor


class Extractor(Protocol):
    """Data in [−1, 1], N×..., to features N×dim."""

    name: str
    batch: int
    """How many data are best given at once."""
    record: dict[str, Any]
    """Whatever else the features depend on."""
    slow: bool
    """Whether statistics of real data are worth keeping on disk."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def key(self, n: int) -> str:
        """Name of the distance of n samples, as in summary.json."""
        ...

    def label(self, n: int) -> str:
        """The same in words."""
        ...


class Pixels:
    """The values themselves. Needs no network, and is not FID."""

    name, slow = "pixels", False

    def __init__(self) -> None:
        self.batch, self.record = 4096, {}

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1).double()

    def key(self, n: int) -> str:
        return "pixels_fd"

    def label(self, n: int) -> str:
        return "pixels Fréchet distance"


def to_uint8(x: Tensor) -> Tensor:
    """[−1, 1] to 0..255, rounded."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
