"""Checkpoints and configurations of version 0.1 load, resume and count as the same training, to the bit."""

import copy
from pathlib import Path

import pytest
import torch
from helpers import TINY, TINY_WITH_WHOLE_NET, composed, trained
from omegaconf import OmegaConf

import ddpm_lab
from ddpm_lab.cli.fit import train
from ddpm_lab.config.build import current, training_identity
from ddpm_lab.config.resume import resumed
from ddpm_lab.core.schedule import linear
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.nets.unet import UNet

from .support import quiet

pytestmark = quiet

LONGER = [*TINY, "trainer.max_steps=4", "loss=hybrid", "timesteps=importance"]


def as_version_01(config: dict) -> dict:
    """Without the group `model`; the curve of distances is a key of the final measurement; no key that came later."""
    config = copy.deepcopy(config)
    del config["model"], config["run"]["trained_in"]
    callbacks = config["callbacks"]
    del callbacks["frechet_curve"], callbacks["checkpoints"]["monitor"], callbacks["checkpoints"]["mode"]
    callbacks["frechet"]["every"] = 1
    config["trainer"]["channels_last"] = True
    return config


def plain(*overrides: str) -> dict:
    return OmegaConf.to_container(composed(*overrides), resolve=True)  # type: ignore[return-value]


def test_weights_by_their_names(tmp_path):
    """A network made here, written under the keys that version 0.1 had."""
    torch.manual_seed(3)
    net = UNet(1, 1, 8, channels=8, multipliers=[1, 2], blocks=1, attention=[4], groups=4)
    raw = {name: value + 0.01 * torch.randn_like(value) for name, value in net.state_dict().items()}
    average = {name: value + 0.01 * torch.randn_like(value) for name, value in net.state_dict().items()}
    content = {
        "config": as_version_01(plain(*TINY_WITH_WHOLE_NET)),
        "shape": [1, 8, 8],
        "levels": 17,
        "global_step": 2,
        "timesteps": {},
        "processes": 1,
        "state_dict": {f"net.{name}": value for name, value in raw.items()},
        "ema/0.9999": average,
    }
    torch.save(content, tmp_path / "old.ckpt")
    for weights, expected in (("raw", raw), (None, average)):
        run = ddpm_lab.load(tmp_path / "old.ckpt", weights)
        assert all(torch.equal(value, expected[name]) for name, value in run.net.state_dict().items())
    assert torch.equal(run.diffusion.schedule.alphas_bar, linear(T=10).alphas_bar)
    assert run.sample(2).isfinite().all()


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """A run of two steps in the layout of version 0.1: its folder, its checkpoint, the states of its callbacks."""
    folder = trained(tmp_path_factory.mktemp("old") / "run", *LONGER, "trainer.max_steps=2", "trainer.channels_last=true")
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["config"] = as_version_01(content["config"])
    states = content["callbacks"]
    best = states.pop("Checkpoints")["best"]
    states |= {"Checkpoints": {"best_bpd": best}, "FrechetDistance": {"validations": 1}}
    torch.save(content, last)
    OmegaConf.save(OmegaConf.create(content["config"]), folder / "config.yaml")
    return folder


def test_resumed_to_the_same_bits(old, tmp_path):
    words = [f"resume={old}", "run.name=longer", "trainer.max_steps=4"]
    config, checkpoint, _ = resumed(composed(*words), words, [])
    assert train(config, tmp_path / "longer", checkpoint, None, 0.0) == 0
    whole = trained(tmp_path / "whole", *LONGER)
    a, b = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (whole, tmp_path / "longer"))
    for key in ("state_dict", "ema/0.9999", "timesteps"):
        assert all(torch.equal(value, b[key][name]) for name, value in a[key].items())
    assert a["callbacks"]["Checkpoints"] == b["callbacks"]["Checkpoints"]
    assert "val/pixels_fd@8" in (tmp_path / "longer" / "metrics.csv").read_text()


def test_its_training_is_the_same(old, tmp_path):
    assert training_identity(as_version_01(plain(*TINY))) == training_identity(composed(*TINY))
    measured = trained(tmp_path / "measured", *LONGER, "trainer.max_steps=2", f"run.trained_in={old}", "sampler.steps=5")
    assert (measured / "summary.json").exists()


def test_configurations_of_now_are_left_as_they_are():
    config = plain(*TINY)
    assert current(config) == config
