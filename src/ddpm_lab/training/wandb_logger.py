"""Curves, pictures, tables, configuration and summary for Weights & Biases, in wandb/ of the run folder."""

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from ddpm_lab.training.run_logger import RunLogger, require

log = logging.getLogger("ddpm_lab")

TIMEOUT = 30.0
"""Seconds to wait for the network when a run begins."""


class Wandb(RunLogger):
    """Online, or offline where there is no key or no network; a fault of wandb's is one line and never ends a run.

    The step is the optimiser's, so a resumed run goes on with its curve: wandb ignores steps that it has. The id is made once
    and kept in the run folder. Nothing is asked, and no run but this one is touched.
    """

    kind = "wandb"

    def __init__(
        self,
        mode: str,
        project: str,
        entity: str | None,
        group: str | None,
        tags: list[str],
        name: str | None,
        run_dir: str | Path,
    ) -> None:
        super().__init__(run_dir)
        if mode != "disabled":
            require("wandb")
        self.mode, self.folder = mode, self.run_dir / "wandb"
        self._about = {"project": project, "entity": entity, "group": group, "tags": tags, "name": name or self.run_dir.name}
        self._run: Any = None

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        self._send(lambda wandb, run: run.config.update(params, allow_val_change=True))

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._send(lambda wandb, run: run.log(metrics, step=step))

    @rank_zero_only
    def log_picture(self, key: str, path: Path, step: int) -> None:
        self._send(lambda wandb, run: run.log({key: wandb.Image(str(path))}, step=step))

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        with _environment("WANDB_DATA_DIR", str(self.folder.absolute())):  # tables are staged there until they are sent
            self._send(lambda wandb, run: run.log({key: wandb.Table(columns, rows)}, step=step))

    @rank_zero_only
    def log_summary(self, values: dict[str, float], step: int) -> None:
        self._send(lambda wandb, run: run.summary.update(values))

    @rank_zero_only
    def close(self, code: int) -> None:
        if self._run is not None:
            self._send(lambda wandb, run: run.finish(exit_code=code))
            self._run = None

    def _send(self, what: Callable[[Any, Any], object]) -> None:
        """`what` with the package and the run, which the first call begins. A fault ends the logging, not the training."""
        if self.mode == "disabled":
            return
        import wandb

        try:
            self._run = self._run or self._begin(wandb)
            what(wandb, self._run)
        except Exception as error:  # wandb raises many kinds, and none is worth a run
            self.mode = "disabled"
            log.warning("wandb: %s; the run goes on without it", _first_line(error))

    def _begin(self, wandb: Any) -> Any:
        try:
            return self._open(wandb)
        except Exception as error:
            if self.mode == "offline":
                raise
            self.mode, reason = "offline", _first_line(error)
        log.warning("wandb: %s; offline instead, to be sent with: wandb sync %s/offline-run-*", reason, self.folder)
        wandb.teardown()  # its service holds the id of the run that did not begin
        return self._open(wandb)

    def _open(self, wandb: Any) -> Any:
        online = self.mode == "online"
        wandb.setup(settings=wandb.Settings(silent=True))  # silent: nothing said, and no question asked
        run = wandb.init(
            dir=self.run_dir, id=self._id(), mode=self.mode, resume="allow" if online else None, reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", init_timeout=TIMEOUT), **self._about,
        )  # fmt: skip
        if online:
            log.info("wandb: %s", run.url)
        return run

    def _id(self) -> str:
        path = self.folder / "run_id"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(uuid.uuid4().hex[:12])
        return path.read_text()


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0].rstrip(".") or type(error).__name__


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A variable that is set for a while, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
