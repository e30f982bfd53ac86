"""A whole run with loggers, and one of wandb that needs no account."""

import os
from pathlib import Path

import pytest
from lightning import Callback

from ddpm_lab.training.callbacks.bound import VLBTerms
from ddpm_lab.training.callbacks.progress import LossQuartiles
from ddpm_lab.training.callbacks.samples import Samples
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.final import measure
from ddpm_lab.training.results import close, log_final
from ddpm_lab.training.wandb_logger import Wandb

from .support import fit, module, table


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No key, and nothing of wandb's outside the folder of the test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, place in {"WANDB_CACHE_DIR": "cache", "WANDB_CONFIG_DIR": "config", "NETRC": "netrc"}.items():
        monkeypatch.setenv(name, str(tmp_path / "home" / place))


def offline(folder: Path, mode: str = "offline", **about) -> Wandb:
    values = {"project": "p", "entity": None, "group": None, "tags": [], "name": None, "artifact": "none", **about}
    return Wandb(**values, mode=mode, run_dir=folder)


def callbacks() -> list[Callback]:
    return [Samples(4, 2, 3, 0), VLBTerms(4, 1, 0), LossQuartiles(), Checkpoints(100, None)]


def whole_run(folder: Path, *loggers, steps: int = 4):
    """Training, two validations and the final measurement."""
    model = module()
    trainer = fit(folder, model, callbacks(), steps=steps, validate_every=2, loggers=loggers)
    results = measure(trainer, model)
    log_final(trainer, results)
    close(trainer, 0)
    return results


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Of metrics.csv, by name and step."""
    rows = table(folder)
    keys = {key for row in rows for key in row} - {"step"}
    return {key: {int(row["step"]): row[key] for row in rows if key in row} for key in keys}
