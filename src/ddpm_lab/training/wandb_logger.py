"""Curves, pictures, tables, configuration, summary and files for Weights & Biases, in wandb/ of the run folder."""

import glob
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_only

from ddpm_lab.domains import Given, Text, checked
from ddpm_lab.models.checkpoint import write_weights
from ddpm_lab.tracking import PROJECT, first_line
from ddpm_lab.training.run_logger import Tracker

log = logging.getLogger("ddpm_lab")

INIT_TIMEOUT = 30.0
"""Seconds to wait for the network when a run begins."""
LAST = "checkpoints/last.ckpt"
LONGEST_NAME = 128
"""Characters of the name of a run or of a group. Longer names are cut: the server may refuse them."""
Mode = Literal["online", "offline", "disabled"]
Artifact = Literal["none", "weights", "checkpoint"]


@checked
class Wandb(Tracker):
    """Online, or offline where there is no key or no network.

    The step is the optimiser's: wandb ignores steps that it has, so a resumed run continues its curves. Under `wandb agent` the
    id is the agent's. An evaluation sent later under the id of the training run would replace that run's summary. There are no
    prompts, and no other run is touched.
    """

    kind = "wandb"

    def __init__(
        self,
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
    ) -> None:
        super().__init__(run_dir, evaluation)
        self.mode, self.off, self.artifact = mode, mode == "disabled", artifact
        self._named = name is not None
        self._identity = {
            "project": project or PROJECT,
            "entity": entity,
            "group": group and group[:LONGEST_NAME],
            "tags": tags,
            "name": (name or self.run_dir.name)[:LONGEST_NAME],
            "job_type": "evaluation" if evaluation else "training",
        }

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        self._send(lambda wandb, run: run.config.update(params, allow_val_change=True))

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._send(lambda wandb, run: run.log(metrics, step=step))

    def log_picture(self, key: str, path: Path, step: int) -> None:
        self._send(lambda wandb, run: run.log({key: wandb.Image(str(path))}, step=step))

    def log_table(self, key: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        with self._staging():
            self._send(lambda wandb, run: run.log({key: wandb.Table(columns, rows)}, step=step))

    def log_summary(self, values: dict[str, float], step: int) -> None:
        self._send(lambda wandb, run: run.summary.update(values))

    def log_files(self, files: list[Path], step: int) -> None:
        """Copies of files of the run folder, in a folder of its name: wandb itself writes a config.yaml."""

        def send(wandb: Any, run: Any) -> None:
            for file in files:
                name = self._place(file)
                (run.dir / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, run.dir / name)  # wandb would make a link
                run.save(os.path.join(run.dir, glob.escape(str(name))), base_path=run.dir, policy="now")

        self._send(send)

    def log_model(self, step: int) -> None:
        """The last checkpoint, or its weights, in a folder that loads like a run folder."""

        def send(wandb: Any, run: Any) -> None:
            artifact = wandb.Artifact(f"{self.artifact}-{run.id}", type="model", metadata={"step": step, "run": run.name})
            files = {name: self.run_dir / name for name in ("config.yaml", "summary.json", LAST)}
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                if self.artifact == "weights":
                    whole, files[LAST] = files[LAST], Path(folder, "weights.ckpt")
                    write_weights(whole, files[LAST])
                for name, path in files.items():
                    artifact.add_file(str(path), name, skip_cache=True)
            run.log_artifact(artifact)

        if self.artifact != "none":
            with self._staging():
                self._send(send)

    @contextmanager
    def _staging(self) -> Iterator[None]:
        """Within the block, tables and artifacts are kept in the run folder until they are sent, unless the user says where."""
        before = os.environ.get("WANDB_DATA_DIR")
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder))
        try:
            yield
        finally:
            if before is None:
                del os.environ["WANDB_DATA_DIR"]

    def close(self, code: int) -> None:
        if self._run is not None:
            self._send(lambda wandb, run: run.finish(exit_code=code))
            self._run = None

    def _begin(self, package: Any) -> Any:
        try:
            return self._open(package)
        except Exception as error:
            if self.mode == "offline":
                raise
            self.mode, way = "offline", f"offline instead, to be sent with: wandb sync {self.folder}/offline-run-*"
            log.warning("wandb: %s; %s", first_line(error), way)
        package.teardown()  # its service still holds the id of the run that did not begin
        return self._open(package)

    def _open(self, wandb: Any) -> Any:
        online = self.mode == "online"
        wandb.setup(settings=wandb.Settings(silent=True))  # silent: no output and no prompt
        run = wandb.init(
            dir=self.run_dir,
            id=self._id(),
            mode=self.mode,
            resume="allow" if online else None,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT),
            **self._identity,
        )
        if run.sweep_id and not self._named:
            of_agent = " ".join(f"{key}={value}" for key, value in run.config.items())
            run.name = of_agent[:LONGEST_NAME]
        if online:
            log.info("wandb: %s", run.url)
        return run

    def _id(self) -> str:
        of_agent = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
        return self._keep_id(of_agent or self._kept_id() or uuid.uuid4().hex[:12])
