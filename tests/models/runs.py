"""Short runs of a model through its yaml file, and what they leave."""

import json
from pathlib import Path
from typing import Any

from helpers import FEW_HELD_OUT, trained

SHORT = ["trainer.validate_every=4", "trainer.log_every=1", "data.batch_size=32", *FEW_HELD_OUT]
SHORT += ["callbacks.samples.n=4", "callbacks.frechet.n=16", "callbacks.frechet_curve.n=16"]


def run(folder: Path, *words: str) -> Path:
    """Eight steps, two validations."""
    return trained(folder, *SHORT, "trainer.max_steps=8", *words)


def metrics(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads((folder / "summary.json").read_text())["metrics"]


def pictures(folder: Path) -> set[str]:
    return {path.name for path in (folder / "samples").iterdir()}
