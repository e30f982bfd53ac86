"""What a configuration may name: the options of the group, and nothing else."""

import importlib
import pickle
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ddpm_lab.config import instantiate as module
from ddpm_lab.config.instantiate import instantiate, option_targets, permit, resolve_target
from ddpm_lab.config.options import conf_dir, groups
from ddpm_lab.errors import UserError


@pytest.fixture(autouse=True)
def _nothing_permitted():
    permit([])
    yield
    permit([])


REFUSED = [
    "ddpm_lab.config.build.os.system", "builtins.eval", "os.system", "ddpm_lab.training.checkpoint.os.remove",
    "ddpm_lab.data.npz.Path", "ddpm_lab.config.build.importlib", "ddpm_lab", "ddpm_lab.", "ddpm_lab_evil.f", "torch.load",
    "ddpm_lab.data.npz.np.load", "ddpm_lab.core.schedule.nothing", "", ".", "eval", "torch.optim.AdamW",
    "ddpm_lab.cli.train._main", "ddpm_lab.models.checkpoint.write_weights", "ddpm_lab.nets.mlp.MLP.forward",
]  # fmt: skip


@pytest.mark.parametrize("target", REFUSED)
@pytest.mark.parametrize("group", ["net", "loss", "callbacks"])
def test_what_no_option_of_the_group_names_is_refused(target, group):
    with pytest.raises(UserError, match=re.escape(f"{group}._target_={target}: ")):
        resolve_target(target, group)


def test_an_option_of_another_group_is_refused():
    for group in groups([conf_dir()]):
        others = {target for other in groups([conf_dir()]) if other != group for target in option_targets(other, conf_dir())}
        for target in others - option_targets(group, conf_dir()) - {"auto"}:
            with pytest.raises(UserError, match=re.escape(f"{group}._target_={target}: allowed is")):
                resolve_target(target, group)


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("ddpm_lab.nets.mlp.MLP", "net"),
        ("ddpm_lab.core.schedule.cosine", "schedule"),
        ("ddpm_lab.core.analytic.Analytic", "variance"),  # an option of evaluate.py alone
        ("ddpm_lab.training.callbacks.samples.Samples", "callbacks.mine"),
    ],
)
def test_an_option_is_resolved(target, key):
    name, _, attribute = target.rpartition(".")
    assert resolve_target(target, key) is getattr(importlib.import_module(name), attribute)


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    (tmp_path / "my_package_of_tests.py").write_text(
        "from os import system\nfrom ddpm_lab.core.loss import Simple\nnothing = 1\nclass Mine(Simple):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "my_package_of_tests"


def test_code_of_ones_own_is_permitted_by_a_folder_of_options_for_its_group_alone(package, tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text(f"_target_: {package}.Mine\n")
    with pytest.raises(UserError, match=r"--config-dir=FOLDER with FOLDER/loss/OPTION\.yaml"):
        resolve_target(f"{package}.Mine", "loss")
    permit([tmp_path])
    assert resolve_target(f"{package}.Mine", "loss").__name__ == "Mine"
    with pytest.raises(UserError, match=r"^net\._target_="):
        resolve_target(f"{package}.Mine", "net")
    permit([])
    with pytest.raises(UserError, match="DDPM_LAB_TARGETS"):
        resolve_target(f"{package}.Mine", "loss")


@pytest.mark.parametrize("listed", ["{}.Mine", "other.,{}.", "{}", " {} , x"])
def test_code_of_ones_own_is_permitted_by_the_environment(package, monkeypatch, listed):
    monkeypatch.setenv("DDPM_LAB_TARGETS", listed.format(package))
    assert resolve_target(f"{package}.Mine", "loss").__name__ == "Mine"
    for refused in (f"{package}.system", "another.f", f"{package}_evil.f", f"{package}.nothing"):
        with pytest.raises(UserError, match=re.escape(f"loss._target_={refused}: ")):
            resolve_target(refused, "loss")


class Payload:
    """What a malicious pickle would do when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


ATTACKS = {
    "torch.load": lambda evil: {"_target_": "torch.load", "f": evil, "weights_only": False},
    "lightning": lambda evil: {
        "_target_": "lightning.fabric.utilities.cloud_io._load", "path_or_url": evil, "weights_only": False,
    },
    "nested torch.load": lambda evil: {
        "_target_": "ddpm_lab.core.loss.VLB", "scale": {"_target_": "torch.load", "f": evil, "weights_only": False},
    },
    "nested numpy.load": lambda evil: {
        "_target_": "ddpm_lab.core.loss.VLB", "scale": {"_target_": "numpy.load", "file": evil, "allow_pickle": True},
    },
    "arguments of Hydra": lambda evil: {
        "_target_": "ddpm_lab.core.loss.VLB", "_args_": [{"_target_": "numpy.load", "file": evil, "allow_pickle": True}],
    },
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_configuration_cannot_open_a_pickle(attack, tmp_path):
    trap = tmp_path / "trap"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload(trap)))
    with pytest.raises(UserError, match=r"^loss"):
        instantiate(OmegaConf.create({"loss": ATTACKS[attack](str(tmp_path / "evil.pkl"))}), "loss")
    assert not trap.exists()


@pytest.mark.parametrize("content", [None, {"scale": 1.0}, {"_target_": 3}, [1], "x"])
def test_a_node_that_names_nothing_is_refused(content):
    with pytest.raises(UserError, match=r"^loss: no _target_"):
        instantiate({"loss": content}, "loss")


def test_arguments_that_do_not_fit_are_refused_with_their_key():
    with pytest.raises(UserError, match=r"^schedule\.beta_end=2\.0: allowed is float in \(0, 1\)"):
        instantiate({"schedule": {"_target_": "ddpm_lab.core.schedule.linear", "beta_end": 2.0}}, "schedule")
    with pytest.raises(UserError, match=r"^schedule\.T=5 rescale=true"):
        instantiate({"schedule": {"_target_": "ddpm_lab.core.schedule.linear", "T": 5, "rescale": True}}, "schedule")
    with pytest.raises(UserError, match=r"^loss\.scales=2\.0: .*Did you mean loss\.scale\?"):
        instantiate({"loss": {"_target_": "ddpm_lab.core.loss.VLB", "scales": 2.0}}, "loss")


def test_python_gives_only_what_is_taken():
    optim = {"_target_": "ddpm_lab.training.optim.Adam", "lr": 0.1, "betas": [0.5, 0.9]}
    made = instantiate({"optim": optim}, "optim", extractor=object(), run_dir=Path())
    assert made.arguments["betas"] == (0.5, 0.9)


def test_the_permission_of_a_run_ends_with_the_next(tmp_path):
    permit([tmp_path])
    permit([conf_dir()])
    assert module._permitted == [conf_dir()]
