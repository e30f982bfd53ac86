"""What data and models agree on: a batch."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Data in [−1, 1]; the number of the batch in the run; where its rows begin in the whole batch, and how many that has."""

    x0: Tensor
    counter: int
    first: int
    size: int
