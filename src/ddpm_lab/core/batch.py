"""A batch of training data, and the classes of data that have some."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Data in [−1, 1], the number of the batch in the run, the index of its first row in the whole batch, the whole size."""

    x0: Tensor
    counter: int
    first: int
    size: int
    labels: Tensor | None = None
    """Of conditional data the class of each row, B int64; `Classes.null` where it is hidden from the network."""

    @property
    def condition(self) -> tuple[Tensor, ...]:
        """What networks and meters take besides the data: the labels, or nothing."""
        return () if self.labels is None else (self.labels,)


class Classes(NamedTuple):
    """Of conditional data: how many training data each class has, and the share of examples that are trained without theirs."""

    counts: tuple[int, ...]
    dropout: float

    @property
    def null(self) -> int:
        """The class that stands for none; all others are 0..null−1."""
        return len(self.counts)
