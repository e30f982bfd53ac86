"""Feature spaces in which samples and data are compared. An extractor maps data to features and names the scores in them."""

from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from ddpm_lab.domains import checked

Metric = Literal["fd", "fd_class", "fd_inf", "kid", "is", "precision", "recall", "mind", "c_t", "authenticity"]
WORDS: dict[Metric, str] = {
    "fd": "Fréchet distance",
    "fd_class": "Fréchet distance within classes",
    "fd_inf": "Fréchet distance at infinity",
    "kid": "kernel distance",
    "is": "Inception Score",
    "precision": "precision",
    "recall": "recall",
    "mind": "sliced Wasserstein distance",
    "c_t": "C_T",
    "authenticity": "authenticity",
}
FULL = 50_000
"""Samples of a published FID. The value depends on their number, so below it the number is part of the name."""


def of_few(n: int) -> str:
    """What the name of a score says of its number of samples."""
    return "" if n >= FULL else f"@{n}"


class Extractor(Protocol):
    """Data in [−1, 1], N×..., to features N×dim."""

    name: str
    batch: int
    """Data of one call."""
    record: dict[str, Any]
    """What the features depend on besides the name."""
    slow: bool
    """Whether statistics of real data are kept on disk."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def key(self, n: int, metric: Metric = "fd") -> str:
        """The key of a score of n samples, as in summary.json."""
        ...

    def label(self, n: int, metric: Metric = "fd") -> str:
        """The score in words."""
        ...


@runtime_checkable
class Classifying(Protocol):
    """An extractor that also classifies."""

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features N×dim and logits N×classes, in one pass."""
        ...


def extract(extractor: Extractor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features of data in [−1, 1], and logits; None where the extractor does not classify."""
    return extractor.features_and_logits(x) if isinstance(extractor, Classifying) else (extractor(x), None)


@checked
class Pixels:
    """The values themselves, float64. Not FID."""

    name, slow = "pixels", False

    def __init__(self) -> None:
        self.batch, self.record = 4096, {}

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1).double()

    def key(self, n: int, metric: Metric = "fd") -> str:
        return f"pixels_{metric}"

    def label(self, n: int, metric: Metric = "fd") -> str:
        return f"pixels {WORDS[metric]}"
