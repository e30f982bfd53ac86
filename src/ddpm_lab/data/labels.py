"""Labels of data: the class of each datum, int64."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.errors import UserError


class Labels(NamedTuple):
    """The class of each of N data; in training a share `dropout` of them is hidden, drawn anew for every batch."""

    of_data: Tensor
    null: int
    """Stands for a class that is hidden."""
    dropout: float

    def drawn(self, rows: Tensor, seed: int, counter: int, first: int) -> Tensor:
        """Of these data, which stand in batch number `counter` from row `first` on."""
        hidden = rng.uniform(seed, "labels", counter, first, first + len(rows)) < self.dropout
        return self.of_data.index_select(0, rows).masked_fill(hidden, self.null)


def checked_labels(array: np.ndarray, n: int, source: str) -> Tensor:
    """The classes of n data from an array of a user's own, `source`. Raises UserError for what is not n integers in 0..n−1."""
    if array.shape != (n,) or array.dtype.kind not in "iu":
        raise UserError(f"{source} is {array.dtype}{list(array.shape)}; allowed are integers, one for each of the {n} images.")
    for wrong in (int(array.min()), int(array.max())):
        if not 0 <= wrong < n:
            raise UserError(f"{source} has a label of {wrong}; allowed are 0, 1, 2, … up to the number of classes − 1.")
    return torch.from_numpy(array.astype(np.int64))


def classes_of_folders(names: Sequence[str], folder: str) -> tuple[Tensor, list[str]]:
    """The class of each image is the folder that it lies in, directly below the whole; and the names of the classes, in order.
    `names`: paths from there, with /. Raises UserError for an image that lies in no such folder."""
    tops = [name.partition("/")[0] for name in names]
    if outside := [name for name in names if "/" not in name]:
        raise UserError(
            f"data.conditional=true: {outside[0]} lies in {folder} itself; each image must be in a folder there, its class."
        )
    classes = sorted(set(tops))
    place = {name: number for number, name in enumerate(classes)}
    return torch.tensor([place[top] for top in tops]), classes
