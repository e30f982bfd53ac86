"""Runs of MLflow and trackio: compared as the folders that they were."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from helpers import FEW_HELD_OUT, TINY, trained
from trackers import databases, places, tracker  # noqa: F401

from compare.synthetic import config, sweep, write_evaluation, write_run
from ddpm_lab.cli import compare
from ddpm_lab.cli.compare import parsed
from ddpm_lab.cli.evaluate import main as evaluate
from ddpm_lab.compare import mlflow_runs, online
from ddpm_lab.compare.group import Group, parse_group
from ddpm_lab.compare.online import fetch_group
from ddpm_lab.compare.remote import RemoteFile, RemoteRun, errors_of
from ddpm_lab.errors import UserError
from ddpm_lab.training.mlflow_logger import MLflow
from ddpm_lab.training.trackio_logger import Trackio


def send(kind: str, folder: Path, project: str, evaluation: bool = False, group: str | None = None) -> None:
    """What training sends of a run folder when it ends, or an evaluation."""
    made = {"mlflow": MLflow, "trackio": Trackio}[kind](project, group, run_dir=folder, evaluation=evaluation)
    files = [path for path in sorted(folder.rglob("*.*")) if path.is_file() and kind not in path.parts]
    of_evaluation = [path for path in files if "eval" in path.parts]
    sent = [folder / "config.yaml", *of_evaluation] if evaluation else [path for path in files if path not in of_evaluation]
    made.log_table("results", ["a"], [[1]], 1)
    made.log_files(sent, 1)
    made.close(0)


def compare_to(out: Path, *arguments: str) -> list[dict[str, str]]:
    compare._main([*arguments, f"out={out}"])
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_project_equals_the_folders_it_was(tracker, tmp_path):  # noqa: F811
    """With evaluations, which are runs of their own, and of a group alone."""
    root, project = sweep(tmp_path / "runs [1]", seeds=(1, 2)), tmp_path.name
    for folder in sorted(root.iterdir(), reverse=True):
        write_evaluation(folder, {("ancestral", 8, "beta"): (3.0 + int(folder.name) / 100, 9.0)})
    local = compare_to(tmp_path / "local", str(root))
    assert len(local) == 4 + 4
    for folder in sorted(root.iterdir(), reverse=True):
        send(tracker.kind, folder, project, group="g")
        send(tracker.kind, folder, project, evaluation=True, group="g")
    other = write_run(tmp_path / "9", config(9))
    send(tracker.kind, other, project)
    assert compare_to(tmp_path / "group", f"{tracker.kind}:{project}/g") == local
    assert compare_to(tmp_path / "all", f"{tracker.kind}:{project}") == compare_to(tmp_path / "both", str(root), str(other))


def test_only_what_has_changed_is_fetched_again(tracker, tmp_path):  # noqa: F811
    run, group = write_run(tmp_path / "run", config(1)), Group(None, tmp_path.name, "", tracker.kind)
    send(tracker.kind, run, group.project)
    first = fetch_group(group)[1]
    assert first.loaded == first.files > 3
    assert fetch_group(group)[1].loaded == 0
    text = (run / "summary.json").read_text()
    (run / "summary.json").write_text(text.replace("3", "4", 1))  # of the same size
    send(tracker.kind, run, group.project)
    second = fetch_group(group)[1]
    assert second.loaded > 0
    assert (second.folders[0] / "summary.json").read_text() == (run / "summary.json").read_text() != text


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        compare._main(list(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_there_is_said_in_one_line(tracker, tmp_path):  # noqa: F811
    send(tracker.kind, write_run(tmp_path / "run", config(1)), tmp_path.name)
    message = refused(f"{tracker.kind}:nothing")
    assert message.startswith(f"{tracker.kind}:nothing: ")
    assert tmp_path.name in message  # what there is
    assert f"{tracker.kind}:{tmp_path.name}/h" in refused(f"{tracker.kind}:{tmp_path.name}/h")


def test_an_experiment_whose_name_has_a_slash_is_found_before_a_group(monkeypatch):
    here = {"a/b": "1", "a": "2"}
    mlflow = SimpleNamespace(
        get_tracking_uri=lambda: "http://x",
        search_experiments=lambda: [SimpleNamespace(name=name, experiment_id=id) for name, id in here.items()],
        search_runs=lambda ids, **_: [run] if ids == ["1"] else [],
        MlflowClient=lambda: None,
    )
    run = SimpleNamespace(info=SimpleNamespace(run_id="r", run_name="n"), data=SimpleNamespace(tags={}))
    monkeypatch.setattr(mlflow_runs, "mlflow_client", lambda: mlflow)
    group, runs = mlflow_runs.runs_of(parse_group("mlflow:a/b"))
    assert (str(group), group.name, [each.id for each in runs]) == ("mlflow:a/b", "", ["r"])
    del here["a/b"]
    assert mlflow_runs.runs_of(parse_group("mlflow:a/b")) == (Group(None, "a", "b", "mlflow"), [])


def test_a_database_that_is_not_there_is_not_made(places, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    assert "MLFLOW_TRACKING_URI" in refused("mlflow:x")
    assert not (tmp_path / "none.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "127.0.0.1" in refused("mlflow:x")


@pytest.mark.parametrize("kind", ["mlflow", "trackio"])
def test_a_missing_package_is_answered_with_what_to_install(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    assert f"pip install 'ddpm-lab[{kind}]'" in refused(f"{kind}:x")


def test_names_of_a_tracker_do_not_leave_the_cache(tmp_path, monkeypatch):
    """Whatever it says: of a run, and of a file."""
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    asked = []

    def file(name: str) -> RemoteFile:
        def load(root: Path) -> None:
            asked.append(name)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("x")

        return RemoteFile(name, 1, ["v"], 1.0, load)

    names = ("../config.yaml", "run/../../config.yaml", "/etc/config.yaml", "run/eval/../evaluation.json", "run//config.yaml")
    files = [file(name) for name in ("run/config.yaml", "run/summary.json", *names, ".ssh/config.yaml", "a\\..\\b/config.yaml")]
    runs = [RemoteRun(id, "name", lambda: files, errors_of("?")) for id in ("a", "..", "../b", "/c")]
    monkeypatch.setattr(online, "runs_of", lambda group: (group, runs))
    fetched = fetch_group(Group(None, "p", "", "mlflow"))[1]
    assert fetched.folders == [tmp_path / "cache" / "mlflow" / "p" / "a" / "run"]
    assert sorted(asked) == ["run/config.yaml", "run/summary.json"]
    assert len(fetched.skipped) == 3
    here = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(tmp_path / "cache" / "mlflow" / "p" / "a") for path in here)


def test_projects_are_named_as_folders_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed(["mlflow:lab"])[:3] == ([Group(None, "lab", "", "mlflow")], None, Path("outputs/compare/lab"))
    assert parsed(["trackio:lab/g"])[:3] == ([Group(None, "lab", "g", "trackio")], None, Path("outputs/compare/g"))
    for tracker_ in ("mlflow", "trackio"):
        for wrong in ("", "lab/g/h", "lab/", "..", "lab/.."):
            with pytest.raises(UserError, match=rf"allowed is {tracker_}:"):
                parsed([f"{tracker_}:{wrong}"])


@pytest.mark.slow
def test_a_run_trained_and_evaluated_with_a_tracker_is_compared_as_its_folder(tracker, tmp_path):  # noqa: F811
    project = tmp_path.name
    chosen = [f"logger={tracker.kind}", f"logger.project={project}", "logger.group=g"]
    folder = trained(tmp_path / "runs" / "run", *TINY, *FEW_HELD_OUT, *chosen)
    asked = [f"ckpt={folder}", "quality.n=8", "nll.n=4", "nll.terms=null", "nll.train_stride=0", "name=e", chosen[0]]
    with patch.object(sys, "argv", ["evaluate.py", *asked]):
        evaluate()
    assert [(name, group) for _, name, group in tracker.runs(project)] == [("run", "g"), ("run eval/e", "g")]
    local = compare_to(tmp_path / "local", str(tmp_path / "runs"))
    assert len(local) == 2
    assert compare_to(tmp_path / "there", f"{tracker.kind}:{project}/g") == local
