"""A run that measures a network which another run trained: the same as training it again."""

import csv
import json
from pathlib import Path

import pytest
import torch
from helpers import TINY, composed, digest, trained

from ddpm_lab.config.build import training_identity
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint

from .support import quiet

pytestmark = quiet


@pytest.fixture(scope="module")
def beta(run_of) -> Path:
    return run_of(*TINY)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_it_measures_what_a_run_that_trains_again_measures(beta, tmp_path):
    other = [*TINY, "variance=beta_tilde", "sampler.spacing=linspace", "sampler.steps=5"]
    again = trained(tmp_path / "again", *other)
    measured = trained(tmp_path / "measured", *other, f"run.trained_in={beta}")
    assert digest(measured) == digest(again) != digest(beta)
    assert (summary(measured)["trained_in"], "trained_in" in summary(again)) == (str(beta), False)
    assert summary(measured)["training_hash"] == summary(again)["training_hash"] == summary(beta)["training_hash"]
    assert summary(measured)["images_seen"] == summary(again)["images_seen"]
    with (measured / "metrics.csv").open() as table, (beta / "metrics.csv").open() as whole:
        rows, before = list(csv.DictReader(table)), list(csv.DictReader(whole))
    assert len(rows) == 2
    assert all(key == "step" or key.startswith("train/") for key in rows[0])  # a bound of theirs has the other variance
    assert rows == [{key: row[key] for key in rows[0]} for row in before]
    checkpoint = read_checkpoint(measured / "checkpoints" / "last.ckpt")
    assert checkpoint["config"]["variance"]["_target_"].endswith("BetaTilde")
    assert "optimizer_states" in checkpoint


def test_it_can_be_trained_on(beta, tmp_path):
    """By its own last checkpoint, as a run that was trained there."""
    from helpers import composed

    from ddpm_lab.cli.fit import train

    measured = trained(tmp_path / "measured", *TINY, "variance=beta_tilde", f"run.trained_in={beta}")
    whole = trained(tmp_path / "whole", *TINY, "variance=beta_tilde", "trainer.max_steps=4")
    last = measured / "checkpoints" / "last.ckpt"
    longer = composed(*TINY, "variance=beta_tilde", f"run.trained_in={beta}", "trainer.max_steps=4", f"resume={last}")
    assert train(longer, tmp_path / "longer", last, None, 0.0) == 0
    a, b = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (whole, tmp_path / "longer"))
    assert all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items())
    assert (tmp_path / "longer" / "checkpoints" / "best.ckpt").exists()


SAME = [
    ["variance=beta_tilde"],
    ["sampler=ddim", "sampler.steps=5"],
    ["callbacks.samples.n=9"],
    ["logger=tensorboard"],
    ["trainer.log_every=3", "trainer.validate_every=1"],
    ["run.name=x"],
    ["trainer.channels_last=false"],
]
OTHER = [
    ["seed=1"],
    ["loss=hybrid"],
    ["variance=learned_range", "loss=vlb"],
    ["schedule.T=11"],
    ["trainer.max_steps=3"],
    ["trainer.accumulate=2"],
    ["ema.decay=0.5"],
    ["data.batch_size=15"],
    ["timesteps=stratified"],
    ["net.dropout=0.3"],
    ["optim.lr=0.1"],
    ["trainer.precision=64-true"],
]


@pytest.mark.parametrize("more", SAME, ids=" ".join)
def test_identity_leaves_out_what_changes_no_weight(more):
    assert training_identity(composed(*TINY, *more)) == training_identity(composed(*TINY))


@pytest.mark.parametrize("more", OTHER, ids=" ".join)
def test_identity_knows_what_changes_a_weight(more):
    assert training_identity(composed(*TINY, *more)) != training_identity(composed(*TINY))


def test_identity_has_the_variance_where_the_loss_weighs_by_it():
    one, other = (training_identity(composed(*TINY, "loss=vlb", f"variance={v}")) for v in ("beta", "beta_tilde"))
    assert one != other


def test_another_training_is_refused_by_the_group(beta, tmp_path):
    with pytest.raises(UserError, match=r"run\.trained_in=.*: .*\boptim\b"):
        trained(tmp_path / "run", *TINY, "optim.lr=0.5", f"run.trained_in={beta}")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_complete_is_refused(beta, tmp_path):
    with pytest.raises(UserError, match=r"run\.trained_in=.*complete at step 3"):
        trained(tmp_path / "run", *TINY, "trainer.max_steps=3", f"run.trained_in={beta}")
    with pytest.raises(UserError, match=r"run\.trained_in=.*no such file or folder"):
        trained(tmp_path / "run", *TINY, f"run.trained_in={tmp_path / 'nowhere'}")
