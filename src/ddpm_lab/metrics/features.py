"""All features of n data, for scores that need more than moments: in memory up to a limit, beyond it in a mapped file."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.errors import UserError

IN_MEMORY = 2**28
"""Bytes up to which features stay in memory: 32,768 features of 2048 dimensions."""


class FeatureStore:
    """n rows of features or logits that come in batches: float32, N×dim. Beyond `in_memory` bytes they are written to
    <folder>/<name>.npy, which is mapped, so that memory holds one batch; the folder is the caller's to remove."""

    def __init__(self, n: int, folder: Path, name: str = "features", in_memory: int = IN_MEMORY) -> None:
        self.n, self.path, self._in_memory = n, folder / f"{name}.npy", in_memory
        self._rows: np.ndarray | None = None
        self._filled = 0

    def add(self, rows: Tensor) -> "FeatureStore":
        """The next rows, B×dim; returns itself. Raises UserError for values that are not finite or cannot be stored."""
        batch = rows.detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(batch).all():
            raise UserError(f"{self.path.stem}: not finite from row {self._filled} on: are the samples?")
        if self._rows is None:
            self._rows = self._room(batch.shape[1])
        self._rows[self._filled : self._filled + len(batch)] = batch
        self._filled += len(batch)
        return self

    def features(self) -> Tensor:
        """All n, mapped where they are in a file. Raises ValueError unless n rows were added."""
        if self._rows is None or self._filled != self.n:
            raise ValueError(f"{self._filled} of {self.n} {self.path.stem} were added.")
        return torch.from_numpy(self._rows)

    def _room(self, dim: int) -> np.ndarray:
        if self.n * dim * 4 <= self._in_memory:
            return np.empty((self.n, dim), np.float32)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows = np.lib.format.open_memmap(self.path, "w+", np.float32, (self.n, dim))
            if hasattr(os, "posix_fallocate"):  # else a full disk ends the process as rows are written
                with self.path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self.path.stat().st_size)
            return rows
        except OSError as error:
            raise UserError(f"{self.path}: {self.n}×{dim} values cannot be kept there ({error.strerror}).") from error
