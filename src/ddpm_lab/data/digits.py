"""scikit-learn's handwritten digits: real scans, in the package itself."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddpm_lab.data.memory import Split
from ddpm_lab.domains import OpenUnit, checked


@checked
@dataclass(eq=False, kw_only=True)
class Digits(Split):
    """1,797 digits of 8×8 pixels in 17 grey levels (UCI "Optical Recognition of Handwritten Digits", test part).

    `val_fraction` of them, chosen by `split_seed`, are held out: 360 by default, 1,437 remain to train on. With two
    `levels` a pixel is 1 where its grey level is at least 8 of 16. Labels are kept in
    `train_labels` and `val_labels`; training uses them if the data are `conditional`.
    """

    known_side = 8
    classes = 10

    levels: Literal[17, 2] = 17
    val_fraction: OpenUnit = 0.2

    def load(self) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits

        pixels, target = load_digits(return_X_y=True)
        images = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, 1, 8, 8)
        if self.levels == 2:
            images = (images >= 8).to(torch.uint8)
        return self.split(images, torch.as_tensor(target).long())
