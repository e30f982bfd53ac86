"""What a run leaves at wandb besides its curves: the files that compare.py reads, and its network, if asked for."""

import itertools
import json
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from helpers import TINY, trained

import ddpm_lab
from ddpm_lab.cli.evaluate import main as evaluate
from ddpm_lab.cli.fit import train
from ddpm_lab.config.resume import configuration, resumed
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint

from .logging_support import no_account, offline  # noqa: F401
from .support import quiet
from .wandb_file import WandbRun, runs

pytestmark = quiet
WANDB = ["logger=wandb", "logger.mode=offline"]


def sent_by(folder: Path, *overrides: str) -> WandbRun:
    """What a run in `folder` would send."""
    (result,) = runs(trained(folder, *TINY, *WANDB, *overrides))
    return result


def downloaded(result: WandbRun, folder: Path) -> Path:
    """The files of the one artifact, laid out as wandb lays them out."""
    (files,) = result.models.values()
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
    return folder


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_compare_reads_is_among_the_files_under_the_name_of_the_run(tmp_path):
    folder = tmp_path / "run [1]"  # brackets are no pattern
    result = sent_by(folder)
    names = ["config.yaml", "summary.json", "curves.json", "metrics.csv", "vlb_terms.npz", "samples/step_0000002.png"]
    for name in names:
        copy = result.files / folder.name / name
        assert not copy.is_symlink()
        assert copy.read_bytes() == (folder / name).read_bytes()
    assert sorted(result.saved) == sorted(f"{folder.name}/{name}" for name in names)
    assert not result.models


@pytest.mark.parametrize("artifact", ["weights", "checkpoint"])
def test_an_artifact_is_loaded_and_evaluated_as_the_run_is(artifact, tmp_path, run_of):
    whole = run_of(*TINY) / "checkpoints" / "last.ckpt"
    folder = tmp_path / "run"
    result = sent_by(folder, f"logger.artifact={artifact}")
    assert list(result.models) == [f"{artifact}-{result.run.run_id}"]
    shutil.rmtree(folder / "checkpoints")  # what wandb keeps until it is sent depends on no file of the run
    copy = downloaded(result, tmp_path / "copy")
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*.*")) == [
        "checkpoints/last.ckpt",
        "config.yaml",
        "summary.json",
    ]
    last = copy / "checkpoints" / "last.ckpt"
    assert ("optimizer_states" in read_checkpoint(last)) == (artifact == "checkpoint")
    assert (last.stat().st_size < 0.6 * whole.stat().st_size) == (artifact == "weights")  # Adam keeps two numbers for each
    for weights in ("raw", "ema"):
        assert equal(ddpm_lab.load(copy, weights).model.state_dict(), ddpm_lab.load(whole, weights).model.state_dict())
    with patch.object(sys, "argv", ["evaluate.py", f"ckpt={copy}", "quality.n=0", "nll.n=4", "nll.train_stride=0", "name=e"]):
        evaluate()
    assert json.loads((copy / "eval" / "e" / "evaluation.json").read_text())["arms"]


def test_weights_alone_are_not_resumed(tmp_path):
    copy = downloaded(sent_by(tmp_path / "run", "logger.artifact=weights"), tmp_path / "copy")
    cfg = configuration(copy / "checkpoints" / "last.ckpt", copy)
    cfg.resume, cfg.run.name, cfg.trainer.max_steps = str(copy), None, 4
    going_on = resumed(cfg, ["trainer.max_steps=4"], [])
    with pytest.raises(UserError, match=r"weights.*logger\.artifact=checkpoint"):
        train(going_on.config, tmp_path / "new", going_on.checkpoint, None, 0.0)
    assert not (tmp_path / "new").exists()


def test_what_compare_reads_of_an_evaluation_is_among_its_files(tmp_path):
    """In a run of its own, in the place and group of the run, which keeps its curves."""
    folder = tmp_path / "run"
    first = sent_by(folder, "logger.project=lab", "logger.group=g", "logger.name='a=1'", "logger.tags=[a]")
    argv = ["evaluate.py", f"ckpt={folder}", "quality.n=8", "nll.n=4", "nll.terms=null", "nll.train_stride=0", "name=e", *WANDB]
    with patch.object(sys, "argv", argv):
        evaluate()
    training, evaluation = sorted(runs(folder), key=lambda result: result.run.job_type, reverse=True)
    assert training.run.run_id == first.run.run_id == (folder / "wandb" / "run_id").read_text()
    assert evaluation.run.run_id != training.run.run_id
    details = [(r.run.project, r.run.run_group, r.run.display_name, r.run.job_type, list(r.run.tags)) for r in runs(folder)]
    assert sorted(details, key=lambda row: row[3]) == [
        ("lab", "g", "a=1 eval/e", "evaluation", ["a"]),
        ("lab", "g", "a=1", "training", ["a"]),
    ]
    assert evaluation.config["seed"] == training.config["seed"]
    kinds = ("evaluation.json", "samples_*.png", "per_datum_*.npz", "bound_*.csv")
    result = [[str(path.relative_to(folder)) for path in (folder / "eval" / "e").glob(kind)] for kind in kinds]
    assert all(result)
    names = ["config.yaml", *itertools.chain(*result)]
    for name in names:
        assert (evaluation.files / "run" / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(evaluation.saved) == sorted(f"run/{name}" for name in names)


def test_an_evaluation_of_a_run_without_wandb_is_called_after_its_folder(tmp_path, monkeypatch, run_of):
    folder = Path(shutil.copytree(run_of(*TINY), tmp_path / "my_run"))
    monkeypatch.chdir(folder)
    argv = ["evaluate.py", "ckpt=.", "quality.n=0", "nll.n=4", "nll.train_stride=0", "name=e", *WANDB, "logger.group=typed"]
    with patch.object(sys, "argv", argv):
        evaluate()
    (result,) = runs(folder)
    assert (result.run.project, result.run.run_group, result.run.display_name) == ("ddpm-lab", "typed", "my_run eval/e")
    assert (result.files / "my_run" / "eval" / "e" / "evaluation.json").exists()


def test_an_evaluation_is_asked_for_no_artifact(run_of, capsys):
    argv = ["evaluate.py", f"ckpt={run_of(*TINY)}", "logger=wandb", "logger.artifact=weights"]
    with patch.object(sys, "argv", argv), pytest.raises(SystemExit) as ended:
        evaluate()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: logger.artifact=weights: ")


def test_long_names_are_cut_to_what_wandb_takes(tmp_path):
    logger = offline(tmp_path, name="n" * 300, group="g" * 300)
    logger.log_metrics({"a": 1.0}, 1)
    logger.close(0)
    (result,) = runs(tmp_path)
    assert (len(result.run.display_name), len(result.run.run_group)) == (128, 128)
