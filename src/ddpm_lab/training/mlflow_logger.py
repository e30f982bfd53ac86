"""Curves, pictures, tables, configuration, final numbers and files for MLflow, at the server or database of
MLFLOW_TRACKING_URI."""

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from ddpm_lab.domains import Given, Text, checked
from ddpm_lab.errors import require_for_logger
from ddpm_lab.tracking import GROUP, PROJECT, mlflow_client
from ddpm_lab.training.run_logger import Tracker

LONGEST_VALUE = 6000
"""Characters of a parameter that MLflow takes."""
STOPPED = 128
"""Exit codes above are those of a run that a signal ended."""


@checked
class MLflow(Tracker):
    """Through MLflow's own client: Lightning's logger ends the run with training, when the final measurement is yet to come.

    An experiment of MLflow is a project here. The step is the optimiser's. A parameter of a resumed run keeps its first value,
    as MLflow allows no other: its config.yaml has the new one. Characters that MLflow takes in no name become "_".
    """

    kind = "mlflow"
    packages = ("mlflow",)

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
        require_for_logger("mlflow")
        self.project, self.title = project or PROJECT, name or self.run_dir.name
        self._tags = {"job_type": "evaluation" if evaluation else "training"} | ({GROUP: group} if group else {})
        self._id = ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:
        def send(mlflow: Any, client: Any) -> None:
            known = client.get_run(self._id).data.params
            new = {key: value for key, value in flat(params) if key not in known}
            params_ = [mlflow.entities.Param(key, str(value)[:LONGEST_VALUE]) for key, value in new.items()]
            client.log_batch(self._id, params=params_)

        self._send(send)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._send(lambda mlflow, client: self._numbers(mlflow, client, self._unsent(named(metrics), step), step))

    def log_summary(self, values: dict[str, float], step: int) -> None:
        self._send(lambda mlflow, client: self._numbers(mlflow, client, named(values), step))

    def _numbers(self, mlflow: Any, client: Any, values: dict[str, float], step: int | None) -> None:
        now = round(1000 * time.time())
        client.log_batch(self._id, [mlflow.entities.Metric(key, value, now, step or 0) for key, value in values.items()])

    def log_picture(self, key: str, path: Path, step: int | None) -> None:
        def send(mlflow: Any, client: Any) -> None:
            with Image.open(path) as picture:
                client.log_image(self._id, picture, key=_name(key), step=step or 0, synchronous=True)

        self._send(send)

    def log_table(self, key: str, columns: list[str], rows: list[list[Any]], step: int | None) -> None:
        """As JSON that MLflow's `load_table` reads; of several steps the last."""
        content = {"columns": columns, "data": rows}
        self._send(lambda mlflow, client: client.log_dict(self._id, content, f"tables/{_name(key)}.json"))

    def log_files(self, files: list[Path], step: int | None) -> None:
        """Copies of files of the run folder, in a folder of its name: # and % would be part of an address."""

        def send(mlflow: Any, client: Any) -> None:
            for file in files:
                client.log_artifact(self._id, str(file), _name(self._place(file).parent.as_posix()))

        self._send(send)

    def close(self, code: int) -> None:
        if self._run is not None:
            status = "FINISHED" if code == 0 else "KILLED" if code > STOPPED else "FAILED"
            self._send(lambda mlflow, client: client.set_terminated(self._id, status))
            self._run = None

    def _begin(self, package: Any) -> Any:
        mlflow, kept = mlflow_client(), self._kept_id()
        client = mlflow.MlflowClient()
        if kept is not None:
            known = client.get_run(kept).data.metrics
            client.update_run(kept, "RUNNING")
            self._last = {key: max(point.step for point in client.get_metric_history(kept, key)) for key in known}
            self._id = kept
            return client
        experiment = mlflow.set_experiment(self.project)  # made where there is none, also if another process makes it now
        run = client.create_run(experiment.experiment_id, run_name=self.title, tags=self._tags)
        self._id = self._keep_id(run.info.run_id)
        return client


def named(values: Mapping[str, float]) -> dict[str, float]:
    return {_name(key): float(value) for key, value in values.items()}


def _name(key: str) -> str:
    """What MLflow takes as a name: of fid@50000 it is fid_50000."""
    return re.sub(r"[^\w./ -]", "_", key)


def flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by their keys with dots between, as they are typed."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{before}{key}.")
        else:
            yield _name(f"{before}{key}"), value
