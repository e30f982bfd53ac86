"""CelebA from the arrays that `python -m ddpm_lab.data.prepare celeba` makes; they stay on the disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ddpm_lab.data.memory import InMemory
from ddpm_lab.data.prepare import STEPS, Crop, command
from ddpm_lab.data.store import Store
from ddpm_lab.domains import PositiveInt, Size, Text, checked
from ddpm_lab.errors import UserError


@checked
@dataclass(eq=False)
class CelebA(InMemory):
    """202,599 aligned faces (Liu et al. 2015), trained on in the official partition: 162,770 faces, 19,867 for validation and
    19,962 for test. Which part of the image is shown (`crop`) differs between papers and changes every score; it must be
    the one that was prepared. The arrays are mapped: a batch reads its own images from the disk and no others.
    """

    known_side = "size"

    root: Text = "data/celeba"
    crop: Crop = "center140"
    size: PositiveInt = 64
    validation: Literal["val", "test"] = "val"
    batch_size: Size = 128
    flip: bool = True

    @property
    def store(self) -> Store:
        return Store(Path(self.root).expanduser(), "celeba")

    def load(self) -> tuple[Tensor, Tensor]:
        root, prepare = self.store.root, command(self.store.root, self.crop, self.size)
        record = self.store.record()
        if record is None:
            raise UserError(f"data.root={root}: CelebA has not been prepared there.\n{STEPS.format(command=prepare)}")
        for key in ("crop", "size"):
            value, prepared = getattr(self, key), record.get(key)
            if prepared != value:
                raise UserError(
                    f"data.{key}={value}: the arrays in {root} were prepared with {key} {prepared}; use "
                    f"data.{key}={prepared}, or prepare them again: {prepare}"
                )
        self.notes.append(f"CelebA: crop {self.crop}, {self.size}×{self.size}, {record.get('filter')} filter")
        train, val = (torch.from_numpy(self.store.read(part, mapped=True)) for part in ("train", self.validation))
        return train, val

    def fingerprint(self) -> str:
        return self.store.fingerprint(self.validation)
