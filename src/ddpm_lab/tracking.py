"""What the loggers and compare.py share of MLflow and trackio: the packages, ready, and the names by which files are found."""

import importlib
import logging
import os
from typing import Any

PROJECT = "ddpm-lab"
"""Where runs go unless another project is named."""
GROUP = "group"
"""The tag of an MLflow run with the name of its group."""
FILES = "run_folder"
"""The type of the artifact of trackio that holds files of a run folder."""


def mlflow_client() -> Any:
    """The package mlflow, which answers in seconds where its server is absent: of itself it tries for minutes. It does not
    tell of the tables of a new database."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow = importlib.import_module("mlflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def first_line(error: BaseException) -> str:
    return str(error).split("\n")[0].rstrip(".") or type(error).__name__
