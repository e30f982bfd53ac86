"""What samples and data are compared in: an extractor maps them to features, and says how to call what is measured there."""

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

Metric = Literal["fd", "fd_inf", "kid", "is", "precision", "recall"]
WORDS: dict[Metric, str] = {
    "fd": "Fréchet distance", "fd_inf": "Fréchet distance at infinity", "kid": "kernel distance", "is": "Inception Score",
    "precision": "precision", "recall": "recall",
}  # fmt: skip


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

    def key(self, n: int, metric: Metric = "fd") -> str:
        """Name of what is measured of n samples, as in summary.json."""
        ...

    def label(self, n: int, metric: Metric = "fd") -> str:
        """The same in words."""
        ...


@runtime_checkable
class Classifying(Protocol):
    """An extractor that tells classes too."""

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features N×dim and logits N×classes, in one pass."""
        ...


class Extracted(NamedTuple):
    features: Tensor
    logits: Tensor | None


def extract(extractor: Extractor, x: Tensor) -> Extracted:
    """Of data in [−1, 1]; logits are None where the extractor has none."""
    if isinstance(extractor, Classifying):
        return Extracted(*extractor.features_and_logits(x))
    return Extracted(extractor(x), None)


class Pixels:
    """The values themselves. Needs no network, and is not FID."""

    name, slow = "pixels", False

    def __init__(self) -> None:
        self.batch, self.record = 4096, {}

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1).double()

    def key(self, n: int, metric: Metric = "fd") -> str:
        return f"pixels_{metric}"

    def label(self, n: int, metric: Metric = "fd") -> str:
        return f"pixels {WORDS[metric]}"
