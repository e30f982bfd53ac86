"""Base of the data sets that were published as a training and a test part."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm_lab.data.memory import InMemory, seeded_split
from ddpm_lab.data.store import Store
from ddpm_lab.errors import UserError


class TrainAndTest(InMemory):
    """Reads the published files once and keeps them as .npy under `root`; later runs read those, checked by their SHA-256.

    With `validation="test"` the published test images are the validation data and every training image is trained on; with
    "split" a part of the training images is held out, chosen by `split_seed`, and the test images stay untouched.
    """

    prefix = ""
    classes = 10

    def __init__(
        self,
        root: str,
        download: bool,
        validation: str,
        val_fraction: float,
        split_seed: int,
        batch_size: int,
        flip: bool,
    ) -> None:
        super().__init__(batch_size, flip)
        self.root, self.download = Path(root).expanduser(), download
        self.validation, self.val_fraction, self.split_seed = validation, val_fraction, split_seed
        self.store = Store(self.root, self.prefix)

    def convert(self) -> dict[str, np.ndarray]:
        """train_images and test_images, uint8 N C H W, train_labels and test_labels, uint8 N: from the published files."""
        raise UserError(f"data: {type(self).__name__} does not define convert().")

    def load(self) -> tuple[Tensor, Tensor]:
        if self.store.record() is None:
            self.store.write(self.convert())
        images, labels = self._stored("train")
        if self.validation == "test":
            val_images, val_labels = self._stored("test")
            self.train_labels, self.val_labels = labels, val_labels
            return images, val_images
        train, held = seeded_split(len(images), self.val_fraction, self.split_seed)
        self.train_labels, self.val_labels = labels[train], labels[held]
        return images[train], images[held]

    def _stored(self, part: str) -> tuple[Tensor, Tensor]:
        images, labels = (torch.from_numpy(self.store.read(f"{part}_{kind}")) for kind in ("images", "labels"))
        return images, labels.long()

    def fingerprint(self) -> str:
        split = [] if self.validation == "test" else [self.val_fraction, self.split_seed]
        return self.store.fingerprint(self.validation, split, self.shape)
