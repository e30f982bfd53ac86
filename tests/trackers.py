"""MLflow and trackio themselves, with databases in a folder of the test session, and what they hold, in one form."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def databases(tmp_path_factory):
    """trackio reads where its databases are when it is imported, and MLflow takes seconds to make one."""
    folder = tmp_path_factory.mktemp("trackers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        yield folder


@pytest.fixture
def places(databases, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{databases / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # MLflow's artifacts are in mlruns/ there


class OfMlflow:
    kind = "mlflow"

    def __init__(self) -> None:
        import mlflow

        self.mlflow, self.client = mlflow, mlflow.MlflowClient()

    def _runs(self, project: str) -> list[Any]:
        there = self.client.get_experiment_by_name(project)
        return self.client.search_runs([there.experiment_id], order_by=["attributes.start_time ASC"]) if there else []

    def runs(self, project: str) -> list[tuple[str, str, str | None]]:
        """(id, name, group)."""
        return [(run.info.run_id, run.info.run_name, run.data.tags.get("group")) for run in self._runs(project)]

    def points(self, project: str, key: str) -> list[tuple[int, float]]:
        (run,) = self._runs(project)
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, key.replace("@", "_"))]

    def setting(self, project: str, key: str) -> str:
        (run,) = self._runs(project)
        return run.data.params[key]

    def table(self, project: str, key: str) -> list[list[Any]]:
        (run,) = self._runs(project)
        return self.mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/tables/{key}.json")["data"]

    def pictures(self, project: str, key: str) -> dict[int, Path]:
        (run,) = self._runs(project)
        folder = Path(self.mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/images"))
        named = folder.glob(f"{key.replace('/', '~')}+step+*.png")
        return {int(path.name.split("+step+")[1].split("+")[0]): path for path in named}


class OfTrackio:
    kind = "trackio"

    def __init__(self) -> None:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        self.trackio, self.storage = trackio, SQLiteStorage

    def runs(self, project: str) -> list[tuple[str, str, str | None]]:
        return [(run.id, run.name, run.config["_Group"]) for run in self.trackio.Api().runs(project)]

    def _values(self, project: str, key: str) -> list[tuple[int, Any]]:
        ((id, _, _),) = self.runs(project)
        return [(row["step"], row[key]) for row in self.storage.get_logs(project, run_id=id) if key in row]

    points = _values

    def setting(self, project: str, key: str) -> str:
        (run,) = self.trackio.Api().runs(project)
        return json.dumps(run.config[key])

    def table(self, project: str, key: str) -> list[list[Any]]:
        return [list(row.values()) for row in self._values(project, key)[-1][1]["_value"]]

    def pictures(self, project: str, key: str) -> dict[int, Path]:
        from trackio.utils import MEDIA_DIR

        return {step: MEDIA_DIR / value["file_path"] for step, value in self._values(project, key)}


@pytest.fixture(params=["mlflow", "trackio"])
def tracker(request, places):
    """trackio is an extra of its own: where it is not installed, it is not tested."""
    if request.param == "trackio":
        pytest.importorskip("trackio")
    return OfMlflow() if request.param == "mlflow" else OfTrackio()
