"""A model as a LightningModule: it trains; callbacks measure and show."""

import inspect
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.transfer import like
from ddpm_lab.models.contract import Model
from ddpm_lab.training.guard import NonFiniteGuard, Trained
from ddpm_lab.training.optim import Optimiser, trained


def reseed(seed: int, device: torch.device) -> None:
    """The generators that dropout draws from. (torch.manual_seed also queues a call for every kind of device that is not there,
    with the whole stack as text: most of a millisecond a step, and never freed.)"""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class TrainingModule(LightningModule):
    """A model with its optimiser. The state dict is the model's own.

    `averages` holds averaged models by their keys in a checkpoint. They are not submodules, so neither the optimiser nor the
    raw state dict sees them. Evaluation uses the first.
    """

    def __init__(self, model: Model, optim: Optimiser) -> None:
        super().__init__()
        self.model, self.optim = model, optim
        self.averages: dict[str, Model] = {}
        self.trained: Trained | None = None
        self.grad_norm: Tensor | None = None
        predicts = (
            "prediction" in inspect.signature(type(model)).parameters
        )  # parts of a model are parameters of its constructor
        self.guard = NonFiniteGuard(advice=", and so may prediction=v" if predicts else "")
        self._pieces: list[Trained] = []  # of the batch that is under way
        self._parameters_list = trained(model.net)

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes before and after every hook where it is, and torch looks at each attribute for what it registers:
        a tenth of a small network's step."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    # --- training -------------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted mean of the model's losses. Dropout is a function of the number of the batch."""
        model = self.model
        reseed(rng.address(model.seed, "dropout", batch.counter, batch.first), batch.x0.device)
        losses = model.losses(batch)
        per_example = losses.per_example
        weight = like(losses.weight, batch.x0)
        loss = (weight * per_example).mean()
        if model.learns and losses.positions is not None:
            model.update(ranks.rows(losses.positions.values), ranks.rows(per_example.detach()))
        parts = {name: part.detach() for name, part in losses.parts.items()}
        self.trained = Trained(batch.counter, parts, weight.detach(), per_example.detach(), losses.positions, loss.detach())
        self._pieces.append(self.trained)
        return loss

    vars(training_step).update(__signature__=inspect.signature(training_step))  # which Lightning asks for at every step

    def optimizer_zero_grad(self, *_: Any) -> None:
        """As the optimiser's own, which also notes for the profiler and the compiler that it does."""
        for parameter in self._parameters_list:
            parameter.grad = None

    def configure_optimizers(self) -> Any:
        return self.optim.configure(self.model.net)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """By global norm; and no update from a loss or a gradient that is not finite."""
        self.grad_norm = self.optim.clip_gradients(self._parameters_list)
        pieces, self._pieces = self._pieces, []
        self.guard.watch(self.global_step, pieces, self.grad_norm, optimizer)

    def on_fit_start(self) -> None:
        for logger in self.loggers:
            logger.log_hyperparams(self.model.config)

    def on_train_end(self) -> None:
        self.guard.read()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing here: callbacks choose what is measured of a batch."""

    # --- checkpoints ----------------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return self.model.load_state_dict(state_dict, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        model = self.model
        checkpoint |= {"config": model.config, "shape": list(model.shape), "levels": model.levels}
        checkpoint |= {} if model.classes is None else {"class_counts": list(model.classes.counts)}
        checkpoint |= {"timesteps": model.training_state(), "processes": ranks.world()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.model.load_training_state(checkpoint["timesteps"])

    # --- evaluation -----------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The data module that it is trained and measured on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def weights(self) -> str:
        """Which weights evaluation uses: the first average, "ema/<rate>", or "raw" where there is none."""
        return next(iter(self.averages), "raw")

    @property
    def eval_model(self) -> Model:
        """The model with those weights, in eval mode."""
        return self.averages.get(self.weights, self.model).eval()
