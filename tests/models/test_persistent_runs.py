"""Runs of models with persistent chains: resumed, in pieces of a batch, and in two processes they are one run."""

from pathlib import Path

import pytest
import torch
from helpers import command, composed, trained

from ddpm_lab.cli.fit import train
from ddpm_lab.models.checkpoint import read_checkpoint

RUN = [
    "experiment=smoke",
    "data.levels=2",
    "data.val_fraction=0.05",
    "trainer.max_steps=4",
    "trainer.validate_every=2",
    "trainer.precision=64-true",
    "model.sweeps=3",
    "model.temperatures=5",
    "callbacks.frechet.n=8",
    "callbacks.samples.n=4",
]
MODELS = {"rbm": ["model=rbm", "model.hidden=30"], "dbm": ["model=dbm", "model.hidden=[30,24]", "model.pretrain=1"]}
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
pytestmark = pytest.mark.slow


def state(folder: Path) -> dict[str, torch.Tensor]:
    """The weights, and the chains."""
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    return checkpoint["state_dict"] | checkpoint["timesteps"]


@pytest.fixture(scope="module", params=MODELS)
def words(request) -> list[str]:
    return [*RUN, *MODELS[request.param]]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory) -> dict[str, torch.Tensor]:
    return state(trained(tmp_path_factory.mktemp("whole") / "run", *words))


def test_resumed_within_the_joint_phase(words, whole, tmp_path):
    first = trained(tmp_path / "first", *words, "trainer.max_steps=3")
    last = first / "checkpoints" / "last.ckpt"
    assert train(composed(*words, f"resume={last}"), tmp_path / "second", last, None, 0.0) == 0
    found = state(tmp_path / "second")
    assert all(torch.equal(value, found[name]) for name, value in whole.items())
    assert found["chains"].numel()


def test_in_pieces(words, whole, tmp_path):
    found = state(trained(tmp_path / "run", *words, "trainer.accumulate=2"))
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("words", ["dbm"], indirect=True)
def test_in_two_processes(words, whole, tmp_path):
    """Where a phase leaves parameters without a gradient too."""
    done = command(*words, *TWO, "run.name=two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = state(tmp_path / "outputs" / "smoke" / "two")
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value)
