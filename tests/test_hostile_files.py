"""Run folders that an enemy made: none of their files runs code, writes elsewhere, or shows a secret of whoever opens them."""

import contextlib
import io
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from helpers import FEW_HELD_OUT, TINY, command_here

import ddpm_lab
from ddpm_lab.cli import compare, evaluate
from ddpm_lab.errors import UserError
from ddpm_lab.files import SUMS
from ddpm_lab.models.checkpoint import read_checkpoint, write_archive
from ddpm_lab.plain import check_plain

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*torch.jit")  # Lightning's and torch's own
SECRET = "of-whoever-opens-it"
ESCAPE = "\x1b[2J\x1b]0;owned\x07"
RUNS = "os.system"
LAST = Path("checkpoints", "last.ckpt")


class Payload:
    """Runs a command where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def _torchscript(content: Any, path: Path, canary: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def _climbing(content: Any, path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"../../../{canary.name}", "x")
        archive.writestr(str(canary), "x")


def _bomb(content: Any, path: Path, canary: Path) -> None:
    """A tenth of a megabyte that is a hundred."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data.pkl", bytes(10**8))


CHECKPOINTS: dict[str, Callable[[dict[str, Any], Path, Path], Any]] = {
    "a payload in an archive": lambda c, path, canary: torch.save(c | {"x": Payload(canary)}, path),
    "a payload in a configuration": lambda c, path, canary: torch.save(c | {"config": Payload(canary)}, path),
    "a payload of before archives": lambda c, path, canary: torch.save(
        c | {"x": Payload(canary)}, path, _use_new_zipfile_serialization=False
    ),
    "weights of before archives": lambda c, path, canary: torch.save(c, path, _use_new_zipfile_serialization=False),
    "a pickle": lambda c, path, canary: path.write_bytes(pickle.dumps(Payload(canary))),
    "a program": _torchscript,
    "names that climb": _climbing,
    "a bomb": _bomb,
}
Change = Callable[[dict[str, Any], Path], Any]
EVERYWHERE = ("load", "evaluate", "resume")
CONFIGURATIONS: dict[str, tuple[Change, tuple[str, ...], str]] = {
    "data": (lambda c, at: c["data"].update(_target_=RUNS, command=f"touch {at}"), EVERYWHERE[1:], RUNS),
    "net": (lambda c, at: c["net"].update(_target_=RUNS, command=f"touch {at}"), EVERYWHERE, RUNS),
    "logger": (lambda c, at: c["logger"].update(_target_=RUNS, command=f"touch {at}"), ("resume",), RUNS),
    "callbacks": (lambda c, at: c["callbacks"].update(x={"_target_": RUNS, "command": f"touch {at}"}), ("resume",), RUNS),
    "in a value": (
        lambda c, at: c["net"].update(channels={"_target_": RUNS, "command": f"touch {at}"}),
        EVERYWHERE,
        "channels",
    ),
    "of another group": (lambda c, at: c["sampler"].update(_target_=c["logger"]["_target_"]), EVERYWHERE, "sampler._target_"),
    "in a group of its own": (lambda c, at: c.update(x={"_target_": RUNS, "command": f"touch {at}"}), EVERYWHERE, "x: "),
    "_args_": (lambda c, at: c["schedule"].update(_args_=[5]), EVERYWHERE, "schedule._args_"),
    "_partial_": (lambda c, at: c["net"].update(_partial_=True), EVERYWHERE, "net._partial_"),
    "hydra.callbacks": (lambda c, at: c.update(hydra={"callbacks": {"x": {"_target_": RUNS}}}), EVERYWHERE, "hydra"),
    "hydra.searchpath": (lambda c, at: c.update(hydra={"searchpath": [f"file://{at}"]}), EVERYWHERE, "hydra"),
    "a secret": (lambda c, at: c["run"].update(name="${oc.env:SECRET}"), EVERYWHERE, "run.name=${oc.env:SECRET}"),
    "a secret as a key": (lambda c, at: c["net"].update({"${oc.env:SECRET}": 1}), EVERYWHERE, "net.${oc.env:SECRET}"),
    "another resolver": (lambda c, at: c["net"].update(blocks="${oc.decode:1}"), EVERYWHERE, "net.blocks"),
    "folders above": (lambda c, at: c["run"].update(experiment=f"../../../{at.name}"), ("resume",), "run.experiment"),
    "many steps": (lambda c, at: c["schedule"].update(T=3 * 10**9), EVERYWHERE, "schedule.T=3000000000"),
    "many channels": (lambda c, at: c["net"].update(channels=3 * 10**18), EVERYWHERE, "net"),
    "many blocks": (lambda c, at: c["net"].update(blocks=3 * 10**18), EVERYWHERE, "net"),
    "many samples": (
        lambda c, at: c["callbacks"]["samples"].update(n=3 * 10**9),
        ("resume",),
        "callbacks.samples.n=3000000000",
    ),
    "an escape in a value": (lambda c, at: c["sampler"].update(spacing=ESCAPE), EVERYWHERE, "sampler.spacing"),
    "an escape in a key": (lambda c, at: c.update({ESCAPE: 1}), EVERYWHERE, "no such group"),
}
TEXTS = {
    "a tag": lambda canary: f'x: !!python/object/apply:os.system ["touch {canary}"]\n',
    "aliases": lambda canary: "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
    "deep": lambda canary: "x: " + 200 * "[" + 200 * "]" + "\n",
}


@pytest.fixture(scope="module")
def whole(run_of) -> Path:
    return run_of(*TINY, *FEW_HELD_OUT)


@pytest.fixture
def run(whole, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SECRET", SECRET)
    folder = shutil.copytree(whole, tmp_path / "theirs" / "run")
    (folder / "checkpoints" / "best.ckpt").unlink()
    (folder / SUMS).unlink()  # an enemy would write another
    return folder


def opened(door: str, path: Path, cwd: Path) -> tuple[int, str]:
    """The exit code and what is said of it."""
    cwd.mkdir(exist_ok=True)
    if door == "load":
        try:
            ddpm_lab.load(path)
        except UserError as error:
            return 2, f"{error}\n"
        return 0, ""
    if door == "resume":
        done = command_here(f"resume={path}", "trainer.max_steps=3", cwd=cwd)
        return done.returncode, done.stderr
    told, code, main = io.StringIO(), 0, {"evaluate": evaluate.main, "compare": compare.main}[door]
    words = {"evaluate": [f"ckpt={path}", "quality.n=0", "nll.n=4"], "compare": [str(path), f"out={cwd}"]}[door]
    printed, here = contextlib.redirect_stdout(told), contextlib.chdir(cwd)
    with here, printed, contextlib.redirect_stderr(told), patch.object(sys, "argv", [f"{door}.py", *words]):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, told.getvalue()


def written(folder: Path) -> dict[Path, int]:
    """When each file was, but for the lock."""
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def refused(door: str, path: Path, tmp_path: Path) -> str:
    before = written(path)
    code, told = opened(door, path, tmp_path / "cwd")
    assert (code, told.count("\n")) == (2, 1), told
    assert written(path) == before
    assert not any((tmp_path / "cwd").iterdir())
    assert not set(ESCAPE) & set(told) & {"\x1b", "\x07"}
    assert SECRET not in told
    return told


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_hostile_checkpoint_is_refused(kind, run, tmp_path):
    canary, path = tmp_path / "canary", run / LAST
    CHECKPOINTS[kind](read_checkpoint(path), path, canary)
    for door in EVERYWHERE:
        assert str(path) in refused(door, run, tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_hostile_configuration_is_refused_by_whoever_would_use_it(kind, run, tmp_path):
    change, doors, named = CONFIGURATIONS[kind]
    content = read_checkpoint(run / LAST)
    change(content["config"], canary := tmp_path / "canary")
    write_archive(content, run / LAST)
    (run / "config.yaml").write_text(yaml.safe_dump(content["config"]))
    for door in doors:
        assert named in refused(door, run, tmp_path)
    assert opened("load", run, tmp_path)[0] == (2 if "load" in doors else 0)
    code, told = opened("compare", run, tmp_path / "compared")
    shown = told + "".join(path.read_text() for path in (tmp_path / "compared").iterdir())
    assert code == 0
    assert not {"\x1b", "\x07"} & set(shown)
    assert SECRET not in shown
    assert not canary.exists()


@pytest.mark.parametrize("kind", TEXTS)
def test_a_hostile_config_yaml_is_not_read(kind, run, whole, tmp_path):
    """The checkpoint's own configuration takes its place."""
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + TEXTS[kind](canary := tmp_path / "canary"))
    assert opened("evaluate", run, tmp_path / "cwd")[0] == 0
    code, told = opened("compare", run, tmp_path / "compared")
    assert (code, "not readable as YAML" in told) == (2, True)
    assert not canary.exists()


def nested(depth: int) -> Any:
    content: Any = 1
    for _ in range(depth):
        content = {"a": content}
    return content


def test_values_may_be_nested_a_hundred_deep():
    check_plain(nested(100))
    around: dict[str, Any] = {}
    around["a"] = [around]
    for content in (nested(101), nested(10**5), around):
        with pytest.raises(ValueError, match="more than 100 containers within each other"):
            check_plain(content)


def test_a_setting_that_was_edited_is_not_evaluated_in_silence(run, whole, tmp_path):
    shutil.copy(whole / SUMS, run)
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("spacing: trailing", "spacing: linspace"))
    assert "config.yaml" in refused("evaluate", run, tmp_path)


@pytest.mark.parametrize("place", ["eval", "samples", "train.log", ".lock", "samples/step_0000003.png"])
def test_a_link_out_of_a_run_folder_is_not_written_through(place, run, tmp_path):
    canary = tmp_path / "canary"
    canary.mkdir() if "." not in place else canary.write_text("mine")
    if (run / place).is_dir():
        shutil.rmtree(run / place)
    (run / place).unlink(missing_ok=True)
    (run / place).symlink_to(canary)
    for door in ("resume", *["evaluate"] * (place == "eval")):
        assert str(canary) in refused(door, run, tmp_path)
    assert not any(canary.iterdir()) if canary.is_dir() else canary.read_text() == "mine"


def test_a_link_beside_a_checkpoint_alone_is_not_written_through(run, tmp_path):
    (tmp_path / "alone").mkdir()
    (tmp_path / "canary").mkdir()
    shutil.copy(run / LAST, tmp_path / "alone" / "last.ckpt")
    (tmp_path / "alone" / "eval").symlink_to(tmp_path / "canary")
    assert str(tmp_path / "canary") in refused("evaluate", tmp_path / "alone" / "last.ckpt", tmp_path)
    assert not any((tmp_path / "canary").iterdir())


def test_checkpoints_may_lie_on_another_disk(run, tmp_path):
    (run / "checkpoints").rename(tmp_path / "scratch")
    (run / "checkpoints").symlink_to(tmp_path / "scratch")
    assert opened("evaluate", run, tmp_path / "cwd")[0] == 0


def test_a_checkpoint_alone_goes_on_where_the_user_says(run, tmp_path):
    content = read_checkpoint(run / LAST)
    content["config"]["run"]["root"] = str(tmp_path / "canary")
    write_archive(content, tmp_path / "own.ckpt")
    (tmp_path / "cwd").mkdir()
    assert opened("resume", tmp_path / "own.ckpt", tmp_path / "cwd")[0] == 0
    assert not (tmp_path / "canary").exists()
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == ["outputs"]
