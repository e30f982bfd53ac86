"""From configuration to objects: nothing ignored, nothing hidden, and nothing run that is not ours."""

import contextlib
import importlib
import inspect
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CONF, TINY, composed
from omegaconf import DictConfig, OmegaConf

from ddpm_lab.config.build import build, build_module, instantiate, load, load_weights, resolve_target
from ddpm_lab.config.options import conf_dir, content
from ddpm_lab.errors import UserError
from ddpm_lab.training.ema import EMA

# --- every key reaches an argument, every argument is a key ----------------------------------------------------------------

OFFERED = {
    "net": {"in_channels", "out_channels", "size"}, "trainer": {"module", "callbacks", "logger", "run_dir"},
    "callbacks": {"extractor"}, "logger": {"run_dir", "evaluation"}, "metrics": {"data"}, "launcher": {"plan"},
}  # fmt: skip
"""Arguments that Python gives."""
HIDDEN = {"ddpm_lab.training.callbacks.samples.Samples": {"batch"}}
"""Arguments that are no choice: they change memory, not results."""


def nodes() -> dict[str, dict[str, Any]]:
    """Every node with a `_target_`, by file (and key, where a file holds several)."""
    found = {}
    for path in sorted(CONF.glob("*/*.yaml")):
        values = content(path.parent.name, path.stem, [conf_dir()])
        for name, node in {"": values, **values}.items():
            if isinstance(node, dict) and "." in node.get("_target_", ""):
                found[f"{path.parent.name}/{path.stem}{name and '.' + name}"] = node
    return found


@pytest.mark.parametrize("name", nodes())
def test_keys_of_an_option_are_the_arguments_of_what_it_makes(name):
    node = nodes()[name]
    module, _, attribute = node["_target_"].rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), attribute)).parameters
    offered = OFFERED.get(name.partition("/")[0], set())
    assert set(node) - {"_target_"} == set(parameters) - offered - HIDDEN.get(node["_target_"], set())
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters.values())


def test_no_option_was_overlooked():
    assert {"callbacks/default.samples", "schedule/linear", "trainer/cpu", "ema/ramp", "data/npz"} <= nodes().keys()
    assert "variance/auto" not in nodes()


# --- what a configuration may name -----------------------------------------------------------------------------------------

REFUSED = [
    "ddpm_lab.config.build.os.system", "builtins.eval", "os.system", "ddpm_lab.training.checkpoint.os.remove",
    "ddpm_lab.data.npz.Path", "ddpm_lab.config.build.importlib", "ddpm_lab", "ddpm_lab.", "ddpm_lab_evil.f", "torch.load",
    "ddpm_lab.data.npz.np.load", "ddpm_lab.core.schedule.nothing", "", ".", "eval",
]  # fmt: skip


@pytest.mark.parametrize("target", REFUSED)
def test_what_is_not_ours_is_refused(target):
    with pytest.raises(UserError, match=re.escape(f"net._target_={target}: ")):
        resolve_target(target, "net")


@pytest.mark.parametrize("target", ["ddpm_lab.nets.mlp.MLP", "ddpm_lab.core.schedule.cosine", "torch.optim.Adam"])
def test_what_is_ours_is_found(target):
    module, _, name = target.rpartition(".")
    assert resolve_target(target, "net") is getattr(importlib.import_module(module), name)


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    (tmp_path / "my_package_of_tests.py").write_text(
        "from os import system\nfrom ddpm_lab.core.loss import Simple\nclass Mine(Simple):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "my_package_of_tests"


def test_a_users_package_is_admitted_on_purpose_only(package, monkeypatch):
    target = f"{package}.Mine"
    with pytest.raises(UserError, match="DDPM_LAB_TARGETS=my_package"):
        resolve_target(target, "loss")
    monkeypatch.setenv("DDPM_LAB_TARGETS", f"other.,{package}.")
    assert resolve_target(target, "loss").__name__ == "Mine"
    for refused in (f"{package}.system", "another.f"):  # what it imports is not its own
        with pytest.raises(UserError, match="allowed are names under"):
            resolve_target(refused, "loss")


def node(target: str, **arguments: object) -> DictConfig:
    return OmegaConf.create({"loss": {"_target_": target, **arguments}})


class Payload:
    """What a malicious pickle would do when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


ATTACKS = {
    "nested torch.load": lambda evil: node(
        "ddpm_lab.core.loss.VLB", scale={"_target_": "torch.load", "f": evil, "weights_only": False}
    ),
    "nested numpy.load": lambda evil: node(
        "ddpm_lab.core.loss.VLB", scale={"_target_": "numpy.load", "file": evil, "allow_pickle": True}
    ),
    "lightning loads pickles": lambda evil: node(
        "lightning.fabric.utilities.cloud_io._load", path_or_url=evil, weights_only=False
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_configuration_cannot_make_us_open_a_pickle(attack, tmp_path):
    trap = tmp_path / "trap"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload(trap)))
    with contextlib.suppress(Exception):  # refused how it may: only the harm counts, which precedes many an error
        instantiate(ATTACKS[attack](str(tmp_path / "evil.pkl")), "loss")
    assert not trap.exists()


@pytest.mark.parametrize("content", [None, {"scale": 1.0}])
def test_a_node_that_names_nothing_is_answered(content):
    with pytest.raises(UserError, match="loss"):
        instantiate(OmegaConf.create({"loss": content}), "loss")


def test_arguments_that_do_not_fit_are_answered_with_their_key():
    with pytest.raises(UserError, match=r"^schedule: β must lie in"):
        instantiate(OmegaConf.create({"schedule": {"_target_": "ddpm_lab.core.schedule.linear", "beta_end": 2.0}}), "schedule")
    with pytest.raises(UserError, match=r"^loss: .*unexpected keyword argument 'scales'"):
        instantiate(node("ddpm_lab.core.loss.VLB", scales=2.0), "loss")


def test_python_offers_only_what_is_taken_and_lists_arrive_as_lists():
    optim = OmegaConf.create({"optim": {"_target_": "ddpm_lab.training.optim.Adam", "lr": 0.1, "betas": [0.5, 0.9],
                                        "eps": 1e-8, "weight_decay": 0.0, "warmup": 0, "clip": None}})  # fmt: skip
    made = instantiate(optim, "optim", extractor=object(), run_dir=Path())
    assert made.arguments["betas"] == (0.5, 0.9)


# --- weights ---------------------------------------------------------------------------------------------------------------


def state(*overrides: str, seed: int = 0) -> dict[str, torch.Tensor]:
    cfg = composed(*TINY, f"seed={seed}", *overrides)
    return build_module(cfg, (1, 8, 8), 17).state_dict()


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
    module = build_module(composed(*TINY), (1, 8, 8), 17)
    good = {name: value + 1 for name, value in module.state_dict().items()}
    load_weights(module, good, Path("there"))
    assert equal(module.state_dict(), good)
    first, second, *_ = sorted(good)
    cases = {
        "is missing there and": {name: value for name, value in good.items() if name != first},
        r"is \(7,\) there and": {**good, first: torch.zeros(7), second: torch.zeros(7)},
    }
    for message, wrong in cases.items():
        with pytest.raises(UserError, match=rf"^there: holds the weights of another network: {re.escape(first)} {message}"):
            load_weights(module, wrong, Path("there"))
    with pytest.raises(UserError, match=r"net\.aaa is \(1,\) there and missing in the network of this configuration"):
        load_weights(module, {**good, "net.aaa": torch.zeros(1)}, Path("there"))
    assert equal(module.state_dict(), good)


# --- a whole run -----------------------------------------------------------------------------------------------------------


def test_build_writes_nothing_and_puts_the_average_last(tmp_path):
    folder = tmp_path / "run"
    module, data, trainer = build(composed(*TINY, "seed=3"), folder)
    assert not folder.exists()
    assert (module.seed, data.seed, data.steps, module.shape) == (3, 3, 2, (1, 8, 8))
    own = [type(callback).__name__ for callback in trainer.callbacks]
    listed = ["Samples", "VLBTerms", "LossQuartiles", "Throughput", "FrechetDistance", "EMA"]
    assert [name for name in own if name in listed] == listed
    assert own[-1] == "Checkpoints"  # Lightning's order: it saves what all others have done
    assert isinstance(trainer.callbacks[own.index("EMA")], EMA)
    assert OmegaConf.create(module.config).schedule.T == 10
    assert all(isinstance(value, dict | list | str | int | float | None) for value in module.config.values())


def test_a_trial_run_takes_one_batch(tmp_path):
    assert build(composed(*TINY, "trainer.fast_dev_run=true"), tmp_path).data.steps == 1


@pytest.mark.parametrize("overrides", [["sampler.steps=11"], ["sampler=ddim", "sampler.steps=11"]])
def test_steps_that_are_not_there_are_answered(overrides, tmp_path):
    with pytest.raises(UserError, match=r"sampler\.steps=11"):
        build(composed(*TINY, *overrides), tmp_path)


def test_a_foreign_checkpoint_cannot_name_what_it_likes(tmp_path):
    cfg = OmegaConf.to_container(composed(*TINY))
    cfg["net"]["_target_"] = "os.system"
    torch.save({"config": cfg, "state_dict": {}, "global_step": 1, "shape": [1, 8, 8], "levels": 17}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"net\._target_=os\.system: allowed are"):
        load(tmp_path / "x.ckpt")
    assert "DDPM_LAB_TARGETS" not in os.environ
