"""What the tests of training share: small data, networks that cost nothing, and a fit with only the callbacks asked for."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from torch import Tensor, nn

from ddpm_lab.config.options import conf_dir
from ddpm_lab.core.loss import Loss, Simple
from ddpm_lab.core.prediction import Eps
from ddpm_lab.core.sampler import Ancestral, Sampler
from ddpm_lab.core.schedule import linear
from ddpm_lab.core.timesteps import Uniform
from ddpm_lab.core.variance import Beta, LearnedRange, ReverseVariance
from ddpm_lab.data.memory import InMemory
from ddpm_lab.models.diffusion import Diffusion
from ddpm_lab.training.csv_logger import CsvLogger
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.optim import Adam, Optimiser
from ddpm_lab.training.trainer import make

T = 8
CONFIG = {"seed": 0, "data": {}, "trainer": {}}
"""The least that a checkpoint holds."""

quiet = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]
"""Lightning's own: what it deprecates in torch, and what it advises about loaders."""


class Dots(InMemory):
    """Random images 1 4 4 of 17 grey levels."""

    levels = 17

    def __init__(self, n_train: int = 40, n_val: int = 24, batch_size: int = 16, seed: int = 0) -> None:
        super().__init__(batch_size)
        self.n_train, self.n_val, self.data_seed = n_train, n_val, seed

    def load(self) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(self.data_seed)
        images = torch.randint(17, (self.n_train + self.n_val, 1, 4, 4), generator=g, dtype=torch.uint8)
        return images[: self.n_train], images[self.n_train :]


class Linear(nn.Module):
    """One linear map of the pixels and of t; `dropout` on what goes in."""

    def __init__(self, shape: Sequence[int], n_outputs: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = (shape[0] * n_outputs, *shape[1:])
        size = int(torch.tensor(shape).prod())
        self.dropout = nn.Dropout(dropout)
        self.map = nn.Linear(size + 1, size * n_outputs)
        with torch.no_grad():
            g = torch.Generator().manual_seed(0)
            for p in self.parameters():
                p.copy_(0.1 * torch.randn(p.shape, generator=g))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        features = torch.cat([self.dropout(x.flatten(1)), t[:, None].to(x) / T], dim=1)
        return self.map(features).view(-1, *self.shape)


def adam(lr: float = 0.01, warmup: int = 0, clip: float | None = 1.0) -> Adam:
    return Adam(lr, (0.9, 0.999), 1e-8, 0.0, warmup, clip)


def module(
    shape: tuple[int, ...] = (1, 4, 4),
    levels: int | None = 17,
    loss: Loss | None = None,
    variance: ReverseVariance | None = None,
    sampler: Sampler | None = None,
    optim: Optimiser | None = None,
    net: nn.Module | None = None,
    seed: int = 0,
) -> TrainingModule:
    """A diffusion model on T = 8, ready to train. `net`: a network, instead of a linear map."""
    variance = variance or Beta()

    def made(in_channels: int, out_channels: int, size: int | None) -> nn.Module:
        return net or Linear(shape, out_channels // in_channels)

    model = Diffusion(
        linear(T, beta_start=0.01, beta_end=0.7), Eps(), variance, loss or Simple(), Uniform(), sampler or Ancestral(), made,
        shape=shape, levels=levels, seed=seed, config=CONFIG | {"seed": seed},
    )  # fmt: skip
    return TrainingModule(model, optim or adam())


def hybrid(**arguments: Any) -> TrainingModule:
    from ddpm_lab.core.loss import Hybrid

    return module(loss=Hybrid(), variance=LearnedRange(), **arguments)


def trainer_for(
    folder: Path,
    model: TrainingModule,
    callbacks: Sequence[Callback],
    steps: int = 6,
    validate_every: int = 100,
    log_every: int = 1,
    loggers: Sequence[Logger] = (),
    accumulate: int = 1,
) -> Trainer:
    folder.mkdir(parents=True, exist_ok=True)
    every = [CsvLogger(folder), *loggers]
    values = OmegaConf.to_container(OmegaConf.load(conf_dir() / "trainer" / "cpu.yaml"))
    values |= {"max_steps": steps, "validate_every": validate_every, "log_every": log_every, "channels_last": False}
    values["accumulate"] = accumulate
    values.pop("_target_")
    return make(**values, module=model, callbacks=list(callbacks), logger=every, run_dir=folder)


def fit(
    folder: Path,
    model: TrainingModule,
    callbacks: Sequence[Callback] = (),
    data: InMemory | None = None,
    checkpoint: Path | None = None,
    **arguments: Any,
) -> Trainer:
    """Train, and give the trainer back."""
    trainer = trainer_for(folder, model, callbacks, **arguments)
    data = data or Dots()
    data.serve(model.model.seed, trainer.max_steps)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def table(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, without empty cells."""
    with (folder / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


class Recorder(Callback):
    """Calls a function with (trainer, module) after each training step."""

    def __init__(self, look: Any) -> None:
        self.look, self.seen = look, []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.seen.append(self.look(trainer, pl_module))


def weights_of(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
