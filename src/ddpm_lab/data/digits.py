"""scikit-learn's handwritten digits: real scans, in the package itself."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_lab.data.memory import Split
from ddpm_lab.domains import OpenUnit, checked


@checked
@dataclass(eq=False, kw_only=True)
class Digits(Split):
    """1,797 digits of 8×8 pixels in 17 grey levels (UCI "Optical Recognition of Handwritten Digits", test part).

    `val_fraction` of them, chosen by `split_seed`, are held out: 360 by default, 1,437 remain to train on. Labels are kept in
    `train_labels` and `val_labels`; training uses them if the data are `conditional`.
    """

    levels = 17
    known_side = 8
    classes = 10

    val_fraction: OpenUnit = 0.2

    def load(self) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits

        pixels, target = load_digits(return_X_y=True)
        images = torch.as_tensor(pixels).to(torch.uint8).reshape(-1, 1, 8, 8)
        return self.split(images, torch.as_tensor(target).long())
