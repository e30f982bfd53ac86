"""Loggers together."""

from pathlib import Path

from lightning.pytorch.loggers import Logger

from ddpm_lab.core.types import states
from ddpm_lab.training.csv_logger import CsvLogger
from ddpm_lab.training.tensorboard_logger import TensorBoard
from ddpm_lab.training.wandb_logger import Wandb


@states(packages=("tensorboard",))
def every(
    mode: str,
    project: str | None,
    entity: str | None,
    group: str | None,
    tags: list[str],
    name: str | None,
    artifact: str,
    run_dir: str | Path,
    evaluation: bool = False,
) -> list[Logger]:
    """TensorBoard and Weights & Biases."""
    return [TensorBoard(run_dir), Wandb(mode, project, entity, group, tags, name, artifact, run_dir, evaluation)]


def with_csv(chosen: Logger | list[Logger], run_dir: str | Path) -> list[Logger]:
    """metrics.csv first, whatever else was chosen: a resumed run goes on from it."""
    loggers = chosen if isinstance(chosen, list) else [chosen]
    others = [logger for logger in loggers if not isinstance(logger, CsvLogger)]
    return [CsvLogger(run_dir), *others]
