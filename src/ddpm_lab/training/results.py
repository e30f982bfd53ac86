"""The way of numbers, pictures and tables to the loggers: each takes what it has a method for (see `run_logger.py`)."""

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.record import Result
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.run_logger import RunLogger

COMPARED = ("config.yaml", "summary.json", "curves.json", "metrics.csv", "vlb_terms.npz")


def log(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Numbers, at the current step: to the loggers, and to whatever monitors `callback_metrics`."""
    trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in metrics.items()})
    _send(trainer, "log_metrics", metrics)


def log_picture(trainer: Trainer, key: str, path: Path) -> None:
    """The picture in a file."""
    _send(trainer, "log_picture", key, path)


def log_table(trainer: Trainer, key: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table of numbers, text and None."""
    _send(trainer, "log_table", key, columns, rows)


def log_final(trainer: Trainer, results: list[Result]) -> None:
    """The final table, and its numbers as what the run came to."""
    rows = [[result.label, result.known, result.se, result.key] for result in results]
    log_table(trainer, "final/results", ["measured", "value", "standard error", "key"], rows)
    _send(trainer, "log_summary", {f"final/{result.key}": result.value for result in results if result.known is not None})


def log_folder(trainer: Trainer) -> None:
    """What compare.py reads of the run folder, and its last picture of samples; and the network, where it was asked for."""
    folder = Path(trainer.default_root_dir)
    files = [path for name in COMPARED if (path := folder / name).exists()]
    _send(trainer, "log_files", [*files, *sorted(folder.glob("samples/step_*.png"))[-1:]])
    _send(trainer, "log_model")


def keep_until(trainer: Trainer, step: int, source: Path, only: str = "") -> None:
    """The run goes on from `step` of the one that wrote `source`, a metrics.csv; of its columns those that begin with `only`
    are kept."""
    for logger in trainer.loggers:
        if isinstance(logger, RunLogger):
            logger.keep_until(step, source, only)


def _send(trainer: Trainer, method: str, *content: Any) -> None:
    """Process 0 alone writes."""
    for logger in trainer.loggers:
        if trainer.is_global_zero and hasattr(logger, method):
            getattr(logger, method)(*content, step=trainer.global_step)


def close(trainer: Trainer, code: int) -> None:
    """Nothing more will come; `code` is the exit code of the run."""
    for logger in trainer.loggers:
        if trainer.is_global_zero and isinstance(logger, RunLogger):
            logger.close(code)


def step_is_whole(trainer: Trainer) -> bool:
    """Whether the batch that ends was the last piece of an optimiser step."""
    return trainer.fit_loop.epoch_loop.batch_idx % trainer.accumulate_grad_batches == trainer.accumulate_grad_batches - 1


def row_is_due(trainer: Trainer) -> bool:
    """Whether this step gets a row in the logs."""
    return step_is_whole(trainer) and trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]


def check_enough(module: TrainingModule, of: str) -> None:
    """Raises UserError for fewer validation data than a standard error needs. `of`: what it is the error of."""
    if (n := len(module.data.val_images)) < 2:
        raise UserError(f"validation data: the standard error of {of} needs at least 2, and there are {n}: hold out more.")


def how_measured(module: TrainingModule, seed: int) -> dict[str, Any]:
    """Fields of a record: which weights were measured, when, by which draws and on which data."""
    sha256 = module.data.state_dict()["sha256"]
    return {"seed": seed, "weights": module.weights, "step": module.global_step, "data_sha256": sha256}
