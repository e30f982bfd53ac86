"""Learned uncertainty in runs: trained with the network, kept, averaged and resumed with it, and left out of exports."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import TINY, command_here, digest
from interop.exporting import exported, imported
from omegaconf import OmegaConf

from ddpm_lab import load
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.networks import Accompanied

LEARNED = [*TINY, "uncertainty=learned", "optim.warmup=0"]
WEIGHTS = {"net.uncertainty.weight", "net.uncertainty.bias"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def last(folder: Path) -> dict:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def test_its_weights_are_trained_kept_and_averaged(run_of):
    learned, plain = last(run_of(*LEARNED)), last(run_of(*TINY, "optim.warmup=0"))
    state, without = learned["state_dict"], plain["state_dict"]
    assert state.keys() - {name.replace("net.", "net.network.", 1) for name in without} == WEIGHTS
    assert all(bool((state[name] != 0).any()) for name in WEIGHTS)
    average = next(value for key, value in learned.items() if key.startswith("ema/"))
    assert {f"net.{name}" for name in average} == state.keys()
    moments = len(learned["optimizer_states"][0]["state"]) - len(plain["optimizer_states"][0]["state"])
    assert moments == len(WEIGHTS)
    assert any(not torch.equal(state[name.replace("net.", "net.network.", 1)], value) for name, value in without.items())


def test_a_resumed_run_is_to_the_bit_the_one_that_was_not_stopped(tmp_path):
    free = [word for word in LEARNED if not word.startswith(("trainer.max_steps", "trainer.validate_every"))]
    words = [*free, "trainer.validate_every=4", "run.root=out", "run.experiment=x"]
    for name, steps in (("whole", 4), ("stopped", 2)):
        done = command_here(*words, f"run.name={name}", f"trainer.max_steps={steps}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    whole, stopped = (tmp_path / "out" / "x" / name for name in ("whole", "stopped"))
    assert command_here(f"resume={stopped}", "trainer.max_steps=4", cwd=tmp_path).returncode == 0
    assert digest(whole) == digest(stopped)


def test_samples_are_those_of_the_network_alone(run_of):
    run = load(run_of(*LEARNED))
    samples = run.sample(2)
    assert isinstance(run.net, Accompanied)
    with torch.no_grad():
        for p in (run.net.uncertainty.weight, run.net.uncertainty.bias):
            p.fill_(5.0)
    assert torch.equal(run.sample(2), samples)


def test_other_code_gets_the_network_alone(run_of, tmp_path):
    """Read back, it is the same function of (x_t, t)."""
    copy = Path(shutil.copytree(run_of(*LEARNED), tmp_path / "run"))
    run, back = load(copy), load(imported(exported(copy, "diffusers"), "data=digits"))
    assert isinstance(run.net, Accompanied)
    x, t = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 3, 7, 10])
    with torch.no_grad():
        torch.testing.assert_close(back.net(x, t), run.net.network(x, t), rtol=1e-4, atol=1e-6)


def test_a_head_goes_on_top(run_of, tmp_path):
    base = Path(shutil.copytree(run_of(*LEARNED), tmp_path / "run"))
    words = ["trainer.validate_every=2", "trainer.max_steps=2", "callbacks.frechet_curve=null", "callbacks.samples=null"]
    done = command_here("head=ocm", f"base={base}", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = OmegaConf.load(base / "heads" / "ocm" / "config.yaml")
    assert "uncertainty" not in config


def test_what_does_not_go_together_is_refused_in_one_line(tmp_path):
    for words, names in {
        "loss=vlb uncertainty=learned": ("uncertainty=learned", "loss=vlb", "loss=simple"),
        "timesteps=importance uncertainty=learned": ("uncertainty=learned", "timesteps=importance", "timesteps=uniform"),
        "loss=likelihood time=continuous": ("loss=likelihood", "time=continuous", "VDM"),
        "loss=vlb timesteps=lognormal": ("loss=vlb", "timesteps=lognormal", "unbiased=true"),
        "schedule=zero_terminal_snr prediction=edm": ("schedule=zero_terminal_snr", "prediction=edm", "ᾱ_T = 0"),
        "loss=edm prediction=eps": ("loss=edm", "prediction=eps", "prediction=edm"),
        "loss=edm prediction=edm prediction.sigma_data=0.7": ("loss=edm", "sigma_data=0.5", "sigma_data=0.7"),
    }.items():
        done = command_here(*TINY, *words.split(), cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert all(name in done.stderr for name in names), done.stderr
