"""What a run says reaches MLflow and trackio, and is read back by their own means."""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from trackers import databases, places, tracker  # noqa: F401

from ddpm_lab.errors import UserError
from ddpm_lab.training.mlflow_logger import MLflow
from ddpm_lab.training.results import close, log_picture, log_table
from ddpm_lab.training.trackio_logger import Trackio

from .logging_support import curves, whole_run
from .support import CONFIG, T, quiet

pytestmark = quiet
LOGGERS = {"mlflow": MLflow, "trackio": Trackio}


def logger(tracker, folder: Path, **about):  # noqa: F811
    return LOGGERS[tracker.kind](**{"project": folder.parent.name, **about}, run_dir=folder)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_it_holds_curves_pictures_tables_configuration_and_final_numbers(tracker, tmp_path):  # noqa: F811
    folder, project = tmp_path / "my_run", tmp_path.name
    results = whole_run(folder, logger(tracker, folder, group="g"))
    ((id, name, group),) = tracker.runs(project)
    assert (name, group) == ("my_run", "g")
    assert (folder / tracker.kind / "run_id").read_text() == id
    for key, curve in curves(folder).items():
        points = tracker.points(project, key)
        assert len(points) == len(curve)
        assert dict(points) == pytest.approx(curve, rel=1e-12)
    drawn = tracker.pictures(project, "samples/grid")
    assert drawn.keys() == {2, 4}
    assert np.array_equal(pixels(drawn[4]), pixels(folder / "samples" / "step_0000004.png"))
    assert len(tracker.table(project, "val/vlb_terms")) == T
    assert tracker.table(project, "final/results") == [[r.label, r.known, r.se, r.key] for r in results]
    for result in results:
        assert dict(tracker.points(project, f"final/{result.key}")) == pytest.approx({4: result.value}, rel=1e-12)
    assert tracker.setting(project, "seed") == str(CONFIG["seed"])


def test_a_resumed_run_is_the_same_run_and_repeats_no_point(tracker, tmp_path):  # noqa: F811
    folder, project = tmp_path / "run", tmp_path.name
    first = logger(tracker, folder)
    first.log_hyperparams({"trainer": {"max_steps": 4}})
    for step in (1, 2, 3, 4):
        first.log_metrics({"a": step}, step)
    first.log_metrics({"b": 2}, 2)
    first.close(130)
    second = logger(tracker, folder)
    second.log_hyperparams({"trainer": {"max_steps": 5}})
    for step in (3, 4, 5):
        second.log_metrics({"a": step}, step)
        second.log_metrics({"b": step}, step)
    second.close(0)
    assert len(tracker.runs(project)) == 1
    assert tracker.points(project, "a") == [(step, step) for step in (1, 2, 3, 4, 5)]
    assert tracker.points(project, "b") == [(step, step) for step in (2, 3, 4, 5)]
    other = logger(tracker, tmp_path / "elsewhere" / "run", project=project)  # the same name
    other.log_metrics({"a": 1}, 1)
    other.close(0)
    assert len({id for id, *_ in tracker.runs(project)}) == 2


def test_an_evaluation_is_a_run_of_its_own(tracker, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    for evaluation in (False, True):
        made = LOGGERS[tracker.kind](project=tmp_path.name, run_dir=folder, evaluation=evaluation)
        made.log_table("t", ["a"], [[1]], None)
        made.close(0)
    first, _ = sorted(tracker.runs(tmp_path.name), key=lambda run: run[0] != (folder / tracker.kind / "run_id").read_text())
    assert first[0] == (folder / tracker.kind / "run_id").read_text()


def test_other_processes_write_nothing(tracker, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    made = logger(tracker, tmp_path / "run")
    made.log_hyperparams({"a": 1})
    made.log_metrics({"a": 1.0}, 1)
    other = SimpleNamespace(loggers=[made], is_global_zero=False, global_step=1, default_root_dir=tmp_path)
    log_picture(other, "key", tmp_path)
    log_table(other, "key", ["a"], [[1]])
    close(other, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [(0, "FINISHED"), (130, "KILLED"), (1, "FAILED")])
def test_mlflow_knows_how_a_run_ended(status, places, tmp_path):  # noqa: F811
    import mlflow

    made = MLflow(project=tmp_path.name, run_dir=tmp_path / "run")
    made.log_metrics({"a": 1.0}, 1)
    made.close(status[0])
    assert mlflow.MlflowClient().get_run((tmp_path / "run" / "mlflow" / "run_id").read_text()).info.status == status[1]


def test_mlflow_gets_names_of_files_that_an_address_can_hold(places, tmp_path):  # noqa: F811
    """A server takes what is behind # for no part of the name."""
    import mlflow

    folder = tmp_path / "a#b%c?d [1]"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1")
    made = MLflow(project=tmp_path.name, run_dir=folder)
    made.log_files([folder / "config.yaml"], 1)
    made.close(0)
    (there,) = mlflow.MlflowClient().list_artifacts((folder / "mlflow" / "run_id").read_text())
    assert there.path == "a_b_c_d _1_"


def test_without_a_server_training_goes_on_and_one_line_says_so(places, tmp_path, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    folder = tmp_path / "run"
    with caplog.at_level(logging.WARNING, "ddpm_lab"):
        whole_run(folder, MLflow(run_dir=folder))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ddpm_lab"]
    assert line.startswith("mlflow: ")
    assert "127.0.0.1" in line
    assert curves(folder)


@pytest.mark.parametrize("kind", LOGGERS)
def test_a_missing_package_is_answered_with_what_to_install(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(UserError, match=rf"logger={kind}: .* pip install 'ddpm-lab\[{kind}\]'"):
        LOGGERS[kind](run_dir=tmp_path)
