"""The contract holds for another model than diffusion: one from yaml files and code outside the package."""

import csv
import json
import math
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import arrays, composed, trained
from tiny_model import TARGETS

import ddpm_lab
from ddpm_lab.cli.compare import main as compare
from ddpm_lab.cli.fit import train
from ddpm_lab.config.build import model_parts, training_identity, unused_parts
from ddpm_lab.config.preflight import preflight
from ddpm_lab.data.digits import Digits
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint

from .support import quiet

pytestmark = quiet

CONF = Path(__file__).parents[1] / "tiny_model" / "conf"
RUN = [
    "experiment=none",
    "model=categorical",
    "optim=torch_adamw",
    "ema.decay=0.9",
    "trainer.max_steps=300",
    "trainer.validate_every=150",
    "data.batch_size=256",
    "callbacks.samples.n=9",
    "callbacks.frechet.n=400",
    "callbacks.frechet_curve.n=50",
    "callbacks.frechet_curve.every=1",
]


@pytest.fixture(autouse=True)
def admitted(monkeypatch):
    monkeypatch.setenv("DDPM_LAB_TARGETS", TARGETS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_LAB_TARGETS", TARGETS)
        return trained(tmp_path_factory.mktemp("tiny") / "run", *RUN, config_dir=CONF)


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits()
    data.setup()
    return data


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_its_bits_per_dimension_are_the_exact_ones(folder, digits):
    """−log2 p of the validation data under the logits of the average, written out in numpy."""
    table = read_checkpoint(folder / "checkpoints" / "last.ckpt")["ema/0.9"]["table"].double().numpy()
    log_p = table - np.log(np.exp(table).sum(1, keepdims=True))
    level = digits.val_images.flatten(1).long().numpy()
    bits = -log_p[np.arange(64), level].mean(1) / math.log(2)
    number = summary(folder)["metrics"]["bound_bpd"]
    assert number["value"] == pytest.approx(bits.mean(), rel=1e-6)
    assert number["standard_error"] == pytest.approx(bits.std(ddof=1) / math.sqrt(len(bits)), rel=1e-6)
    np.testing.assert_allclose(arrays(folder / "vlb_terms.npz")["per_datum_bpd"], bits, rtol=1e-5)
    assert {"n": 360, "split": "val", "weights": "ema/0.9", "steps": 1, "variance": None}.items() <= number.items()


def test_training_comes_close_to_the_maximum_of_the_likelihood(folder, digits):
    """Which the frequencies of the training data have."""
    level = digits.train_images.flatten(1).long()
    shares = torch.nn.functional.one_hot(level, 17).double().mean(0)
    entropy = float(-(shares * shares.clamp(min=1e-12).log2()).sum(1).mean())
    train_bits = ddpm_lab.load(folder).bound(digits.train_images).total_bpd
    assert entropy < train_bits < entropy + 0.05
    assert math.log2(17) - train_bits > 1  # where it began


def test_its_samples_have_its_probabilities(folder):
    run = ddpm_lab.load(folder)
    samples = run.sample(3000, seed=5)
    assert torch.equal(run.sample(7, seed=5, batch=2), samples[:7])
    shares = torch.nn.functional.one_hot(((samples.flatten(1) + 1) * 8).round().long(), 17).double().mean(0)
    p = run.net.table.double().softmax(1)
    error = (p * (1 - p) / 3000).sqrt()
    assert ((shares - p).abs() / error.clamp(min=1e-4)).max() < 6
    with pytest.raises(UserError, match="Categorical"):
        _ = run.diffusion
    with pytest.raises(UserError, match="sampler"):
        run.sample(2, sampler="ddim")


def test_all_callbacks_see_it(folder):
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["val/bound_bpd"]] == ["150", "300"]
    assert [row["step"] for row in rows if row["val/pixels_fd@50"]] == ["150", "300"]
    assert {key for key in rows[0] if "loss" in key} == {"train/loss"}  # it has no times to tell quarters of
    files = {"step_0000150.png", "step_0000300.png"}
    assert {path.name for path in (folder / "samples").iterdir()} == files
    numbers = summary(folder)["metrics"]
    assert set(numbers) == {"bound_bpd", "pixels_fd", "pixels_fd_real"}
    assert numbers["pixels_fd"]["sampler"] == "inverse_cdf"
    log = (folder / "train.log").read_text()
    assert "4.087 bits/dim before training" in log
    assert "exact likelihood (360 validation data, ema/0.9)" in log
    assert json.loads((folder / "curves.json").read_text()) == []


def test_it_resumes_to_the_bit(folder, tmp_path):
    shorter = [word.replace("max_steps=300", "max_steps=150") for word in RUN]
    first = trained(tmp_path / "first", *shorter, config_dir=CONF)
    last = first / "checkpoints" / "last.ckpt"
    assert train(composed(*RUN, f"resume={last}", config_dir=CONF), tmp_path / "second", last, None, 0.0) == 0
    a, b = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (folder, tmp_path / "second"))
    assert torch.equal(a["state_dict"]["net.table"], b["state_dict"]["net.table"])
    assert torch.equal(a["ema/0.9"]["table"], b["ema/0.9"]["table"])


def test_groups_of_another_model_are_left_out(folder):
    cfg = composed(*RUN, config_dir=CONF)
    parts = {"schedule", "prediction", "variance", "loss", "timesteps", "time", "sampler", "net", "guidance"}
    assert (model_parts(cfg), set(unused_parts(cfg))) == ([], parts)
    assert not parts & set(ddpm_lab.load(folder).config)
    assert set(model_parts(composed())) == parts
    assert unused_parts(composed()) == []
    other = composed(*RUN, "schedule=cosine", "net=unet", config_dir=CONF)
    assert training_identity(other) == training_identity(cfg) == summary(folder)["training_hash"]
    assert training_identity(composed(*RUN, "model.start=1.0", config_dir=CONF)) != training_identity(cfg)


@pytest.mark.parametrize("word", ["schedule=cosine", "schedule.T=10", "sampler.steps=5", "net=unet"])
def test_what_is_typed_of_a_group_that_it_has_not_is_refused(word):
    words = [f"--config-dir={CONF}", *RUN]
    (arm,) = preflight(words)
    assert not {"schedule", "net"} & set(arm.config)
    with pytest.raises(
        UserError, match=rf"^{word.partition('=')[0]}: Categorical has no {word.partition('.')[0].partition('=')[0]}"
    ):
        preflight([*words, word])


def test_a_setting_that_its_samples_have_not_is_refused_where_it_was_typed():
    words = [f"--config-dir={CONF}", *RUN]
    with pytest.raises(UserError, match=r"^callbacks\.frechet_curve\.steps=5: samples of Categorical"):
        preflight([*words, "callbacks.frechet_curve.steps=5"])
    words = [word.replace("experiment=none", "experiment=digits").replace("torch_adamw", "adam") for word in words]
    (arm,) = preflight(words)
    assert (arm.config.callbacks.frechet_curve.steps, arm.config.callbacks.frechet_curve.eta) == (None, None)


def test_data_that_it_cannot_have_are_answered(tmp_path):
    with pytest.raises(UserError, match="grey levels"):
        trained(tmp_path / "run", *RUN, "data=gaussian_mixture", config_dir=CONF)
    assert not (tmp_path / "run").exists()


def test_runs_of_it_are_compared(folder, tmp_path, capsys):
    slower = trained(tmp_path / "slower", *RUN, "optim.lr=0.002", config_dir=CONF)
    out = tmp_path / "compared"
    with patch.object(sys, "argv", ["compare.py", str(folder), str(slower), f"out={out}"]):
        compare()
    printed = capsys.readouterr().out
    assert "lr=0.002" in printed
    better, worse = (summary(run)["metrics"]["bound_bpd"]["value"] for run in (folder, slower))
    assert better < worse - 0.1
    for value in (better, worse):
        assert f"{value:.2f}" in printed
    assert (out / "index.html").exists()
