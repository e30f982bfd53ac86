"""A batch of training data."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Data in [−1, 1], the number of the batch in the run, the index of its first row in the whole batch, the whole size."""

    x0: Tensor
    counter: int
    first: int
    size: int
