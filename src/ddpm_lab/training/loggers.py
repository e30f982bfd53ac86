"""Loggers together."""

from pathlib import Path

from lightning.pytorch.loggers import Logger

from ddpm_lab.core.types import states
from ddpm_lab.domains import Given, Text, checked
from ddpm_lab.training.csv_logger import CsvLogger
from ddpm_lab.training.tensorboard_logger import TensorBoard
from ddpm_lab.training.wandb_logger import Artifact, Mode, Wandb


@checked
@states(packages=("tensorboard",))
def every(
    mode: Mode = "online",
    project: Text | None = None,
    entity: Text | None = None,
    group: Text | None = None,
    tags: tuple[Text, ...] = (),
    name: Text | None = None,
    artifact: Artifact = "none",
    *,
    run_dir: Given[str | Path],
    evaluation: Given[bool] = False,
) -> list[Logger]:
    """TensorBoard and Weights & Biases."""
    wandb = Wandb(mode, project, entity, group, tags, name, artifact, run_dir=run_dir, evaluation=evaluation)
    return [TensorBoard(run_dir), wandb]


def with_csv(chosen: Logger | list[Logger], run_dir: str | Path) -> list[Logger]:
    """metrics.csv first, whatever else was chosen: a resumed run goes on from it."""
    loggers = chosen if isinstance(chosen, list) else [chosen]
    others = [logger for logger in loggers if not isinstance(logger, CsvLogger)]
    return [CsvLogger(run_dir), *others]
