"""Exponential moving average of the weights, kept beside the training weights and never swapped with them."""

import copy
from typing import Any

import torch
from lightning import Callback, Trainer

from ddpm_lab.domains import HalfOpenUnit, PositiveFloat, PositiveInt, checked
from ddpm_lab.models.contract import Model
from ddpm_lab.training.module import TrainingModule


@checked
class EMA(Callback):
    """The weights averaged after every optimiser step: average ← d · average + (1 − d) · weights, starting from the initial
    weights.

    d is `decay` (Ho et al.: 0.9999), or with `ramp` min(decay, (1 + n) / (10 + n)) after n updates: at 0.9999 a run of 10,000
    steps would still hold 37% of its random start. `also` names further decays, each an average of its own beside the first,
    which evaluation uses. An average is a model of its own: an exception in validation cannot leave it in place of the
    training weights. Buffers are copied. Saved under "ema/<decay>".
    """

    def __init__(self, decay: HalfOpenUnit = 0.9999, ramp: bool = False, also: tuple[HalfOpenUnit, ...] = ()) -> None:
        self.decays, self.ramp = (decay, *also), ramp
        if len(set(self.decays)) < len(self.decays):
            raise ValueError(f"also={list(also)}: each decay once, and not decay={decay} again")
        self.models: dict[float, Model] = {}

    @property
    def keys(self) -> list[str]:
        """Of the averages in a checkpoint."""
        return list(map(key, self.decays))

    def rate(self, decay: float, n: int) -> float:
        """d for the update after n updates."""
        return min(decay, (1 + n) / (10 + n)) if self.ramp else decay

    def setup(self, trainer: Trainer, module: TrainingModule, stage: str) -> None:
        self.models = {decay: copy.deepcopy(module.model).eval().requires_grad_(False) for decay in self.decays}
        for decay, model in self.models.items():
            module.averages[key(decay)] = model
            if model.compiled:
                model.compile_net(model.compiled)
        self._updated = 0

    def on_fit_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self._weights = [p.data for p in module.model.net.parameters()]
        for model in self.models.values():
            model.to(self._weights[0])  # the device and the precision of the weights
        self._averages = {decay: [p.data for p in model.net.parameters()] for decay, model in self.models.items()}
        nets = [model.net for model in self.models.values()]
        self._buffers = [pair for net in nets for pair in zip(net.buffers(), module.model.net.buffers(), strict=True)]

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self._updated = trainer.global_step  # of a resumed run; not known any earlier

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step > self._updated:
            for decay, average in self._averages.items():
                change = 1 - self.rate(decay, self._updated)
                torch._foreach_lerp_(average, self._weights, change)  # pyright: ignore[reportPrivateImportUsage]
            for average, buffer in self._buffers:
                average.copy_(buffer)
            self._updated = trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, module: TrainingModule, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {key(decay): model.net.state_dict() for decay, model in self.models.items()}

    def on_load_checkpoint(self, trainer: Trainer, module: TrainingModule, checkpoint: dict[str, Any]) -> None:
        for decay, model in self.models.items():
            model.net.load_state_dict(checkpoint[key(decay)])


@checked
class HalfLife(EMA):
    """The average whose past loses half its weight in so many `images`, whatever the batch (Karras et al. 2022):
    d = 2^(−batch / half-life), where the half-life is at most `ramp` times the images seen so far. Saved under "ema/<images>".
    """

    def __init__(self, images: PositiveInt = 500_000, ramp: PositiveFloat = 0.05) -> None:
        super().__init__()
        self.decays, self.images_ramp, self._batch = (images,), ramp, 1

    def rate(self, decay: float, n: int) -> float:
        half_life = min(decay, self.images_ramp * n * self._batch)
        return 0.5 ** (self._batch / half_life) if half_life > 0 else 0.0

    def on_fit_start(self, trainer: Trainer, module: TrainingModule) -> None:
        super().on_fit_start(trainer, module)
        self._batch = module.data.batch_size


def key(decay: float) -> str:
    """Of an average in a checkpoint."""
    return f"ema/{decay}"
