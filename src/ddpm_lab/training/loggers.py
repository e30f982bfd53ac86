"""Loggers together."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from ddpm_lab.core.types import states
from ddpm_lab.domains import Given, checked
from ddpm_lab.training.csv_logger import CsvLogger
from ddpm_lab.training.tensorboard_logger import TensorBoard
from ddpm_lab.training.wandb_logger import Wandb


@checked
@states(packages=("tensorboard",), further=Wandb, passed=("mode", "project", "entity", "group", "tags", "name", "artifact"))
def every(*, run_dir: Given[str | Path], evaluation: Given[bool] = False, **of_wandb: Any) -> list[Logger]:
    """TensorBoard and Weights & Biases."""
    return [TensorBoard(run_dir), Wandb(**of_wandb, run_dir=run_dir, evaluation=evaluation)]


def with_csv(chosen: Logger | list[Logger], run_dir: str | Path) -> list[Logger]:
    """metrics.csv first, whatever else was chosen: a resumed run goes on from it."""
    loggers = chosen if isinstance(chosen, list) else [chosen]
    others = [logger for logger in loggers if not isinstance(logger, CsvLogger)]
    return [CsvLogger(run_dir), *others]
