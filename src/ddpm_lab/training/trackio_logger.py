"""Curves, pictures, tables, configuration, final numbers and files for trackio, in a database on this machine."""

import contextlib
import io
import uuid
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from ddpm_lab.domains import Given, Text, checked
from ddpm_lab.errors import require_for_logger
from ddpm_lab.tracking import FILES, PROJECT
from ddpm_lab.training.run_logger import Tracker


@checked
class Trackio(Tracker):
    """In the folder TRACKIO_DIR, or where trackio keeps its own: no account and no server.

    The run is made as an object and not by trackio.init, which goes on with any run of the same name, ends a run in progress,
    and prints. The step is the optimiser's.
    """

    kind = "trackio"
    packages = ("trackio",)

    def __init__(
        self,
        project: Text | None = None,
        group: Text | None = None,
        name: Text | None = None,
        *,
        run_dir: Given[str | Path],
        evaluation: Given[bool] = False,
    ) -> None:
        super().__init__(run_dir, evaluation)
        require_for_logger("trackio")
        self.project, self.group, self.title = project or PROJECT, group, name or self.run_dir.name

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        self._send(lambda trackio, run: run.config.update(params))  # sent with the first numbers

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        def send(trackio: Any, run: Any) -> None:
            if new := self._unsent(metrics, step):
                run.log(new, step)

        self._send(send)

    def log_picture(self, key: str, path: Path, step: int | None) -> None:
        self._send(lambda trackio, run: run.log({key: trackio.Image(str(path))}, step))

    def log_table(self, key: str, columns: list[str], rows: list[list[Any]], step: int | None) -> None:
        self._send(lambda trackio, run: run.log({key: trackio.Table(columns, rows)}, step))

    def log_summary(self, values: dict[str, float], step: int) -> None:
        """trackio has no summary: the numbers are points at the last step."""
        self._send(lambda trackio, run: run.log(values, step))

    def log_files(self, files: list[Path], step: int | None) -> None:
        """The one artifact of the run: files of the run folder, in a folder of its name."""

        def send(trackio: Any, run: Any) -> None:
            artifact = trackio.Artifact(f"run-{run.id}", FILES)
            for file in files:
                artifact.add_file(file, self._place(file).as_posix())
            run.log_artifact(artifact, overwrite=True)

        self._send(send)

    def close(self, code: int) -> None:
        if self._run is not None:
            with contextlib.redirect_stdout(io.StringIO()):  # it asks to wait
                self._send(lambda trackio, run: run.finish())
            self._run = None

    def _begin(self, package: Any) -> Any:
        from trackio.sqlite_storage import SQLiteStorage

        SQLiteStorage.validate_project_name(self.project)
        kept = self._kept_id()
        if kept is not None:
            for row in SQLiteStorage.get_logs(self.project, run_id=kept):
                self._last |= {key: max(row["step"], self._last.get(key, -1)) for key in row}
        id = kept or self._keep_id(uuid.uuid4().hex)
        return package.Run(None, self.project, None, name=self.title, run_id=id, group=self.group)
