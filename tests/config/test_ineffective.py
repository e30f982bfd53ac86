"""What was typed and cannot act is named; what was not typed, or acts, is not."""

import copy
from typing import Any

import pytest
import yaml
from helpers import CONF

from ddpm_lab.config.ineffective import RULES, ineffective

TRAIN: dict[str, Any] = {
    "schedule": {"T": 100},
    "sampler": {"steps": 20, "spacing": "trailing"},
    "guidance": {"scale": 2.0, "interval": [-1.0, 1.0]},
    "data": {"conditional": True, "label_dropout": 0.1, "label_key": "y"},
    "metrics": {"_target_": "ddpm_lab.metrics.extractors.Pixels"},
    "net": {"_target_": "ddpm_lab.nets.unet.UNet"},
    "trainer": {"accelerator": "gpu", "tf32": True, "channels_last": True, "data_on_device": True, "other_world_size": False},
    "resume": None,
    "logger": {"mode": "online", "project": None},
    "callbacks": {"samples": {"n": 8, "rows": 4, "frames": 5}, "vlb_terms": {"stride": 10, "final_stride": 1}},
}
EVALUATE: dict[str, Any] = {
    "variance": {"_target_": "ddpm_lab.core.analytic.Analytic"},
    "sampler": {"steps": 20, "spacing": "trailing"},
    "metrics": {"_target_": "ddpm_lab.metrics.inception.Inception", "batch": 64},
    "nll": {
        "chain": "both", "split": "val", "terms": None, "train_stride": 10, "ode_n": 64, "ode_probes": 1, "ode_tolerance": 1e-5,
    },
    "quality": {"n": 100, "reference": "train", "statistics": None, "grid": 64, "sets": 2},
    "gamma": {"n": 256},
}  # fmt: skip


def edited(cfg: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    cfg = copy.deepcopy(cfg)
    for key, value in changes.items():
        *groups, name = key.split(".")
        node = cfg
        for group in groups:
            node = node[group]
        node[name] = value
    return cfg


BETA = "ddpm_lab.core.variance.Beta"
# (base, key that was typed, what prevents it, what the message names)
CASES = [
    (EVALUATE, "nll.train_stride", {"nll.chain": "sampler"}, "nll.chain=sampler"),
    (EVALUATE, "nll.train_stride", {"nll.split": "train"}, "nll.split=train"),
    (EVALUATE, "nll.ode_probes", {"nll.ode_n": 0}, "nll.ode_n=0"),
    (EVALUATE, "nll.ode_tolerance", {"nll.ode_n": 0}, "nll.ode_n=0"),
    (EVALUATE, "gamma.n", {"variance._target_": BETA}, "variance=analytic"),
    (EVALUATE, "quality.reference", {"quality.n": 0}, "quality.n=0"),
    (EVALUATE, "quality.grid", {"quality.n": 0}, "quality.n=0"),
    (EVALUATE, "quality.sets", {"quality.n": 0}, "quality.n=0"),
    (EVALUATE, "metrics", {"quality.n": 0}, "quality.n=0"),
    (EVALUATE, "metrics.batch", {"quality.n": 0}, "quality.n=0"),
    (EVALUATE, "quality.grid", {"quality.grid": 101}, "quality.n=100"),
    (EVALUATE, "quality.reference", {"quality.statistics": "real.npz"}, "quality.statistics=real.npz"),
    (EVALUATE, "sampler.spacing", {"sampler.steps": None}, "sampler.steps=null"),
    *(
        (EVALUATE, key, {"nll.chain": "continuous", "quality.n": 0}, "nll.chain=continuous quality.n=0")
        for key in ("variance", "variance._target_", "sampler", "sampler.steps", "gamma.n")
    ),
    *(
        (EVALUATE, key, {"nll.chain": "full", "quality.n": 0}, "nll.chain=full quality.n=0")
        for key in ("sampler", "sampler.steps", "sampler.spacing")
    ),
    (EVALUATE, "nll.chain", {"guidance": {"scale": 2.0}}, "guidance.scale=2.0"),
    (TRAIN, "guidance.interval", {"guidance.scale": 1.0}, "guidance.scale=1.0"),
    (TRAIN, "data.label_dropout", {"data.conditional": False}, "data.conditional=false"),
    (TRAIN, "data.label_key", {"data.conditional": False}, "data.conditional=false"),
    (TRAIN, "sampler.spacing", {"sampler.steps": 100}, "sampler.steps=100"),
    (TRAIN, "callbacks.samples.rows", {"callbacks.samples.rows": 9}, "callbacks.samples.n=8"),
    (TRAIN, "callbacks.samples.frames", {"callbacks.samples.frames": 21}, "sampler.steps=20"),
    (TRAIN, "callbacks.samples.frames", {"callbacks.samples.frames": 101, "sampler.steps": None}, "schedule.T=100"),
    (TRAIN, "callbacks.vlb_terms.stride", {"callbacks.vlb_terms.stride": 101}, "schedule.T=100"),
    (TRAIN, "callbacks.vlb_terms.final_stride", {"callbacks.vlb_terms.final_stride": 101}, "schedule.T=100"),
    (TRAIN, "trainer.tf32", {"trainer.accelerator": "cpu"}, "trainer.accelerator=cpu"),
    (TRAIN, "trainer.data_on_device", {"trainer.accelerator": "cpu"}, "trainer.accelerator=cpu"),
    (TRAIN, "trainer.channels_last", {"net._target_": "ddpm_lab.nets.mlp.MLP"}, "net=mlp"),
    (TRAIN, "trainer.other_world_size", {"trainer.other_world_size": True}, "resume=null"),
    (TRAIN, "logger.project", {"logger.mode": "disabled"}, "logger.mode=disabled"),
]


@pytest.mark.parametrize(("base", "key", "changes", "named"), CASES)
def test_a_typed_key_that_cannot_act_is_named_with_what_prevents_it(base, key, changes, named):
    cfg = edited(base, changes)
    (message,) = ineffective([(cfg, {key})])
    assert message.startswith(key)
    assert named in message
    assert ineffective([(cfg, set())]) == []


@pytest.mark.parametrize("base", [TRAIN, EVALUATE])
def test_keys_that_act_are_not_reported(base):
    active = {key for b, key, _, _ in CASES if b is base} - {"trainer.other_world_size"}
    assert ineffective([(base, active)]) == []


@pytest.mark.parametrize("changes", [{"nll.chain": "continuous"}, {"quality.n": 0}, {"nll.chain": "full"}])
def test_a_chain_acts_on_samples_and_on_bounds(changes):
    assert ineffective([(edited(EVALUATE, changes), {"variance", "sampler.steps", "gamma.n"})]) == []


def test_data_for_optimal_times_act_under_any_variance():
    fixed = {"variance._target_": BETA, "sampler.spacing": "optimal"}
    assert ineffective([(edited(EVALUATE, fixed), {"gamma.n"})]) == []


def test_turning_something_off_needs_nothing_to_act_on():
    assert ineffective([(edited(EVALUATE, {"nll.train_stride": 0, "nll.chain": "sampler"}), {"nll.train_stride"})]) == []


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_spacings_by_noise_act_on_all_steps_too(spacing):
    assert ineffective([(edited(TRAIN, {"sampler.spacing": spacing, "sampler.steps": None}), {"sampler.spacing"})]) == []


def test_a_variance_of_other_packages_may_be_estimated_from_gamma():
    assert ineffective([(edited(EVALUATE, {"variance._target_": "mine.Optimal"}), {"gamma.n"})]) == []


def test_labels_act_on_a_classifier_too():
    changes = {"data.conditional": False, "metrics._target_": "ddpm_lab.metrics.classifier.Classifier"}
    assert ineffective([(edited(TRAIN, changes), {"data.label_key"})]) == []


AE, VAE = "ddpm_lab.models.autoencoder.Autoencoder", "ddpm_lab.models.vae.VAE"
DIFFUSION = "ddpm_lab.models.diffusion.Diffusion"
CHECKPOINTS = {"callbacks.checkpoints": {"monitor": "val/bound_bpd"}}


@pytest.mark.parametrize(
    ("target", "key", "changes", "named"),
    [
        (AE, "metrics", {}, "samples"),
        (AE, "metrics._target_", {}, "samples"),
        (AE, "callbacks.checkpoints.monitor", CHECKPOINTS, "likelihood"),
        (AE, "callbacks.checkpoints.monitor", {"callbacks.checkpoints": {"monitor": "val/pixels_fd@256"}}, "samples"),
        (VAE, "callbacks.vlb_terms.stride", {}, "one term"),
        (VAE, "callbacks.vlb_terms.final_stride", {}, "one term"),
        (VAE, "callbacks.vlb_terms.final_terms", {"callbacks.vlb_terms.final_terms": 5}, "one term"),
    ],
)
def test_what_a_model_cannot_use_is_named_for_it_alone(target, key, changes, named):
    def messages(model: str) -> list[str]:
        return ineffective([(edited(TRAIN, changes | {"model": {"_target_": model}}), {key})])

    (message,) = messages(target)
    assert message.startswith(key)
    assert named in message
    assert target.rpartition(".")[2] in message
    assert messages(DIFFUSION) == []


def test_a_number_that_the_model_may_have_is_monitored():
    changes = {"model": {"_target_": AE}, "callbacks.checkpoints": {"monitor": "val/psnr"}}
    assert ineffective([(edited(TRAIN, changes), {"callbacks.checkpoints.monitor"})]) == []


def test_a_key_that_acts_in_one_arm_of_a_sweep_is_not_reported():
    fixed, analytic = edited(EVALUATE, {"variance._target_": BETA}), EVALUATE
    typed = {"variance", "gamma.n"}
    assert ineffective([(fixed, typed), (analytic, typed)]) == []
    assert ineffective([(fixed, typed)] * 2) == ineffective([(fixed, typed)]) != []
    assert ineffective([]) == []


def keys_of_files() -> set[str]:
    """Every key of every option, and of the two roots."""
    keys = set()
    for path in CONF.rglob("*.yaml"):
        group = path.relative_to(CONF).parts[-2] if path.parent != CONF else ""
        root = path.name == "config.yaml"
        keys |= set(leaves(yaml.safe_load(path.read_text()) or {}, "" if root else f"{group}."))
    return keys


def leaves(node: Any, prefix: str) -> list[str]:
    if not isinstance(node, dict):
        return [prefix.removesuffix(".")]
    return [key for name, child in node.items() for key in leaves(child, f"{prefix}{name}.")]


def test_every_rule_is_about_keys_that_exist():
    known = keys_of_files()
    for rule in RULES:
        for key in rule.keys:
            assert any(key == other or (key.endswith(".") and other.startswith(key)) for other in known), key
