"""Every option of every group composes, trains for two steps and one validation, and makes a difference."""

import hashlib
import json
import re
from typing import Any

import numpy as np
import pytest
import yaml
from formats import random_images
from helpers import CONF, FEW_HELD_OUT, ROOT, TINY, digest, trained
from omegaconf import OmegaConf
from PIL import Image

from ddpm_lab.config.options import groups, options
from ddpm_lab.data.store import Store

GROUPS = sorted(groups([CONF]))
EXPERIMENT_SIZE = [
    "trainer.max_steps=2", "trainer.validate_every=2", "trainer.log_every=1", "schedule.T=10", "callbacks.frechet.n=8",
    "callbacks.samples.n=4", "callbacks.vlb_terms.stride=5", "data.batch_size=16",
    "callbacks.frechet_curve.every=1", "callbacks.frechet_curve.n=8", "callbacks.frechet_curve.steps=3",
]  # fmt: skip

# What the options of a group are compared under, so that all of them work. Other data or another network could not but differ.
# After two steps the network gives almost 0: all solvers find the same samples of ε̂ = 0, and some of v̂ = 0 if schedule=linear.
CONTEXT = {
    "schedule": ["prediction=v"], "prediction": [], "variance": ["loss=vlb"], "loss": ["prediction=v"],
    "timesteps": ["schedule.T=2"], "time": [], "sampler": ["sampler.steps=5", "prediction=v", "schedule=cosine"], "ema": [],
    "optim": ["optim.warmup=0"],
    "guidance": ["data.conditional=true", "optim.warmup=0"],  # or no class reaches the output in so few steps
}  # fmt: skip
# What an option cannot do without. A new option that needs nothing needs no line here.
VECTORS = ["data.n_train=100", "data.n_val=50"]  # of experiment=gaussian_mixture
NEEDS = {
    ("schedule", "learned"): ["loss=vlb"],
    ("loss", "vdm"): ["time=continuous"],
    ("timesteps", "antithetic"): ["time=continuous"],  # of t = 1 or 2 the batches of two steps may be those of another
    ("timesteps", "importance"): ["timesteps.history=1"],  # or it is uniform in so few steps
    ("timesteps", "laplace"): ["timesteps.b=2"],  # or hardly any of it lies on two steps
    ("guidance", "classifier_free"): ["guidance.scale=1000"],  # after two steps classes hardly differ
    ("schedule", "constant_rate"): ["schedule.log_snr=[8.0,2.0,-8.0]", "schedule.distances=[1.0,0.5]"],  # or a pilot
    ("net", "mlp"): VECTORS,
    ("net", "unet"): [
        "data=npz", "data.path=FILES/images.npz", "data.val_fraction=0.5",
        "net.channels=32", "net.groups=32",
    ],
    ("data", "npz"): ["data.path=FILES/images.npz", "data.val_fraction=0.5"],
    ("data", "cifar10"): ["data.root=FILES"],
    ("data", "mnist"): ["data.root=FILES"],
    ("data", "fashion_mnist"): ["data.root=FILES"],
    ("data", "celeba"): ["data.root=FILES", "data.size=16"],
    ("data", "image_folder"): ["data.path=FILES/images", "data.size=16", "data.val_fraction=0.5"],
    ("data", "gaussian_mixture"): VECTORS,
    ("experiment", "gaussian_mixture"): VECTORS,
    ("experiment", "photographs16"): ["data.path=FILES/photographs.npz", "sampler.steps=5"],
    **{("experiment", name): ["sampler.steps=5", *FEW_HELD_OUT, "net.channels=16"] for name in ("digits", "digits_sweep")},
    ("logger", "wandb"): ["logger.mode=offline"],
    ("logger", "all"): ["logger.mode=offline"],
    ("metrics", "classifier"): ["metrics.epochs=1", "metrics.batch=64"],
    ("metrics", "inception"): [
        "metrics.weights=WEIGHTS", "metrics.batch=8", "data=npz", "data.path=FILES/images.npz", "data.val_fraction=0.5",
    ],
}  # fmt: skip
CIFAR = [
    "data.root=FILES", "net.channels=8", "net.groups=8", "net.blocks=1", "net.attention=[8]", "metrics=pixels",
    "optim.lr=0.001", "optim.warmup=2",
]  # fmt: skip
FACES = ["data.size=16", "data.crop=center140"]
for name in options("experiment", [CONF]):
    if name.startswith(("ddpm_", "iddpm_")):
        NEEDS["experiment", name] = CIFAR if name != "ddpm_celeba64" else [*CIFAR, *FACES]
NEEDS["experiment", "cifar10_20min"] = [*CIFAR, "trainer=cpu", "trainer.compile=false"]
LONGEST = {("metrics", "inception")}
ABOUT_SWEEPS = {"sweep", "launcher"}  # no part of a run
HEADS = {("experiment", "head"), ("model", "variance_head"), *(("head", option) for option in options("head", [CONF]))}
ELSEWHERE = {
    ("trainer", "ddp"),  # several processes: test_processes.py
    ("trainer", "ddp_multinode"),
    ("logger", "mlflow"),  # training/test_trackers.py
    ("logger", "trackio"),
    ("callbacks", "none"),  # measures nothing: training/test_trainer.py
    *HEADS,  # test_variance_heads.py
    *(("model", option) for option in options("model", [CONF]) if option != "diffusion"),  # models/test_each_model.py
    ("experiment", "debug"),  # keeps nothing, as fast_dev_run in test_cli.py
}


def cases() -> list[Any]:
    found = [(group, option) for group in GROUPS if group not in ABOUT_SWEEPS for option in options(group, [CONF])]
    marks = dict.fromkeys(LONGEST, pytest.mark.soak) | {("trainer", "gpu"): pytest.mark.gpu}
    return [pytest.param(*case, marks=marks.get(case, ())) for case in found if case not in ELSEWHERE]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a few images of every data set that reads files; smaller here: a matrix of 3072² is slow."""
    folder = tmp_path_factory.mktemp("data")
    images = random_images(40, 3, 16).transpose(0, 2, 3, 1)
    np.savez(folder / "images.npz", images=images)
    arrays = {f"{part}_images": random_images(20, 3, 8, seed=i) for i, part in enumerate(("train", "test"))}
    np.savez(folder / "photographs.npz", **arrays, **{f"{part}_labels": np.arange(20) % 10 for part in ("train", "test")})
    (folder / "images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
    labels = np.arange(20, dtype=np.uint8) % 10
    for name, shape in {"cifar10": (3, 8), "mnist": (1, 8), "fashion_mnist": (1, 8)}.items():
        arrays = {f"{part}_images": random_images(20, *shape, seed=i) for i, part in enumerate(("train", "test"))}
        Store(folder, name).write({**arrays, "train_labels": labels, "test_labels": labels})
    faces = {part: random_images(20, 3, 16, seed=i) for i, part in enumerate(("train", "val", "test"))}
    Store(folder, "celeba").write(faces, crop="center140", size=16)
    return folder


def overrides_for(group: str, option: str) -> list[str]:
    if group == "experiment":
        return [f"experiment={option}", *EXPERIMENT_SIZE, *NEEDS.get((group, option), [])]
    needs = NEEDS.get((group, option), [])
    if group in CONTEXT:
        return [*TINY, *FEW_HELD_OUT, *CONTEXT[group], f"{group}={option}", *needs]
    digits = TINY if group == "data" else [*TINY, *FEW_HELD_OUT]
    base = ["experiment=gaussian_mixture", *EXPERIMENT_SIZE] if needs is VECTORS else digits
    return [*base, f"{group}={option}", *needs]


@pytest.mark.parametrize(("group", "option"), cases())
def test_option_trains_and_fires_every_callback(group, option, files, run_of, tmp_path, monkeypatch, request):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    overrides = [o.replace("FILES", str(files)) for o in overrides_for(group, option)]
    if option == "inception":
        weights = request.getfixturevalue("inception_weights")
        overrides = [o.replace("WEIGHTS", str(weights)) for o in overrides]
    folder = run_of(*overrides)
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    assert all(np.isfinite(metric["value"]) for metric in metrics.values())
    bound = metrics["prior_bpd"]["value"] + metrics["kl_bpd"]["value"] + metrics["decoder_bpd"]["value"]
    assert metrics["bound_bpd"]["value"] == pytest.approx(bound, abs=1e-9)
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    distance = {"inception": "fid@8", "classifier": "classifier_fd@8"}.get(option, "pixels_fd@8")
    assert {"train/loss", "train/images_per_s", "val/bound_bpd", f"val/{distance}"} <= set(header.split(","))
    assert rows[-1].startswith("2,")
    for name in ("samples/step_0000002.png", "samples/progression_0000002.png", "vlb_terms.png", "checkpoints/best.ckpt"):
        assert (folder / name).stat().st_size > 0
    assert OmegaConf.load(folder / "config.yaml").seed == 0


@pytest.mark.parametrize("group", CONTEXT)
def test_every_option_of_a_group_gives_another_result(group, run_of):
    """Given the same seed and everything else alike."""
    names = [option for option in options(group, [CONF]) if (group, option) != ("variance", "auto")]
    found = {option: digest(run_of(*overrides_for(group, option))) for option in names}
    assert len(set(found.values())) == len(names), found


def test_every_group_with_a_choice_is_compared():
    several = {group for group in GROUPS if len(options(group, [CONF])) > 1}
    assert several <= {
        *CONTEXT,
        "data",
        "net",
        "head",
        "model",
        "experiment",
        "trainer",
        "logger",
        "metrics",
        "callbacks",
        *ABOUT_SWEEPS,
    }


def test_vlb_and_hybrid_differ_for_one_network(results):
    both = [results(*TINY, "variance=learned_range", f"loss={loss}") for loss in ("vlb", "hybrid")]
    assert both[0] != both[1]


@pytest.mark.soak
def test_inception_is_in_no_checkpoint_and_its_weights_are_on_record(files, inception_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    needs = [o.replace("FILES", str(files)) for o in NEEDS["metrics", "inception"][1:]]
    folder = trained(tmp_path / "run", *TINY, "metrics=inception", f"metrics.weights={inception_weights}", *needs)
    plain = trained(tmp_path / "plain", *TINY, *needs[1:])
    with_it, without = ((f / "checkpoints" / "last.ckpt").stat().st_size for f in (folder, plain))
    assert with_it < without + 10_000
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    sha256 = hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    assert {"fid@8", "fid@8_real"} <= metrics.keys()
    assert metrics["fid@8"]["extractor_weights_sha256"] == metrics["fid@8_real"]["extractor_weights_sha256"] == sha256
    assert len(list((tmp_path / "cache" / "stats").glob("*.npz"))) == 2  # of the training data, and of 8 held out


def test_every_option_is_described():
    text = (ROOT / "docs" / "options.md").read_text()
    rows = {group: line for line in text.splitlines() for group in re.findall(r"^\| `(\w+)` \|", line)}
    for entry in yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]:
        (group,) = entry if isinstance(entry, dict) else ("_self_",)
        if (CONF / group).is_dir():
            missing = {path.stem for path in (CONF / group).glob("*.yaml")} - set(re.findall(r"`(\w+)`", rows.get(group, "")))
            assert missing == set(), group
