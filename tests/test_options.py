"""Every option of every group composes, trains for two steps and one validation, and makes a difference."""

import hashlib
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CONF, TINY, trained
from omegaconf import OmegaConf

from ddpm_lab.cli.options import options
from ddpm_lab.training.checkpoint import read_checkpoint

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
EXPERIMENT_SIZE = [
    "trainer.max_steps=2", "trainer.validate_every=2", "trainer.log_every=1", "schedule.T=10", "callbacks.frechet.n=8",
    "callbacks.samples.n=4",
    "callbacks.vlb_terms.stride=5", "callbacks.vlb_terms.final_stride=5", "data.batch_size=16", "callbacks.frechet.every=1",
]  # fmt: skip

# What an option cannot do without. A new option that needs nothing needs no line here.
VECTORS = ["data.n_train=100", "data.n_val=50"]  # of experiment=gaussian_mixture
NEEDS = {
    ("variance", "learned_range"): ["loss=hybrid"],
    ("net", "mlp"): VECTORS,
    ("net", "unet"): ["data=npz", "data.path=NPZ", "data.val_fraction=0.5", "net.channels=32", "net.groups=32"],
    ("data", "npz"): ["data.path=NPZ", "data.val_fraction=0.5", "net.attention=[8]"],
    ("sampler", "ddim"): ["sampler.steps=5"],
    ("sampler", "ddim_eta1"): ["sampler.steps=5"],
    ("data", "gaussian_mixture"): VECTORS,
    ("experiment", "gaussian_mixture"): VECTORS,
    ("experiment", "digits"): ["sampler.steps=5"],
    ("logger", "wandb"): ["logger.mode=offline"],
    ("logger", "all"): ["logger.mode=offline"],
    ("metrics", "inception"): [
        "metrics.weights=WEIGHTS", "metrics.batch=8", "data=npz", "data.path=NPZ", "data.val_fraction=0.5", "net.attention=[8]",
    ],
}  # fmt: skip
SLOW = {("metrics", "inception")}


def cases() -> list[Any]:
    found = [(group, option) for group in GROUPS for option in options(group, [CONF])]
    return [pytest.param(*case, marks=[pytest.mark.slow] if case in SLOW else []) for case in found]


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(path, images=images)
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory, npz):
    """Digest of everything a run gave, by its overrides; each set of overrides is trained once."""
    known: dict[tuple[str, ...], str] = {}

    def result(*overrides: str) -> str:
        overrides = tuple(o.replace("NPZ", str(npz)) for o in overrides)
        if overrides not in known:
            folder = tmp_path_factory.mktemp("run")
            known[overrides] = digest(trained(folder, *overrides))
        return known[overrides]

    return result


def digest(folder) -> str:
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    average = next(value for key, value in checkpoint.items() if key.startswith("ema/"))
    content = hashlib.sha256()
    for state in (checkpoint["state_dict"], average):
        for name, value in sorted(state.items()):
            content.update(name.encode() + value.numpy().tobytes())
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    content.update(json.dumps({key: metric["value"] for key, metric in metrics.items()}).encode())
    return content.hexdigest()


def overrides_for(group: str, option: str) -> list[str]:
    if group == "experiment":
        return [f"experiment={option}", *EXPERIMENT_SIZE, *NEEDS.get((group, option), [])]
    needs = NEEDS.get((group, option), [])
    base = ["experiment=gaussian_mixture", *EXPERIMENT_SIZE] if needs is VECTORS else TINY
    return [*base, f"{group}={option}", *needs]


@pytest.mark.parametrize(("group", "option"), cases())
def test_option_trains_and_fires_every_callback(group, option, npz, inception_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    files = {"NPZ": str(npz), "WEIGHTS": str(inception_weights)}
    overrides = [re.sub("NPZ|WEIGHTS", lambda found: files[found[0]], o) for o in overrides_for(group, option)]
    folder = trained(tmp_path / "run", *overrides)
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert all(np.isfinite(metric["value"]) for metric in metrics.values())
    bound = metrics["prior_bpd"]["value"] + metrics["kl_bpd"]["value"] + metrics["decoder_bpd"]["value"]
    assert metrics["bound_bpd"]["value"] == pytest.approx(bound, abs=1e-9)
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    distance = "fid@8" if option == "inception" else "pixels_fd"
    assert {"train/loss", "train/images_per_s", "val/bound_bpd", f"val/{distance}"} <= set(header.split(","))
    assert rows[-1].startswith("2,")
    for name in ("samples/step_0000002.png", "samples/progression_0000002.png", "vlb_terms.png", "checkpoints/best.ckpt"):
        assert (folder / name).stat().st_size > 0
    assert OmegaConf.load(folder / "config.yaml").seed == 0


def rivals() -> list[tuple[str, str, str]]:
    found = []
    for group in GROUPS:
        names = [option for option in options(group, [CONF]) if (group, option) != ("variance", "auto")]
        if group not in ("experiment", "data", "net", "logger", "metrics"):
            found += [(group, a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return found


@pytest.mark.parametrize(("group", "a", "b"), rivals())
def test_choosing_another_option_changes_the_result(group, a, b, results):
    """Given the same seed and everything else alike. (Other data or another network could not but differ.)"""
    shared = [*NEEDS.get((group, a), []), *NEEDS.get((group, b), [])]
    if group == "variance":
        shared = ["loss=vlb"]
    if group == "loss":
        shared = ["variance=learned_range"] if "hybrid" in (a, b) and "vlb" in (a, b) else []
    assert results(*TINY, *shared, f"{group}={a}") != results(*TINY, *shared, f"{group}={b}")


@pytest.mark.slow
def test_inception_is_in_no_checkpoint_and_its_weights_are_on_record(npz, inception_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    needs = [o.replace("NPZ", str(npz)) for o in NEEDS["metrics", "inception"][1:]]
    folder = trained(tmp_path / "run", *TINY, "metrics=inception", f"metrics.weights={inception_weights}", *needs)
    plain = trained(tmp_path / "plain", *TINY, *needs[1:])
    with_it, without = ((f / "checkpoints" / "last.ckpt").stat().st_size for f in (folder, plain))
    assert with_it < without + 10_000
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    sha256 = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    assert {"fid@8", "fid@8_real"} <= metrics.keys()
    assert metrics["fid@8"]["weights_sha256"] == metrics["fid@8_real"]["weights_sha256"] == sha256
    assert len(list((tmp_path / "cache" / "stats").glob("*.npz"))) == 2  # of the training data, and of 8 held out


@pytest.mark.parametrize("option", [option for option in options("logger", [CONF]) if option != "csv"])
def test_a_logger_only_watches(option, results):
    assert results(*TINY, f"logger={option}", *NEEDS.get(("logger", option), [])) == results(*TINY)


def test_the_same_options_give_the_same_result(tmp_path):
    assert digest(trained(tmp_path / "a", *TINY)) == digest(trained(tmp_path / "b", *TINY))


CHANGES = [
    "seed=1", "schedule.beta_start=0.001", "schedule.beta_end=0.3", "schedule.T=11",
    "sampler.steps=5", "sampler.clip=false", "net.channels=16", "net.multipliers=[1,1]", "net.blocks=2", "net.attention=[8]",
    "net.groups=2", "data.val_fraction=0.3", "data.split_seed=1", "data.flip=true", "data.batch_size=8",
    "optim.lr=0.1", "optim.betas=[0.5,0.999]", "optim.eps=0.1", "optim.weight_decay=0.1", "optim.warmup=0",
    "optim.clip=0.000001", "ema.decay=0.05", "ema.ramp=false", "callbacks.frechet.n=9", "callbacks.frechet.seed=3",
    "callbacks.vlb_terms.seed=1", "callbacks.vlb_terms.final_stride=2", "trainer.max_steps=3",
    ("schedule.beta_end=0.001", "schedule.rescale=true"),
    ("trainer.max_steps=4 trainer.validate_every=4", "net.dropout=0.5"),
    ("schedule=cosine", "schedule.offset=0.1"), ("schedule=cosine", "schedule.max_beta=0.5"), ("loss=vlb", "loss.scale=50"),
    ("loss=hybrid variance=learned_range", "loss.weight=1"), ("sampler=ddim sampler.steps=5", "sampler.eta=1"),
    ("sampler=ddim sampler.steps=5", "sampler.spacing=leading"), ("sampler=ddim sampler.steps=5", "sampler.clip=false"),
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_changing_a_value_changes_the_result(change, results):
    context, value = change if isinstance(change, tuple) else ("", change)
    assert results(*TINY, *context.split()) != results(*TINY, *context.split(), value)


def test_sampling_and_validation_leave_training_alone(tmp_path):
    """The weights do not depend on what is measured on the way."""
    rare = [*TINY, "trainer.max_steps=4", "trainer.validate_every=4"]
    often = [*rare, "trainer.validate_every=1", "callbacks.samples.n=7", "callbacks.frechet.n=3", "trainer.log_every=3"]
    a, b = (read_checkpoint(trained(tmp_path / str(i), *o) / "checkpoints/last.ckpt") for i, o in enumerate((rare, often)))
    assert all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items())
