"""Runs of a model through its yaml file: in one go, and stopped in the middle."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from helpers import FEW_HELD_OUT, composed, one_pixel, trained

from ddpm_lab.cli.fit import train
from ddpm_lab.models.checkpoint import read_checkpoint

SHORT = ["trainer.validate_every=4", "trainer.log_every=1", "data.batch_size=32", *FEW_HELD_OUT]
SHORT += ["callbacks.samples.n=4", "callbacks.frechet.n=16", "callbacks.frechet_curve.n=16"]


def run(folder: Path, *words: str) -> Path:
    """Eight steps, two validations."""
    return trained(folder, *SHORT, "trainer.max_steps=8", *words)


def pixel(*arguments: Any) -> Path:
    """In place of a picture. The folder is not there yet where a model has no samples."""
    arguments[-1].parent.mkdir(exist_ok=True)
    return one_pixel(*arguments)


def goes_on_to_the_bit(folder: Path, whole: Path, *words: str) -> bool:
    """Whether four steps, and four more after a restart, give weights, averages and buffers of the run `whole`. Their pictures
    are one pixel."""
    here = "ddpm_lab.training.callbacks"
    with patch(f"{here}.samples.save_progression", pixel), patch(f"{here}.readings.save_progression", pixel):
        last = trained(folder / "first", *SHORT, "trainer.max_steps=4", *words) / "checkpoints" / "last.ckpt"
        more = composed(*SHORT, "trainer.max_steps=8", *words, f"resume={last}")
        assert train(more, folder / "second", last, None, 0.0) == 0
    a, b = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (whole, folder / "second"))
    return all(alike(a[key], b[key]) for key in ("state_dict", "ema/0.9999"))


def alike(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads((folder / "summary.json").read_text())["metrics"]


def pictures(folder: Path) -> set[str]:
    return {path.name for path in (folder / "samples").iterdir()}
