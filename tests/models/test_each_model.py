"""Every model beside diffusion through its yaml: trained, resumed to the bit, sampled, evaluated, swept and compared."""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import CONF, command_here

import ddpm_lab
from ddpm_lab.cli.compare import main as compare
from ddpm_lab.cli.evaluate import main as evaluate
from ddpm_lab.cli.sample import main as sample
from ddpm_lab.config.instantiate import resolve_target
from ddpm_lab.config.options import options, target
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.contract import Model

OTHERS = sorted(set(options("model", [CONF])) - {"diffusion", "variance_head"})
SHORT = ["experiment=smoke", "trainer.max_steps=4", "trainer.validate_every=2", "data.val_fraction=0.05", "data.levels=2"]
ALONE = [*SHORT, "run.experiment=e"]
GIBBS = ["model.sweeps=20", "model.temperatures=50"]
QUICK = {"rbm": GIBBS, "dbn": [*GIBBS, "model.steps_per_layer=1"], "dbm": [*GIBBS, "model.pretrain=1"]}
"""Short chains, and phases of so few steps."""
pytestmark = pytest.mark.slow


def words_of(option: str) -> list[str]:
    return [f"model={option}", *QUICK.get(option, [])]


def class_of(option: str) -> type[Model]:
    return resolve_target(str(target(options("model", [CONF])[option])), "model")


def train(cwd: Path, *words: str) -> str:
    done = command_here(*words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=OTHERS)
def option(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def work(option, tmp_path_factory) -> Path:
    """Where a run of the model stands, as outputs/e/whole."""
    folder = tmp_path_factory.mktemp(option)
    train(folder, *ALONE, *words_of(option), "run.name=whole")
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    average = next(value for key, value in checkpoint.items() if key.startswith("ema/"))
    return checkpoint["state_dict"] | {f"average {name}": value for name, value in average.items()}


def said(main, capsys, *words: str) -> str:
    """What a program that refuses says: one line."""
    with patch.object(sys, "argv", ["program.py", *words]), pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1)
    return error


def test_what_it_gives_is_in_the_summary_and_on_disk(option, work):
    model, run = class_of(option), ddpm_lab.load(work / "outputs/e/whole")
    metrics = json.loads((work / "outputs/e/whole/summary.json").read_text())["metrics"]
    assert all(np.isfinite(metric["value"]) for metric in metrics.values())
    assert ("bound_bpd" in metrics) == (not model.no_likelihood)
    assert any(key.startswith("pixels_fd") for key in metrics) == (not model.no_samples)
    assert run.model.readings().keys() <= metrics.keys()
    if model.no_likelihood:
        assert run.model.readings()
    held = ddpm_lab.data.digits.Digits(levels=2)
    held.setup()
    shown = run.model.pictures(held.scaled("val", 4))
    files = {path.name for path in (work / "outputs/e/whole/samples").iterdir()}
    assert {f"{name}_000000{step}.png" for name in shown for step in (2, 4)} <= files
    log = (work / "outputs/e/whole/train.log").read_text()
    for reason in filter(None, (model.no_likelihood, model.no_samples)):
        assert reason in log


def test_it_resumes_to_the_bit(option, work):
    train(work, *[word.replace("steps=4", "steps=2") for word in ALONE], *words_of(option), "run.name=part")
    train(work, "resume=outputs/e/part", "trainer.max_steps=4")
    whole, part = (weights(work / "outputs/e" / name) for name in ("whole", "part"))
    assert all(torch.equal(value, part[name]) for name, value in whole.items())
    first = weights_of_step(work / "outputs/e/part")
    assert any(not torch.equal(value, first[name]) for name, value in whole.items() if name in first)


def weights_of_step(run: Path) -> dict[str, torch.Tensor]:
    """The initial ones, of the same seed."""
    from ddpm_lab.config.build import build_model

    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    return build_model(checkpoint["config"], tuple(checkpoint["shape"]), checkpoint["levels"]).state_dict()


@pytest.mark.soak
def test_it_is_evaluated(option, work, monkeypatch):
    monkeypatch.chdir(work)
    with patch.object(sys, "argv", ["evaluate.py", "ckpt=outputs/e/whole", "name=n", "nll.n=6", "device=cpu"]):
        evaluate()
    arm = json.loads((work / "outputs/e/whole/eval/n/evaluation.json").read_text())["arms"][0]
    keys, model = {result["key"] for result in arm["results"]}, class_of(option)
    assert ("bound" in keys) == (not model.no_likelihood)
    assert ("pixels_fd" in keys) == (not model.no_samples)
    assert ddpm_lab.load("outputs/e/whole").model.readings().keys() <= keys


def test_it_is_sampled_or_says_why_not(option, work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    model, words = class_of(option), ["ckpt=outputs/e/whole", "n=5", "out=drawn", "files=[npz]"]
    if model.no_samples:
        assert model.no_samples in said(sample, capsys, *words)
        assert model.no_samples in said(evaluate, capsys, "ckpt=outputs/e/whole", "quality.n=9")
        with pytest.raises(UserError, match="no samples"):
            ddpm_lab.load("outputs/e/whole").sample(2)
        return
    with patch.object(sys, "argv", ["sample.py", *words]):
        sample()
    (file,) = Path("drawn").rglob("*.npz")
    with np.load(file) as arrays:
        assert arrays["arr_0"].shape[0] == 5


def test_what_it_has_not_is_refused(option, work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    model = class_of(option)
    for words in (["schedule=cosine"], ["sampler.steps=5"], ["callbacks.frechet_curve.steps=5"]):
        done = command_here(*ALONE, *words_of(option), "run.name=refused", *words, cwd=work)
        assert done.returncode == 2
        assert words[0].partition("=")[0] in done.stderr
    if model.no_likelihood:
        done = command_here(*ALONE, *words_of(option), "run.name=refused", "callbacks.vlb_terms.stride=2", cwd=work)
        assert model.no_likelihood in done.stderr
        with pytest.raises(UserError, match="no likelihood"):
            ddpm_lab.load("outputs/e/whole").bound(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert "variance" in said(evaluate, capsys, "ckpt=outputs/e/whole", "variance=beta")
    assert not (work / "outputs/e/refused").exists()


@pytest.mark.soak
def test_they_are_swept_and_compared(tmp_path, monkeypatch, capsys):
    """Models with a bound, with another likelihood, and with none."""
    monkeypatch.chdir(tmp_path)
    train(tmp_path, "-m", *SHORT, "model=vae,rbm,ae", "sweep.name=s", "sweep.n_jobs=2")
    with patch.object(sys, "argv", ["compare.py", "outputs/multirun/s", "out=page"]):
        compare()
    told = capsys.readouterr().out
    assert all(model in told for model in ("vae", "rbm", "ae"))
    assert "likelihood" in told  # the bits/dim of a bound and of another likelihood are not subtracted
    rows = (tmp_path / "page" / "table.csv").read_text().splitlines()
    assert len(rows) == 4
