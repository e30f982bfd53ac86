"""`python convert.py from=…`: its keys, the folder that it makes, and what the other commands do with that."""

import inspect
import json
import re
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import huggingface_hub
import pytest
import torch
from helpers import command_here
from imports import DIGITS, convert, folder_of, network, refused, weights

import ddpm_lab
from ddpm_lab.cli import compare, evaluate, figures, sample
from ddpm_lab.cli import convert as command
from ddpm_lab.compare.choices import MISSING, UNKNOWN, differing_keys, flat_config
from ddpm_lab.errors import UserError
from ddpm_lab.files import read_yaml
from ddpm_lab.interop.recognise import LAYOUTS
from ddpm_lab.models import checkpoint

MISTAKES = {
    "layout=dim": ["layout=dim", *LAYOUTS, "layout=ddim"],
    "weights=emma": ["weights=emma", "raw", "weights=ema"],
    "qkv=block": ["qkv=block", "heads", "qkv=blocks"],
    "size=0": ["size=0", "[1, 65536]"],
    "size=eight": ["size=eight", "int"],
    "name=a/b": ["name=a/b", "folder name"],
    "layuot=ddim": ["layuot=ddim", "layout=ddim", *command.OWN],
    "shedule=cosine": ["shedule=cosine", "schedule=cosine"],
    "seed=1,2": ["seed=1,2", "one"],
    "seeed=3": ["seeed=3", "seed=3"],
    "out=there": ["out=there", "from="],
    "net=mlp": ["net=mlp", "net=unet"],
    "name=a name=b": ["name", "once"],
    "size=8 size=8": ["size", "once"],
    "name=a run.name=b": ["name=a", "run.name="],
    "run.root=/dev/null": ["run.root", "/dev/null"],
    "++head=ocm": ["head=ocm", "train.py"],
    "net.blocks=[": ["net.blocks=["],
    "-m": ["-m"],
    "--cfg": ["--cfg"],
    "to=diffusers": ["to=diffusers", "from="],
    "ckpt=RUN": ["ckpt=RUN", "from="],
    "head=ocm": ["head=ocm", "train.py"],
    "resume=RUN": ["resume=RUN", "train.py"],
    "qkv=blocks": ["qkv=blocks", "diffusers", "guided_diffusion"],
    "qkv=heads": ["qkv=heads", "diffusers", "guided_diffusion"],
    "layout=ddim": ["layout=ddim", "conv_in.bias"],
    "size=16": ["size=16", "8"],
    "data.conditional=true": ["data.conditional=true", "leave it out"],
}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    return folder_of(tmp_path_factory.mktemp("theirs") / "digits8")


@pytest.mark.parametrize("word", MISTAKES)
def test_a_mistake_is_one_line_that_names_what_is_allowed(word, theirs, tmp_path):
    told = refused(f"from={theirs}", *word.split(), "data=digits", cwd=tmp_path)
    assert [part for part in MISTAKES[word] if part not in told] == [], told


def test_what_is_not_there_is_named(tmp_path):
    assert "from is needed" in refused("data=digits", cwd=tmp_path)
    assert "x.ckpt" in refused("from=x.ckpt", cwd=tmp_path)
    assert "cannot be read" in refused(f"from={'x' * 300}", cwd=tmp_path)
    torch.save(weights("ddim"), tmp_path / "x.pt")
    assert "size=32" in refused("from=x.pt", "data=digits", cwd=tmp_path)
    assert "data=cifar10" in refused("from=x.pt", "size=8", cwd=tmp_path)


def test_help_lists_the_keys_and_layouts(tmp_path):
    page = convert("--help", cwd=tmp_path).printed
    assert {f"{key}=" for key in command.OWN} <= set(re.findall(r"^  (\w+=)", page, re.MULTILINE))
    assert all(layout in page for layout in LAYOUTS)


@pytest.fixture(scope="module")
def imported(theirs, tmp_path_factory):
    """The folder of an imported run of averaged weights, and what was printed."""
    cwd = tmp_path_factory.mktemp("imported")
    done = convert(f"from={theirs}", "weights=ema", "data=digits", cwd=cwd)
    assert done.code == 0, done.told
    return cwd / "outputs" / "imported" / "digits8", done.printed


def test_the_folder_is_that_of_a_run_and_the_report_says_what_was_found(imported, theirs):
    folder, printed = imported
    assert sorted(path.name for path in folder.parent.iterdir()) == ["digits8"]
    config, run = read_yaml(folder / "config.yaml"), ddpm_lab.load(folder)
    assert config == checkpoint.read_checkpoint(folder / "checkpoints" / "last.ckpt")["config"]
    assert (config["imported"]["from"], config["imported"]["layout"]) == (str(theirs), "diffusers")
    assert config["run"] == {"root": "outputs", "experiment": "imported", "name": "digits8", "trained_in": None}
    assert (run.weights, run.model.shape, config["schedule"]["T"]) == ("ema/imported", (1, 8, 8), 20)
    count = sum(p.numel() for p in network().parameters())
    said = ["outputs/imported/digits8", "layout=diffusers", f"{count:,}", "1×8×8", "schedule=linear", "schedule.T=20"]
    said += ["prediction=eps", "variance=beta", "python sample.py ckpt=outputs/imported/digits8"]
    assert [part for part in said if part not in printed] == []
    assert "experiment=none" not in printed


def test_weights_are_those_of_the_file_to_the_bit_and_raw_ones_are_not_offered(imported):
    state = ddpm_lab.load(imported[0]).net.state_dict()
    assert all(torch.equal(value, network().state_dict()[key]) for key, value in state.items())
    with pytest.raises(UserError, match=r"weights=raw.*ema, ema/imported\."):
        ddpm_lab.load(imported[0], weights="raw")


def test_weights_of_which_the_file_does_not_say_what_they_are_are_not_called_raw(tmp_path):
    torch.save(weights("ddim", network(8, None)), tmp_path / "x.pt")
    for name, words, called in (("plain", [], "given"), ("asked", ["weights=ema"], "ema/imported")):
        convert("from=x.pt", *DIGITS, "net.groups=8", f"name={name}", *words, cwd=tmp_path)
        run = ddpm_lab.load(tmp_path / "outputs" / "imported" / name)
        assert run.weights == called
        ddpm_lab.load(tmp_path / "outputs" / "imported" / name, weights=called)
    with chdir(tmp_path), patch.object(sys, "argv", ["convert.py", "ckpt=outputs/imported/plain", "to=safetensors", "out=out"]):
        command.main()
    assert ddpm_lab.load(tmp_path / "out" / "model.safetensors").weights == "given"


def test_raw_weights_are_refused_where_the_file_has_averages_alone(tmp_path):
    torch.save(weights("ddim"), tmp_path / "ema_x.ckpt")
    told = refused("from=ema_x.ckpt", *DIGITS, "weights=raw", cwd=tmp_path)
    assert "weights=raw" in told
    assert "has ema" in told


def test_what_is_assumed_can_be_typed_and_is_then_not_assumed(tmp_path):
    torch.save(weights("ddim", network(8, None)), tmp_path / "x.pt")
    words = ["from=x.pt", *DIGITS, "net.groups=8"]
    printed = convert(*words, cwd=tmp_path).printed
    lines = re.findall(r"assumed: ([^,]*),", printed)
    assumed = dict(word.split("=") for line in lines for word in line.split())
    assert {"schedule", "schedule.T", "schedule.beta_end", "variance", "prediction", "net.dropout"} <= assumed.keys()
    assert convert(*words, *(f"{key}={value}" for key, value in assumed.items()), "name=typed", cwd=tmp_path).code == 0
    typed, untyped = (read_yaml(tmp_path / "outputs" / "imported" / name / "config.yaml") for name in ("typed", "x"))
    assert typed["imported"].pop("assumed") == []
    assert len(untyped["imported"].pop("assumed")) == len(assumed)
    assert {**typed, "run": None} == {**untyped, "run": None}


def test_a_folder_that_is_there_is_left_as_it_is(imported, theirs):
    folder, cwd = imported[0], imported[0].parents[2]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = convert(f"from={theirs}", "data=digits", cwd=cwd)
    assert (done.code, "name=outputs/imported/digits8" in done.told) == (2, True)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_full_disk_leaves_nothing(theirs, tmp_path):
    with patch("ddpm_lab.models.checkpoint.torch.save", side_effect=OSError(28, "No space left on device")):
        done = convert(f"from={theirs}", "data=digits", cwd=tmp_path)
    assert (done.code, done.told.count("\n"), "No space left" in done.told) == (2, 1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
def test_a_kill_leaves_no_run(theirs, tmp_path):
    """Killed where the last file is written."""
    code = (
        "import os, signal, sys; from ddpm_lab.models import checkpoint; from ddpm_lab.cli.convert import main;"
        "checkpoint.save_checkpoint = lambda *_: os.kill(os.getpid(), signal.SIGKILL); main()"
    )
    killed = subprocess.run([sys.executable, "-c", code, f"from={theirs}", "data=digits"], cwd=tmp_path, capture_output=True)
    assert killed.returncode == -9
    left = list((tmp_path / "outputs" / "imported").iterdir())
    assert [path.name[0] for path in left] == ["."]
    assert convert(f"from={theirs}", "data=digits", cwd=tmp_path).code == 0


def ran(main, *words: str, cwd: Path, capsys) -> str:
    with chdir(cwd), patch.object(sys, "argv", ["x.py", *words]):
        main()
    return capsys.readouterr().out


FEW = ["nll.n=4", "nll.terms=2", "nll.train_stride=0", "quality.n=0"]


def test_an_imported_run_is_measured_drawn_from_and_compared(imported, tmp_path, capsys):
    folder = imported[0]
    printed = ran(
        evaluate.main, "-m", f"ckpt={folder}", "variance=beta,beta_tilde,analytic", "gamma.n=4", "name=e", *FEW, cwd=tmp_path,
        capsys=capsys,
    )  # fmt: skip
    assert "imported (diffusers), weights ema/imported" in printed
    content = json.loads((folder / "eval" / "e" / "evaluation.json").read_text())
    assert len(content["arms"]) == 3
    assert {result["record"]["trained"] for arm in content["arms"] for result in arm["results"]} == {"imported"}
    drawn = ran(sample.main, f"ckpt={folder}", "n=2", f"out={tmp_path / 'drawn'}", cwd=tmp_path, capsys=capsys)
    assert "imported (diffusers)" in drawn
    assert any('"trained": "imported"' in path.read_text() for path in (tmp_path / "drawn").glob("*.json"))
    ran(figures.main, f"ckpt={folder}", "figure=progressive", f"out={tmp_path / 'figure'}", cwd=tmp_path, capsys=capsys)
    assert any((tmp_path / "figure").glob("*.png"))


@pytest.fixture
def both(imported, run_of, tmp_path, capsys):
    """An imported run and an own one, both evaluated."""
    from helpers import TINY

    own = run_of(*TINY, "schedule.T=20")
    for folder in (imported[0], own):
        ran(evaluate.main, f"ckpt={folder}", "name=both", *FEW, cwd=tmp_path, capsys=capsys)
    return imported[0], own


def test_of_its_training_compare_knows_nothing(imported):
    config = read_yaml(imported[0] / "config.yaml")
    flat, own = flat_config(config), flat_config({key: value for key, value in config.items() if key != "imported"})
    sha = next(iter(config["imported"]["sha256"].values()))
    assert (flat["imported"], own["imported"]) == (f"diffusers, {sha[:6]}, ema", "no")
    assert not [key for key in flat if key.startswith(("imported.", "loss.", "optim.", "ema.", "trainer.", "timesteps."))]
    assert {flat[key] for key in ("loss", "optim", "ema", "trainer", "timesteps")} == {MISSING}
    assert {key.partition(".")[0] for key in differing_keys(flat, own)} == {"imported", *UNKNOWN} - {"uncertainty"}


@pytest.mark.slow
def test_compare_holds_it_as_one_choice(both, tmp_path, capsys):
    printed = ran(compare.main, *map(str, both), f"out={tmp_path / 'compared'}", cwd=tmp_path, capsys=capsys)
    sha = next(iter(read_yaml(both[0] / "config.yaml")["imported"]["sha256"].values()))
    assert f"diffusers, {sha[:6]}" in printed
    assert "imported.layout" not in printed
    assert "sha256" not in printed


def test_nothing_is_resumed_from_it(imported, tmp_path):
    done = command_here(f"resume={imported[0]}", "trainer.max_steps=10", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "optimiser" in done.stderr


@pytest.mark.slow
def test_a_head_is_trained_on_it_and_used(imported, tmp_path, capsys):
    folder = imported[0]
    words = ["head=ocm", f"base={folder}", "trainer.max_steps=2", "trainer.validate_every=2", "callbacks.vlb_terms=null"]
    done = command_here(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = ran(evaluate.main, f"ckpt={folder}", "variance=ocm", "name=head", *FEW, cwd=tmp_path, capsys=capsys)
    assert "imported (diffusers)" in printed


def test_a_repository_of_the_hub_comes_in_with_its_commit(theirs, tmp_path, monkeypatch):
    asked, commit = [], "1f3a9c0" * 5
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / commit).symlink_to(theirs)

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision, allow_patterns))
        return str(tmp_path / "snapshots" / commit)

    taken = inspect.signature(huggingface_hub.snapshot_download).parameters
    assert set(inspect.signature(snapshot_download).parameters) <= set(taken)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    done = convert("from=hf:google/digits@v1", "data=digits", cwd=tmp_path)
    assert done.code == 0, done.told
    (repository, revision, patterns), *more = asked
    assert (repository, revision, more) == ("google/digits", "v1", [])
    assert not [pattern for pattern in patterns if ".bin" in pattern or ".py" in pattern]
    config = read_yaml(tmp_path / "outputs" / "imported" / "digits" / "config.yaml")
    assert config["imported"]["from"] == f"hf:google/digits@{commit}"


def test_a_repository_that_cannot_be_had_says_what_to_download(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    told = refused("from=hf:google/ddpm-cifar10-32@main", "data=cifar10", cwd=tmp_path)
    for part in ("hf:google/ddpm-cifar10-32@main", "config.json", "scheduler_config.json", ".safetensors", "from=FOLDER"):
        assert part in told
    assert "OWNER/NAME" in refused("from=hf:google", cwd=tmp_path)


def test_without_its_package_the_hub_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'ddpm-lab[hub]'" in refused("from=hf:google/ddpm-cifar10-32", "data=cifar10", cwd=tmp_path)
