"""What is read of a file's network and training, beside second opinions: the signatures of diffusers' classes, and what the
README.md and the configurations of the other code give their published files."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from described import found_in, words
from imports import CONFIG
from originals import Weights, listed

from ddpm_lab.config.imported import Asked, Imported, imported
from ddpm_lab.config.options import conf_dir
from ddpm_lab.interop.recognise import LAYOUTS, looked_at
from ddpm_lab.interop.source import Source, read

NEEDED = ("in_channels", "out_channels", "sample_size", "block_out_channels", "down_block_types", "up_block_types")
LISTS = {"ddim": "ddim", "ddpm_torch": "ddpm_torch", "improved_diffusion": "openai", "guided_diffusion": "openai"}


def defaults(name: str) -> dict[str, Any]:
    """Of the arguments of a class of diffusers, as it writes them beside its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
    parameters = inspect.signature(getattr(diffusers, name)).parameters.values()
    return {"_class_name": name} | {one.name: one.default for one in parameters}


def without(settings: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != key}


DDPM: dict[str, Any] = {"_class_name": "DDPMScheduler"}

OF_NETWORK = {
    "attention_head_dim": 4,
    "downsample_padding": 0,
    "dropout": 0.5,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 4,
    "time_embedding_dim": 24,
}
"""Settings that a short config.json lacks, with values that are not their defaults."""


@pytest.mark.parametrize("key", OF_NETWORK)
def test_a_setting_that_config_json_lacks_is_the_default_of_the_class(key, tmp_path):
    whole = defaults("UNet2DModel") | {name: CONFIG[name] for name in NEEDED}
    net = found_in(tmp_path, whole, DDPM).net
    assert found_in(tmp_path, without(whole, key), DDPM).net == net
    assert found_in(tmp_path, whole | {key: OF_NETWORK[key]}, DDPM).net != net


OF_SCHEDULER = {
    "beta_end": 0.01,
    "beta_schedule": "scaled_linear",
    "beta_start": 1e-3,
    "clip_sample": False,
    "dynamic_thresholding_ratio": 0.9,
    "num_train_timesteps": 20,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "variance_type": "fixed_large",
}


@pytest.mark.parametrize("key", OF_SCHEDULER)
def test_a_setting_that_scheduler_config_json_lacks_is_the_default_of_the_class(key, tmp_path):
    whole = defaults("DDPMScheduler")
    whole |= {"thresholding": True, "sample_max_value": 3.0} if key == "dynamic_thresholding_ratio" else {}
    typed = words(found_in(tmp_path, CONFIG, whole))
    assert words(found_in(tmp_path, CONFIG, without(whole, key))) == typed
    assert words(found_in(tmp_path, CONFIG, whole | {key: OF_SCHEDULER[key]})) != typed


MEANT = {
    "beta_schedule": {
        "linear": "schedule=linear",
        "scaled_linear": "schedule=quadratic",
        "squaredcos_cap_v2": "schedule=cosine",
        "sigmoid": "schedule=sigmoid_beta",
    },
    "clip_sample": {False: "sampler.clip=false"},
    "prediction_type": {"epsilon": "prediction=eps", "sample": "prediction=x0", "v_prediction": "prediction=v"},
    "rescale_betas_zero_snr": {True: "schedule=zero_terminal_snr"},
    "variance_type": {
        "fixed_small": "variance=beta_tilde",
        "fixed_small_log": "variance=beta_tilde",
        "fixed_large": "variance=beta",
        "fixed_large_log": "variance=beta",
    },
}


@pytest.mark.parametrize("key", MEANT)
def test_what_a_scheduler_says_is_the_option_of_that_meaning(key, tmp_path):
    for value, word in MEANT[key].items():
        group, _, option = word.partition("=")
        assert words(found_in(tmp_path, CONFIG, defaults("DDPMScheduler") | {key: value}))[group] == option


GROUPS = ("schedule", "schedule.T", "prediction", "variance", "loss")
HO = ("linear", "1000", "eps", "beta", "simple")
COSINE = ("cosine", "4000", "eps", "learned_range")
LINEAR = ("linear", "1000", "eps", "learned_range")
PUBLISHED = {
    "ema_diffusion_cifar10_model.ckpt": ("ddim", None, HO),
    "cifar10_2040.pt": ("ddpm_torch", None, HO),
    "celeba_600.pt": ("ddpm_torch", None, ("linear", "1000", "eps", "beta_tilde", "simple")),
    "cifar10_uncond_50M_500K.pt": ("improved_diffusion", 4, (*COSINE, "hybrid")),
    "cifar10_uncond_vlb_50M_500K.pt": ("improved_diffusion", 4, (*COSINE, "vlb")),
    "imagenet64_uncond_100M_1500K.pt": ("improved_diffusion", 4, (*COSINE, "hybrid")),
    "imagenet64_uncond_vlb_100M_1500K.pt": ("improved_diffusion", 4, (*COSINE, "vlb")),
    "lsun_uncond_100M_1200K_bs128.pt": ("improved_diffusion", 1, (*LINEAR, "hybrid")),
    "lsun_uncond_100M_2400K_bs64.pt": ("improved_diffusion", 1, (*LINEAR, "hybrid")),
}
"""Published files: the heads that their code gives them, and how they were trained."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_read_as_it_was_trained(name):
    layout, heads, options = PUBLISHED[name]
    found = looked_at(LAYOUTS[layout], Source(Path(name), {"given": listed(LISTS[layout])}, {}), "given", {})
    typed = words(found)
    assert tuple(typed[group] for group in GROUPS) == options
    assert (found.net.get("heads"), found.channels) == (heads, 3)


def brought(name: str, layout: str, *typed: str, size: int | None = None) -> Imported:
    source = Source(Path(name), {"given": listed(LISTS[layout])}, {})
    return imported(source, name, Asked(layout=layout, size=size), typed, [conf_dir()])


TIMES = {
    "the published T": (("cifar10_uncond_50M_500K.pt", "improved_diffusion"), 1000 / 4000),
    "another T": (("cifar10_uncond_50M_500K.pt", "improved_diffusion", "schedule.T=2000"), 1000 / 2000),
    "a file of no known name": (
        ("cifar10.pt", "improved_diffusion", "schedule=linear", "schedule.T=500"),
        1000 / 500,
    ),
    "LSUN": (("lsun_uncond_cifar10.pt", "improved_diffusion", "schedule.T=500"), 1),
    "guided": (("cifar10.pt", "guided_diffusion", "schedule=linear", "schedule.T=4000", "net.heads=4"), 1),
    "ddim": (("cifar10.ckpt", "ddim", "schedule.T=500"), 1),
}


@pytest.mark.parametrize("layout", ["improved_diffusion", "guided_diffusion"])
def test_openais_linear_schedule_ends_at_the_same_noise_for_every_length(layout):
    """`get_named_beta_schedule` of both codes multiplies β by 1000/T; their cosine has no such factor."""
    words = ["net.heads=4", "schedule.T=4000"]
    assert brought("cifar10.pt", layout, *words, "schedule=linear").config.schedule.rescale is True
    assert brought("cifar10.pt", layout, *words, "schedule=linear", "schedule.rescale=false").config.schedule.rescale is False
    assert "rescale" not in brought("cifar10.pt", layout, *words, "schedule=cosine").config.schedule


@pytest.mark.parametrize("case", TIMES)
def test_times_reach_the_network_on_the_scale_that_it_was_trained_on(case):
    """improved-diffusion trains by rescale_timesteps=True on (t − 1)·1000/T, but on LSUN; the others on t − 1."""
    words, scale = TIMES[case]
    net = brought(*words).config.net
    assert (net.get("time_scale", 1), net.time_offset) == (scale, -1)


@pytest.mark.parametrize(
    ("name", "asked", "size"), [("celeba.ckpt", None, 64), ("celeba.ckpt", 32, 32), ("cifar10.ckpt", None, 32)]
)
def test_the_size_of_images_is_what_is_asked_or_that_of_the_data_in_the_name(name, asked, size):
    run = brought(name, "ddim", size=asked)
    assert run.checkpoint["shape"] == [3, size, size]
    assert run.config.net.attention == [size // 2]
    assert run.config.data.get("size", 32) == size


def of_ddim(raw: Weights, ema: Weights | None) -> list[Any]:
    """[model, optimiser, epoch, step, averages]; the last only where model.ema is set."""
    return [{f"module.{name}": value for name, value in raw.items()}, {}, 12, 5000, *([] if ema is None else [ema])]


def of_ddpm_torch(raw: Weights, ema: Weights | None) -> dict[str, Any]:
    averages = {} if ema is None else {"ema": {"decay": 0.9999, "shadow": ema, "num_updates": 3}}
    return {"model": raw, "optimizer": {}, **averages, "epoch": 7}


FILES = {"ddim": (of_ddim, "temb.dense.0.weight", 5000), "ddpm_torch": (of_ddpm_torch, "embed.0.weight", 0)}
"""What is saved while training, the name of one weight, and the step that the file says."""


@pytest.mark.parametrize("layout", FILES)
@pytest.mark.parametrize(("has", "asked", "taken"), [("both", None, 1), ("both", "raw", 0), ("raw", None, 0)])
def test_of_a_file_saved_while_training_the_averages_are_taken(layout, has, asked, taken, tmp_path):
    content, name, step = FILES[layout]
    both = listed(layout, 0), listed(layout, 1)
    torch.save(content(both[0], both[1] if has == "both" else None), path := tmp_path / "x.pth")
    run = imported(read(path), "x.pth", Asked(size=32, weights=asked), ["data=cifar10"], [conf_dir()]).checkpoint
    weight = run["ema/imported"]["time.0.weight"] if taken else run["state_dict"]["net.time.0.weight"]
    assert torch.equal(weight, both[taken][name])
    assert not torch.equal(*(weights[name] for weights in both))
    assert run["global_step"] == step
