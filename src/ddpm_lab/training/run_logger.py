"""What the loggers of a run share: they write into its folder, on process 0, and hold what they can.

Besides Lightning's `log_metrics` and `log_hyperparams` (the configuration) a logger may have `log_picture`, `log_table`,
`log_summary`, `log_files` and `log_model`; `results.py` asks each for what it has.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


class RunLogger(Logger):
    """Base: `kind` names it; the configuration is in the run folder already and needs no logging."""

    kind = ""
    packages: Sequence[str] = ()
    """That it needs, each the extra of ours that brings it."""

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__()
        self.run_dir = Path(run_dir)

    @property
    def name(self) -> str:
        return self.kind

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The run folder holds config.yaml."""

    def keep_until(self, step: int, source: Path | None = None, only: str = "") -> None:
        """The run goes on from `step`; `source` is the metrics.csv of the run it comes from, of whose columns those that begin
        with `only` are kept."""

    def close(self, code: int) -> None:
        """Nothing more will come; `code` is the exit code of the run."""
