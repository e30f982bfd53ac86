"""Exponential moving average of the weights, kept beside the training weights and never swapped with them."""

import copy
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from ddpm_lab.training.module import DiffusionModule


class EMA(Callback):
    """ε_θ averaged after every optimiser step: average ← d · average + (1 − d) · weights, starting from the initial weights.

    d is `decay` (Ho et al.: 0.9999), or with `ramp` min(decay, (1 + n) / (10 + n)) after n updates: at 0.9999 a run of 10,000
    steps would still hold 37% of its random start. The average is a network of its own: an exception in validation cannot
    leave it in place of the training weights, and there is no buffer to drift. Saved under "ema/<decay>".
    """

    def __init__(self, decay: float, ramp: bool) -> None:
        self.decay, self.ramp = decay, ramp
        self.key = f"ema/{decay}"

    def rate(self, n: int) -> float:
        """d for the update after n updates."""
        return min(self.decay, (1 + n) / (10 + n)) if self.ramp else self.decay

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, DiffusionModule)
        self.net = copy.deepcopy(pl_module.net).eval().requires_grad_(False)
        pl_module.averages[self.key] = self.net
        self._updated = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        self.net.to(next(pl_module.net.parameters()))  # its device, and its precision
        self._averages = [p.data for p in self.net.parameters()]
        self._weights = [p.data for p in pl_module.net.parameters()]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._updated = trainer.global_step  # of a resumed run; not known any earlier

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step > self._updated:
            change = 1 - self.rate(self._updated)
            torch._foreach_lerp_(self._averages, self._weights, change)  # pyright: ignore[reportPrivateImportUsage]
            self._updated = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[self.key] = self.net.state_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.net.load_state_dict(checkpoint[self.key])
