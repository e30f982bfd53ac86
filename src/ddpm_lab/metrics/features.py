"""Features of all n data at once, for what needs more of them than moments: in memory while that is little, else in a file."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.errors import UserError

IN_MEMORY = 2**28
"""Bytes up to which features stay in memory: 32,768 of 2048 dimensions."""


class FeatureStore:
    """n rows, features or logits, that come in batches: float32, N×dim. Beyond `in_memory` bytes they are written to
    <folder>/<name>.npy, which is mapped, so a batch is all that is in memory; the folder is the caller's to remove."""

    def __init__(self, n: int, folder: Path, name: str = "features", in_memory: int = IN_MEMORY) -> None:
        self.n, self.path, self._in_memory = n, folder / f"{name}.npy", in_memory
        self._rows: np.ndarray | None = None
        self._filled = 0

    def add(self, rows: Tensor) -> "FeatureStore":
        """The next rows, B×dim; returns itself. Raises UserError for values that are not finite, or that find no room."""
        batch = rows.detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(batch).all():
            raise UserError(f"{self.path.stem}: not finite from row {self._filled} on: are the samples?")
        if self._rows is None:
            self._rows = self._room(batch.shape[1])
        self._rows[self._filled : self._filled + len(batch)] = batch
        self._filled += len(batch)
        return self

    def features(self) -> Tensor:
        """All n, mapped where they are in a file. Raises ValueError unless so many have come."""
        if self.n == 0:  # the share of a process that has none
            return torch.empty(0, 0)
        if self._rows is None or self._filled != self.n:
            raise ValueError(f"{self._filled} of {self.n} {self.path.stem} have come.")
        if isinstance(self._rows, np.memmap):
            self._rows.flush()
            return read(self.path)
        return torch.from_numpy(self._rows)

    def _room(self, dim: int) -> np.ndarray:
        if self.n * dim * 4 <= self._in_memory:
            return np.empty((self.n, dim), np.float32)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return np.lib.format.open_memmap(self.path, "w+", np.float32, (self.n, dim))
        except OSError as error:
            raise UserError(f"{self.path}: {self.n}×{dim} values cannot be kept there ({error.strerror}).") from error


def read(path: Path) -> Tensor:
    """The rows of a file, mapped: on the disk until they are looked at."""
    # "c" rather than "r": torch warns of memory it may not write to; what it writes would not reach the file.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def joined(parts: Iterable[Tensor], folder: Path, name: str = "features", in_memory: int = IN_MEMORY) -> Tensor:
    """Parts N_i×dim, one after another as of processes in their order, as one; empty ones take no room."""
    found = [part for part in parts if len(part)]
    store = FeatureStore(sum(map(len, found)), folder, name, in_memory)
    for part in found:
        for rows in part.split(4096):
            store.add(rows)
    return store.features()
