"""The dashboard that is written or saved: its filter, and panels of what runs really log."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import CONF, TINY, trained
from training.wandb_file import runs as wandb_runs
from wandb_server import KEY, Run, no_account, server  # noqa: F401

from compare.synthetic import config, sweep, write_run
from ddpm_lab.cli import dashboard
from ddpm_lab.cli.dashboard import parsed
from ddpm_lab.compare import group as groups
from ddpm_lab.errors import UserError
from ddpm_lab.training.wandb_logger import PROJECT

pytestmark = pytest.mark.usefixtures("no_account")
CURVE = yaml.safe_load((CONF / "callbacks" / "default.yaml").read_text())["frechet_curve"]
ONLINE = ("project=lab", "group=g")


def written(tmp_path: Path, *arguments: str) -> dict:
    dashboard._main([*arguments, f"out={tmp_path / 'new' / 'd.json'}"])
    return json.loads((tmp_path / "new" / "d.json").read_text(encoding="utf-8"))


def section(content: dict) -> dict:
    return content["spec"]["section"]


def panels(content: dict) -> list[tuple[str, dict]]:
    return [
        (panel["viewType"], panel["config"])
        for part in section(content)["panelBankConfig"]["sections"]
        for panel in part["panels"]
    ]


def asked_for(content: dict) -> dict[str, set[str]]:
    """The keys of all panels: of curves and bars, of media and tables, of a run's summary, of its configuration."""
    result: dict[str, set[str]] = {"metrics": set(), "media": set(), "summary": set(), "config": set()}
    for kind, entry in panels(content):
        result["metrics"] |= set(entry.get("metrics", ()))
        result["media"] |= set(entry.get("mediaKeys", ()))
        accessors = [column["accessor"] for column in entry.get("columns", ())]
        if kind == "Scatter Plot":
            accessors += [entry["xAxis"], entry["yAxis"]]
        for accessor in accessors:
            room, _, key = accessor.partition(":")
            result[room].add(key)
        if kind == "Weave":
            result["media"].add(entry["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"])
    return result


def reached(configuration: dict, key: str) -> object:
    """Of a nested configuration as wandb has it: `value` behind the first part of the key."""
    first = key.partition(".")[0]
    value: Any = {first: {"value": configuration[first]}}
    for part in key.split("."):
        value = value[part]
    return value


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """A run that logs to wandb, offline."""
    folder = tmp_path_factory.mktemp("sweep") / "0"
    return trained(folder, *TINY, "logger=wandb", "logger.mode=offline")


@pytest.mark.parametrize("by", ["group=g", "folder"])
def test_every_panel_shows_what_a_run_logs(tmp_path, smoke, by):
    content = written(tmp_path, "project=lab", by if by != "folder" else str(smoke.parent))
    (run,) = wandb_runs(smoke)
    logged = {key for row in run.history for key in row}
    result = asked_for(content)
    finals = {key for key in result["metrics"] if key.startswith("final/")}
    curve = f"val/pixels_fd@{8 if by == 'folder' else CURVE['n']}"  # of this run, or of the default
    curves = {key for key in logged if isinstance(run.summary.get(key), float | int)}
    assert result["metrics"] - finals - {curve} <= curves
    assert curve in curves or by != "folder"
    assert {"val/bound_bpd", curve, "train/loss", "train/loss_q4"} <= result["metrics"]
    assert finals | result["summary"] <= run.summary.keys()
    assert {"final/bound_bpd", "final/pixels_fd"} == finals == result["summary"]
    assert {"samples/grid", "final/results", "final/vlb_terms"} <= result["media"] <= logged
    assert {run.summary[key]["_type"] for key in result["media"]} == {"image-file", "table-file"}
    for key in result["config"]:
        assert reached(run.config, key) is not None
    pinned = section(content)["runSets"][0]["runFeed"]["columnPinned"]
    for column in pinned:
        room, _, key = column.partition(":")
        assert room == "run" or (key in run.summary if room == "summary" else reached(run.config, key) is not None)


def test_runs_are_those_of_the_group_and_grouped_by_what_differs(tmp_path):
    content = written(tmp_path, "project=lab", "entity=me", str(sweep(tmp_path / "2026-01-01_12-00-00", seeds=(1, 2))))
    assert (content["entity"], content["project"], content["displayName"]) == ("me", "lab", "ddpm-lab 2026-01-01_12-00-00")
    (entry,) = section(content)["runSets"]
    (one,) = entry["filters"]["filters"]
    assert (one["key"], one["op"], one["value"]) == ({"section": "run", "name": "group"}, "=", "2026-01-01_12-00-00")
    differing = ["schedule.value._target_", "loss.value._target_"]  # the variance follows the loss
    assert entry["grouping"] == [{"section": "config", "name": name} for name in differing]
    assert section(content)["settings"]["useRunsTableGroupingInPanels"]
    assert [column for column in entry["runFeed"]["columnOrder"] if column.startswith("config:")] == [
        "config:seed.value",
        *(f"config:{name}" for name in differing),
    ]
    assert entry["sort"]["keys"][0] == {"key": {"section": "summary", "name": "final/bound_bpd"}, "ascending": True}


def test_panels_are_of_the_metrics_that_the_runs_have(tmp_path):
    for number, T in enumerate((8, 4)):
        entry = config(1)
        entry["schedule"]["T"] = T
        folder = write_run(tmp_path / "g" / str(number), entry)
        summary = json.loads((folder / "summary.json").read_text())
        summary["metrics"]["fid@64"] = summary["metrics"].pop("pixels_fd")
        (folder / "summary.json").write_text(json.dumps(summary))
        curves = (folder / "metrics.csv").read_text().replace("val/pixels_fd", "val/fid@64")
        (folder / "metrics.csv").write_text(curves)
    content = written(tmp_path, "project=lab", str(tmp_path / "g"))
    result = asked_for(content)
    assert result["summary"] == {"final/bound_bpd", "final/fid@64"}
    assert not any("pixels" in key for keys in result.values() for key in keys)
    assert result["config"] == {"schedule.value.T"}


def test_online_the_view_is_saved_as_the_runs_there_are(tmp_path, server, capsys):  # noqa: F811
    summary = {"final/bound_bpd": 3.0, "final/fid@64": 9.0, "val/bound_bpd": 3.1, "samples/grid": {"_type": "image-file"}}
    for number, T in enumerate((8, 4)):
        entry = config(1)
        entry["schedule"]["T"] = T
        server.runs.append(Run(f"id{number}", str(number), "g", config=entry, summary=summary))
    server.runs.append(Run("x", "foreign", "g", config={"lr": 1}))
    dashboard._main([*ONLINE, "name=Schedules"])
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "lab", "Schedules")
    saved = {"spec": json.loads(view["spec"])}
    assert asked_for(saved)["config"] == {"schedule.value.T"}
    assert asked_for(saved)["summary"] == {"final/bound_bpd", "final/fid@64"}
    assert "val/bound_bpd" in asked_for(saved)["metrics"]
    assert "val/fid@64" not in asked_for(saved)["metrics"]
    name = re.fullmatch(r"nw-(\w+)-v", view["name"])[1]
    assert capsys.readouterr().out.splitlines() == [f"saved: {server.url}/me/lab?nw={name}"]


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        dashboard._main(list(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_key_or_a_network_it_is_one_line(monkeypatch):
    monkeypatch.setattr(groups, "ANSWER_TIMEOUT", 1)
    message = refused(*ONLINE)
    assert message.startswith("wandb:lab/g: ")
    assert "wandb login" in message
    assert message.endswith(dashboard.ALTERNATIVE)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    message = refused(*ONLINE)
    assert "check the network" in message
    assert message.endswith(dashboard.ALTERNATIVE)


def test_a_network_that_goes_while_saving_is_one_line(server, monkeypatch):  # noqa: F811
    import wandb_workspaces.workspaces.internal as internal
    from wandb.errors import CommError

    def lost(view):
        raise CommError("connection reset\nby peer")

    server.runs.append(Run("a", "a", "g", config=config(1)))
    monkeypatch.setattr(internal, "upsert_view2", lost)
    assert refused(*ONLINE) == f"wandb:me/lab/g: connection reset by peer; check the network{dashboard.ALTERNATIVE}"
    server.runs.clear()
    assert "wandb:me/lab/g" in refused(*ONLINE)


def test_without_the_package_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["dashboard.py", *ONLINE, "out=x"])
    with pytest.raises(SystemExit) as caught:
        dashboard.main()
    assert caught.value.code == 2
    message = "error: the package wandb-workspaces is not installed: pip install 'ddpm-lab[dashboards]'\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("group", ["a=b", "it's", "a<b", 'a"b', "a\\b"])
def test_a_group_that_the_filter_would_change_is_refused(tmp_path, group):
    with pytest.raises(UserError, match="cannot filter by a name with"):
        written(tmp_path, "project=lab", f"group={group}")


def test_mistakes_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    for wrong, message in (
        (["projct=lab"], "Did you mean project=?"),
        (["group=g"], "project= is missing"),
        (["project=lab"], "group= is missing"),
        ([*ONLINE, "nowhere"], "nowhere: no such folder"),
        ([*ONLINE, "entity=a/b"], "allowed is wandb:"),
        ([*ONLINE, str(tmp_path), str(tmp_path)], "one folder is enough"),
        ([*ONLINE, str(tmp_path)], "no run that has ended"),
        ([*ONLINE, f"out={tmp_path}/file/d.json"], "cannot be written"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            dashboard._main([*wrong, *(["out=x"] if not any(a.startswith("out=") for a in wrong) else [])])
    assert parsed([*ONLINE]).out is None


def test_the_project_is_the_one_that_runs_go_to():
    """What the help says to type is what logger=wandb does of itself."""
    assert f"project={PROJECT} " in dashboard.USAGE
