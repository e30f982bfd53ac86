"""From configuration to objects: initial weights, whole runs, and checkpoints of others."""

import os
import re
from pathlib import Path

import pytest
import torch
from helpers import TINY, composed
from omegaconf import OmegaConf

from ddpm_lab.config.build import build, build_model, load
from ddpm_lab.errors import UserError
from ddpm_lab.models.run import load_weights
from ddpm_lab.training.ema import EMA

# --- weights ---------------------------------------------------------------------------------------------------------------


def state(*overrides: str, seed: int = 0) -> dict[str, torch.Tensor]:
    cfg = composed(*TINY, f"seed={seed}", *overrides)
    return build_model(cfg, (1, 8, 8), 17).state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def test_initial_weights_follow_the_seed_alone():
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), state()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(state("schedule=cosine", "loss=vlb", "sampler=ddim", "sampler.steps=5", "data.batch_size=3"), first)
    assert not equal(state(seed=1), first)


def test_weights_of_another_network_are_answered_by_the_first_that_differs():
    module = build_model(composed(*TINY), (1, 8, 8), 17)
    good = {name: value + 1 for name, value in module.state_dict().items()}
    load_weights(module, good, Path("there"))
    assert equal(module.state_dict(), good)
    first, second, *_ = sorted(good)
    cases = {
        "missing": {name: value for name, value in good.items() if name != first},
        r"\(7,\)": {**good, first: torch.zeros(7), second: torch.zeros(7)},
    }
    for found, wrong in cases.items():
        with pytest.raises(UserError, match=rf"^there: .*{re.escape(first)} .*{found}"):
            load_weights(module, wrong, Path("there"))
    with pytest.raises(UserError, match=r"net\.aaa .*\(1,\).*missing"):
        load_weights(module, {**good, "net.aaa": torch.zeros(1)}, Path("there"))
    assert equal(module.state_dict(), good)


# --- a whole run -----------------------------------------------------------------------------------------------------------


def test_build_writes_nothing_and_puts_the_average_last(tmp_path):
    folder = tmp_path / "run"
    module, data, trainer = build(composed(*TINY, "seed=3"), folder)
    assert not folder.exists()
    assert (module.model.seed, data.seed, data.steps, module.model.shape) == (3, 3, 2, (1, 8, 8))
    own = [type(callback).__name__ for callback in trainer.callbacks]
    listed = ["Samples", "VLBTerms", "LossQuartiles", "Throughput", "FrechetDistance", "FrechetCurve", "EMA"]
    assert [name for name in own if name in listed] == listed
    assert own[-1] == "Checkpoints"  # Lightning's order: it saves what all others have done
    assert isinstance(trainer.callbacks[own.index("EMA")], EMA)
    assert OmegaConf.create(module.model.config).schedule.T == 10
    assert all(isinstance(value, dict | list | str | int | float | None) for value in module.model.config.values())


def test_a_trial_run_takes_one_batch(tmp_path):
    assert build(composed(*TINY, "trainer.fast_dev_run=true"), tmp_path).data.steps == 1


@pytest.mark.parametrize("overrides", [["sampler.steps=11"], ["sampler=ddim", "sampler.steps=11"]])
def test_steps_that_are_not_there_are_answered(overrides, tmp_path):
    with pytest.raises(UserError, match="steps=11"):
        build(composed(*TINY, *overrides), tmp_path)


def test_a_foreign_checkpoint_cannot_name_what_it_likes(tmp_path):
    cfg = OmegaConf.to_container(composed(*TINY))
    cfg["net"]["_target_"] = "os.system"
    torch.save({"config": cfg, "state_dict": {}, "global_step": 1, "shape": [1, 8, 8], "levels": 17}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"net\._target_=os\.system: allowed is"):
        load(tmp_path / "x.ckpt")
    assert "DDPM_LAB_TARGETS" not in os.environ
