"""metrics.csv: one row per logged step, a column per metric, readable at any moment."""

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from ddpm_lab.domains import Given
from ddpm_lab.files import replacing
from ddpm_lab.training.run_logger import RunLogger


class CsvLogger(RunLogger):
    """Every call is on disk when it returns, so a checkpoint never knows of rows that a kill took away. What is logged twice
    for one step shares a row. `keep_until(step)` drops later rows: a resumed run writes them again."""

    kind = "csv"

    def __init__(self, run_dir: Given[str | Path]) -> None:
        super().__init__(run_dir)
        self.path = self.run_dir / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.columns = ["step"]
        self._last = 0  # where in the file the last row begins

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        new = [name for name in metrics if name not in self.columns]
        self.columns += new
        same_row = bool(self.rows) and self.rows[-1]["step"] == step
        if same_row:
            self.rows[-1].update(metrics)
        else:
            self.rows.append({"step": step, **metrics})
        if new or not self.path.exists():
            self._rewrite()
        else:
            with self.path.open("r+", newline="") as file:
                self._last = file.seek(self._last) if same_row else file.seek(0, os.SEEK_END)
                csv.DictWriter(file, self.columns).writerow(self.rows[-1])
                file.truncate()

    def keep_until(self, step: int, source: Path | None = None, only: str = "") -> None:
        """Take over the rows up to `step` that an earlier run wrote (to `source`, by default here), and no later ones; of their
        columns those that begin with `only`."""
        source = source or self.path
        if source.exists():
            with source.open(newline="") as file:
                reader = csv.DictReader(file)
                self.columns = [name for name in reader.fieldnames or ["step"] if name == "step" or name.startswith(only)]
                rows = [{k: row[k] for k in self.columns if row[k] != ""} for row in reader]
            self.rows = [{**row, "step": int(row["step"])} for row in rows if len(row) > 1 and int(row["step"]) <= step]
            self._rewrite()

    def _rewrite(self) -> None:
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            for row in self.rows:
                self._last = file.tell()
                writer.writerow(row)
