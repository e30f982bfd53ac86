"""Runs of Weights & Biases: compared as the folders that they were, through the real package and a server on this machine."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wandb_server import BEFORE, KEY, Run, no_account, server  # noqa: F401

from compare.synthetic import config, sweep, write_evaluation, write_run
from ddpm_lab.cli import compare
from ddpm_lab.cli.compare import parsed
from ddpm_lab.compare import group as groups
from ddpm_lab.compare.group import Group
from ddpm_lab.compare.online import fetch_group
from ddpm_lab.errors import UserError

pytestmark = pytest.mark.usefixtures("no_account")
LATER = "2026-01-02T12:00:00Z"
GROUP = Group("me", "lab", "g")


def sent(folder: Path, id: str, changed: str = BEFORE, group: str = "g") -> Run:
    """What the logger sends of a run folder, beside what wandb puts there itself."""
    files = {f"{folder.name}/{path.relative_to(folder)}": path for path in sorted(folder.rglob("*")) if path.is_file()}
    entry = {"config.yaml": b"wandb_version: 1", "wandb-summary.json": b"{}", "media/images/samples/grid_4.png": b"png"}
    content = {name: path.read_bytes() for name, path in files.items()} | entry
    return Run(id, folder.name, group, {name: (data, changed) for name, data in content.items()})


def compare_to(out: Path, *arguments: str) -> list[dict[str, str]]:
    compare._main([*arguments, f"out={out}"])
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_group_online_equals_the_folders_it_was(tmp_path, server, capsys):  # noqa: F811
    """Of runs that come in another order, with evaluations of which the later one counts."""
    root = sweep(tmp_path / "runs", seeds=(1, 2))
    for folder in root.iterdir():
        seed = int(folder.name) % 2
        write_evaluation(folder, {("ancestral", 8, "beta"): (3.0 + seed / 100, 9.0), ("ancestral", 4, "beta"): (4.0, 12.0)})
    server.runs = [sent(folder, f"id{folder.name}") for folder in sorted(root.iterdir(), reverse=True)]
    server.runs.append(Run("other", "other", "another group"))
    local = compare_to(tmp_path / "local", str(root))
    capsys.readouterr()
    online = compare_to(tmp_path / "online", "wandb:me/lab/g")
    assert online == local
    assert len(local) == 4 + 4 * 2
    assert (tmp_path / "cache/wandb/me/lab/g/id0/0/summary.json").read_bytes() == (root / "0/summary.json").read_bytes()
    message = capsys.readouterr().out.splitlines()[0]
    assert message == f"wandb:me/lab/g: 8 run folders, {len(server.downloads)} of {len(server.downloads)} files fetched"
    page = (tmp_path / "online" / "index.html").read_text()
    assert "wandb:me/lab/g" in page
    assert page.count("data:image/png;base64,") == (tmp_path / "local" / "index.html").read_text().count("data:image/png")


def test_of_evaluations_the_one_that_changed_last_counts(tmp_path, server):  # noqa: F811
    run = write_run(tmp_path / "1", config(1))
    write_evaluation(run, {("ancestral", 8, "beta"): (3.0, 9.0)})
    (old,) = run.glob("eval/*/evaluation.json")
    result = sent(run, "a")
    name = f"1/{old.relative_to(run)}"
    content = json.loads(old.read_text())
    content["arms"][0]["results"][0]["value"] = 7.0
    result.files["1/eval/a_newer/evaluation.json"] = (json.dumps(content).encode(), LATER)
    result.files["1/eval/z_older/evaluation.json"] = (old.read_bytes(), "2025-01-01T00:00:00Z")
    assert name in result.files
    server.runs = [result]
    row = compare_to(tmp_path / "out", "wandb:lab/g")[1]
    assert "7.0" in row.values()


def test_only_what_has_changed_is_fetched_again(tmp_path, server):  # noqa: F811
    run = write_run(tmp_path / "run", config(1))
    server.runs = [sent(run, "a")]
    first = fetch_group(GROUP)[1]
    assert first.loaded == first.files == len(server.downloads) > 3
    assert all(name.startswith("run/") for name in server.downloads)
    server.downloads.clear()
    assert fetch_group(GROUP)[1].loaded == 0
    (run / "summary.json").write_text((run / "summary.json").read_text() + " ")
    (run / "samples" / "step_0000020.png").rename(run / "samples" / "step_0000030.png")
    server.runs = [sent(run, "a")]
    fetch_group(GROUP)[1]
    assert sorted(server.downloads) == ["run/samples/step_0000030.png", "run/summary.json"]
    here = tmp_path / "cache/wandb/me/lab/g/a/run"
    assert (here / "summary.json").read_bytes() == (run / "summary.json").read_bytes()
    assert [path.name for path in (here / "samples").iterdir()] == ["step_0000030.png"]
    server.downloads.clear()
    (here / "config.yaml").unlink()
    (here.parent / "files.json").write_text("{")
    assert fetch_group(GROUP)[1].loaded == len(server.downloads) == first.files
    assert not list(here.parent.glob(".partial-*"))


class Touching:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "value", ["{_target_: os.mkdir, path: ran}", "${oc.env:SECRET}", "!!python/object/apply:os.mkdir [ran]", "${hydra:x}"]
)
def test_a_configuration_of_the_group_runs_and_looks_up_nothing(value, tmp_path, server, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("SECRET", "hidden-word")
    monkeypatch.chdir(tmp_path)
    server.runs = []
    for id, folder in (("a", write_run(tmp_path / "good", config(1))), ("b", write_run(tmp_path / "bad", config(1), 2.9))):
        result = sent(folder, id)
        if id == "b":
            text, changed = result.files["bad/config.yaml"]
            result.files["bad/config.yaml"] = (text + f"\nloss: {value}\nnet:\n  _target_: {value!r}\n".encode(), changed)
            objects = io.BytesIO()
            np.savez(objects, times=np.array([Touching(tmp_path / "ran")], dtype=object), allow_pickle=True)
            result.files["bad/vlb_terms.npz"] = (objects.getvalue(), changed)
        server.runs.append(result)
    compare._main(["wandb:me/lab/g", "out=out"])
    told = capsys.readouterr()
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not (tmp_path / "ran").exists()
    assert not any(b"hidden-word" in text for text in [*written, (told.out + told.err).encode()])
    assert written


def test_names_that_leave_the_cache_are_not_followed(tmp_path, server):  # noqa: F811
    result = sent(write_run(tmp_path / "run", config(1)), "a")
    names = (
        "../config.yaml",
        "run/../../config.yaml",
        "/etc/config.yaml",
        "run/eval/../evaluation.json",
        "..\\run/config.yaml",
        ".ssh/config.yaml",
        "run/eval/.x/evaluation.json",
        "run//config.yaml",
        "run/eval/a\nb/evaluation.json",
    )
    result.files |= dict.fromkeys(names, (b"bad", BEFORE))
    server.runs = [result, sent(tmp_path / "run", ".."), sent(tmp_path / "run", "../b")]
    fetched = fetch_group(GROUP)[1]
    assert [folder.relative_to(tmp_path / "cache/wandb/me/lab/g") for folder in fetched.folders] == [Path("a/run")]
    assert not set(server.downloads) & set(names)
    assert sorted(skip.why for skip in fetched.skipped) == ["its id '..' names no folder", "its id '../b' names no folder"]
    here = {path.relative_to(tmp_path) for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert all(path.is_relative_to("cache/wandb/me/lab/g/a") for path in here)


def test_runs_without_the_files_are_named_and_skipped_among_folders(tmp_path, server, capsys):  # noqa: F811
    root = sweep(tmp_path / "runs", seeds=(1,))
    going = write_run(tmp_path / "going", config(7))
    (going / "summary.json").unlink()
    third = shutil.move(root / "3", tmp_path / "3")
    server.runs = [Run("c", "crashed", "g", {"output.log": (b"", BEFORE)}), sent(going, "d"), sent(Path(third), "e")]
    rows = compare_to(tmp_path / "out", str(root), "wandb:me/lab/g")
    assert [row["choice"] for row in rows] == ["linear · simple", "linear · hybrid", "cosine · simple", "cosine · hybrid"]
    output = capsys.readouterr().out
    assert "note: wandb:me/lab/g/crashed: it has no files of a run folder (config.yaml, summary.json)" in output
    assert f"{tmp_path}/cache/wandb/me/lab/g/d/going: has no summary.json: its training has not ended; skipped" in output
    server.runs = server.runs[:1]
    with pytest.raises(UserError, match=r"no run that has ended\n  wandb:me/lab/g/crashed: it has no files"):
        compare_to(tmp_path / "out", "wandb:lab/g")


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        compare._main(list(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_there_is_said_in_one_line(tmp_path, server):  # noqa: F811
    server.runs = [Run("c", "c", "g")]
    assert "wandb:me/lab/h" in refused("wandb:me/lab/h")
    assert "nolab; check its name" in refused("wandb:me/nolab/g")
    server.entity = None
    assert "wandb:ENTITY/lab/g" in refused("wandb:lab/g")


def test_a_file_cut_short_is_said(tmp_path, server, monkeypatch):  # noqa: F811
    server.runs = [sent(write_run(tmp_path / "run", config(1)), "a")]
    whole = server._file
    monkeypatch.setattr(server, "_file", lambda run, name: whole(run, name) | {"sizeBytes": "1000000"})
    assert "bytes of 1000000 came; the same command goes on" in refused("wandb:lab/g")


def test_without_a_key_or_a_network_it_is_one_line(monkeypatch):
    monkeypatch.setattr(groups, "ANSWER_TIMEOUT", 1)
    message = refused("wandb:lab/g")
    assert message.startswith("wandb:lab/g: ")
    assert "wandb login" in message
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert "check the network" in refused("wandb:lab/g")


def test_groups_are_named_as_folders_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed(["wandb:lab/g=1"])[:3] == ([Group(None, "lab", "g=1")], None, Path("outputs/compare/g=1"))
    both = parsed(["wandb:me/lab/g", str(tmp_path), "level=0.9"])
    assert both.sources == [Group("me", "lab", "g"), tmp_path]
    assert both.out == tmp_path / "compare"
    for wrong in ("wandb:", "wandb:lab", "wandb:a/b/c/d", "wandb:lab/", "wandb:lab/..", "wandb:../g"):
        with pytest.raises(UserError, match=r"allowed is wandb:PROJECT/GROUP"):
            parsed([wrong])
