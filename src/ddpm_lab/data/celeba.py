"""CelebA from the arrays that `python -m ddpm_lab.data.prepare celeba` makes; they stay on the disk."""

from pathlib import Path

import torch
from torch import Tensor

from ddpm_lab.data.memory import InMemory
from ddpm_lab.data.prepare import CROPS, STEPS, command
from ddpm_lab.data.store import Store
from ddpm_lab.errors import UserError


class CelebA(InMemory):
    """202,599 aligned faces (Liu et al. 2015), trained on in the official partition: 162,770 faces, 19,867 for validation and
    19,962 for test. Which part of the image is shown (`crop`) differs between papers and changes every score; it must be
    the one that was prepared. The arrays are mapped: a batch reads its own images from the disk and no others.
    """

    known_side = "size"

    def __init__(
        self,
        root: str = "data/celeba",
        crop: str = "center140",
        size: int = 64,
        validation: str = "val",
        batch_size: int = 128,
        flip: bool = True,
    ) -> None:
        super().__init__(batch_size, flip)
        for key, value, allowed in (("crop", crop, CROPS), ("validation", validation, ("val", "test"))):
            if value not in allowed:
                raise UserError(f"data.{key}={value}: allowed is one of {', '.join(allowed)}.")
        self.root, self.crop, self.side, self.validation = Path(root).expanduser(), crop, size, validation
        self.store = Store(self.root, "celeba")

    def load(self) -> tuple[Tensor, Tensor]:
        prepare = command(self.root, self.crop, self.side)
        record = self.store.record()
        if record is None:
            raise UserError(f"data.root={self.root}: CelebA has not been prepared there.\n{STEPS.format(command=prepare)}")
        for key, wanted in (("crop", self.crop), ("size", self.side)):
            if record.get(key) != wanted:
                found = record.get(key)
                raise UserError(
                    f"data.{key}={wanted}: the arrays in {self.root} were prepared with {key} {found}; use data.{key}={found}, "
                    f"or prepare them anew: {prepare}"
                )
        self.notes.append(f"CelebA: crop {self.crop}, {self.side}×{self.side}, {record.get('filter')} filter")
        train, val = (torch.from_numpy(self.store.read(part, mapped=True)) for part in ("train", self.validation))
        return train, val

    def fingerprint(self) -> str:
        return self.store.fingerprint(self.validation)
