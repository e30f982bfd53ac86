"""Curves, pictures, configuration and final table for TensorBoard, in tensorboard/ of the run folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from ddpm_lab.domains import Given
from ddpm_lab.errors import require_for_logger
from ddpm_lab.training.run_logger import RunLogger

LONGEST_TEXT = 100
"""Rows: a longer table, as of the terms of the bound, is there as a plot."""


class TensorBoard(RunLogger):
    """Every call is on disk when it returns. `keep_until(step)` hides what an earlier run wrote after `step`. The file stays
    open until `close`: Lightning's own logger closes it after training, when the final measurement is yet to come."""

    kind = "tensorboard"
    packages = ("tensorboard",)

    def __init__(self, run_dir: Given[str | Path]) -> None:
        super().__init__(run_dir)
        require_for_logger("tensorboard")
        self._writer: Any = None
        self._purge: int | None = None

    def keep_until(self, step: int, source: Path | None = None, only: str = "") -> None:
        self._purge = step + 1

    @property
    def _events(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=self._purge)
        return self._writer

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        self._text("config", f"```json\n{json.dumps(params, indent=2)}\n```", 0)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for key, value in metrics.items():
            self._events.add_scalar(key, value, step)
        self._events.flush()

    def log_picture(self, key: str, path: Path, step: int) -> None:
        with Image.open(path) as picture:
            self._events.add_image(key, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        self._events.flush()

    def log_table(self, key: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        if len(rows) <= LONGEST_TEXT:
            lines = [columns, ["---"] * len(columns), *rows]
            cells = [["" if cell is None else str(cell) for cell in line] for line in lines]
            self._text(key, "\n".join(f"| {' | '.join(line)} |" for line in cells), step)

    def close(self, code: int) -> None:
        if self._writer is not None:
            self._writer.close()

    def _text(self, key: str, text: str, step: int) -> None:
        self._events.add_text(key, text, step)
        self._events.flush()
