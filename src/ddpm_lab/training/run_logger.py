"""What the loggers of a run share: they write into its folder, on process 0, and hold what they can.

Besides Lightning's `log_metrics` and `log_hyperparams` (the configuration) a logger may have `log_picture`, `log_table`,
`log_summary`, `log_files` and `log_model`; `results.py` asks each for what it has.
"""

import logging
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from ddpm_lab.tracking import first_line

log = logging.getLogger("ddpm_lab")


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


class Tracker(RunLogger):
    """Base of loggers that send to a server or a database, by the package that `kind` names. The run there begins with the
    first result. An error there is logged as one line and never ends a run.

    The id is kept in <kind>/run_id of the run folder: under a path or a name two runs could share a curve. An evaluation is a
    run with an id of its own.
    """

    def __init__(self, run_dir: str | Path, evaluation: bool) -> None:
        super().__init__(os.path.abspath(run_dir))  # its last part is a name, also of "."
        self.folder, self.evaluation, self.off = self.run_dir / self.kind, evaluation, False
        self._run: Any = None
        self._last: dict[str, int] = {}
        """By metric, the last step that the tracker has of a run that is continued."""

    def _begin(self, package: Any) -> Any:
        """The run there, to which everything is sent."""
        raise NotImplementedError

    def _send(self, send: Callable[[Any, Any], object]) -> None:
        """Calls `send` with the package and the run, which the first call begins. An error ends the logging only."""
        if self.off:
            return
        package = import_module(self.kind)
        try:
            self._run = self._run or self._begin(package)
            send(package, self._run)
        except Exception as error:  # these packages raise many kinds; none may end a run
            self.off = True
            log.warning("%s: %s; the run goes on without it", self.kind, first_line(error))

    def _kept_id(self) -> str | None:
        path = self.folder / "run_id"
        return None if self.evaluation or not path.exists() else path.read_text()

    def _keep_id(self, id: str) -> str:
        if not self.evaluation:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "run_id").write_text(id)
        return id

    def _place(self, file: Path) -> Path:
        """Of a file of the run folder, below a folder of its name."""
        return Path(self.run_dir.name) / os.path.relpath(file, self.run_dir)

    def _unsent(self, metrics: dict[str, float], step: int | None) -> dict[str, float]:
        """Without what the tracker has: a resumed run repeats rows that its checkpoint does not know."""
        return {key: float(value) for key, value in metrics.items() if step is None or step > self._last.get(key, -1)}
