"""A measured number with everything that must be said beside it."""

from typing import Any, NamedTuple

from lightning import LightningModule, Trainer

from ddpm_lab.training.module import DiffusionModule


class Result(NamedTuple):
    """One row of the final table and one entry of summary.json."""

    key: str
    label: str
    value: float
    se: float | None
    record: dict[str, Any]
    """n, seed, split, weights, sampler, … whatever the number depends on."""


def log(trainer: Trainer, metrics: dict[str, float]) -> None:
    """To every logger, at the current step."""
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)


def step_is_whole(trainer: Trainer) -> bool:
    """Whether the batch that ends was the last piece of an optimiser step."""
    return trainer.fit_loop.epoch_loop.batch_idx % trainer.accumulate_grad_batches == trainer.accumulate_grad_batches - 1


def row_is_due(trainer: Trainer) -> bool:
    """Whether this step gets a row in the logs."""
    return step_is_whole(trainer) and trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]


def parts(trainer: Trainer, module: LightningModule) -> tuple[DiffusionModule, Any]:
    """The module and its data module, as what they are."""
    assert isinstance(module, DiffusionModule)
    return module, trainer.datamodule  # type: ignore[attr-defined]
