"""What is read of a file's network and training, beside second opinions: the signatures of diffusers' classes, and what the
README.md and the configurations of the other code give their published files."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from imports import CONFIG
from originals import listed
from torch import Tensor

from ddpm_lab.config.imported import Asked, Imported, imported
from ddpm_lab.config.options import conf_dir
from ddpm_lab.interop.layout import Found
from ddpm_lab.interop.recognise import LAYOUTS, kind_of, looked_at
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


def of_diffusers(config: dict[str, Any], scheduler: dict[str, Any] | None = None) -> Found:
    return LAYOUTS["diffusers"].found({}, Source(Path("theirs"), {}, {}, config=config, scheduler=scheduler))


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
def test_a_setting_that_config_json_lacks_is_the_default_of_the_class(key):
    whole = defaults("UNet2DModel") | {name: CONFIG[name] for name in NEEDED}
    net = of_diffusers(whole).net
    assert of_diffusers({name: value for name, value in whole.items() if name != key}).net == net
    assert of_diffusers(whole | {key: OF_NETWORK[key]}).net != net


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
def test_a_setting_that_scheduler_config_json_lacks_is_the_default_of_the_class(key):
    whole = defaults("DDPMScheduler")
    whole |= {"thresholding": True, "sample_max_value": 3.0} if key == "dynamic_thresholding_ratio" else {}
    words = of_diffusers(CONFIG, whole).words
    assert of_diffusers(CONFIG, {name: value for name, value in whole.items() if name != key}).words == words
    assert of_diffusers(CONFIG, whole | {key: OF_SCHEDULER[key]}).words != words


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
def test_what_a_scheduler_says_is_the_option_of_that_meaning(key):
    for value, word in MEANT[key].items():
        words = of_diffusers(CONFIG, defaults("DDPMScheduler") | {key: value}).words
        group = word.partition("=")[0]
        assert [one for one in words if one.partition("=")[0] == group] == [word]


HO = ("schedule=linear", "schedule.T=1000", "prediction=eps", "variance=beta", "loss=simple")
LEARNED = ("prediction=eps", "variance=learned_range")
COSINE = ("schedule=cosine", "schedule.T=4000", *LEARNED)
LINEAR = ("schedule=linear", "schedule.T=1000", *LEARNED)
PUBLISHED = {
    "ema_diffusion_cifar10_model.ckpt": ("ddim", None, HO),
    "cifar10_2040.pt": ("ddpm_torch", None, HO),
    "cifar10_uncond_50M_500K.pt": ("improved_diffusion", 4, (*COSINE, "loss=hybrid")),
    "cifar10_uncond_vlb_50M_500K.pt": ("improved_diffusion", 4, (*COSINE, "loss=vlb")),
    "imagenet64_uncond_100M_1500K.pt": ("improved_diffusion", 4, (*COSINE, "loss=hybrid")),
    "imagenet64_uncond_vlb_100M_1500K.pt": ("improved_diffusion", 4, (*COSINE, "loss=vlb")),
    "lsun_uncond_100M_1200K_bs128.pt": ("improved_diffusion", 1, (*LINEAR, "loss=hybrid")),
    "lsun_uncond_100M_2400K_bs64.pt": ("improved_diffusion", 1, (*LINEAR, "loss=hybrid")),
}
"""Published files: the heads that their code gives them, and how they were trained."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_read_as_it_was_trained(name):
    layout, heads, words = PUBLISHED[name]
    found = looked_at(LAYOUTS[layout], Source(Path(name), {"given": listed(LISTS[layout])}, {}), "given", {})
    assert sorted(found.words) == sorted(words)
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
    "guided": (("cifar10.pt", "guided_diffusion", "schedule=linear", "schedule.T=4000", "net.heads=4"), 1),
    "ddim": (("cifar10.ckpt", "ddim", "schedule.T=500"), 1),
}


@pytest.mark.parametrize("case", TIMES)
def test_times_reach_the_network_on_the_scale_that_it_was_trained_on(case):
    """improved-diffusion trains by rescale_timesteps=True on (t − 1)·1000/T; the others on t − 1."""
    words, scale = TIMES[case]
    net = brought(*words).config.net
    assert (net.get("time_scale", 1), net.time_offset) == (scale, -1)


@pytest.mark.parametrize(("name", "size"), [("celeba.ckpt", 64), ("cifar10.ckpt", 32)])
def test_the_size_of_images_is_that_of_the_data_in_the_name(name, size):
    run = brought(name, "ddim")
    assert run.checkpoint["shape"] == [3, size, size]
    assert run.config.net.attention == [size // 2]
    assert run.config.data.get("size", 32) == size


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("averaged", [True, False])
def test_the_training_list_of_ddim_gives_averages_raw_weights_and_the_step(averaged, tmp_path):
    """[model, optimiser, epoch, step, averages]; the last only where model.ema is set."""
    raw, ema = {name: {f"norm_out.{name}": torch.tensor([value])} for name, value in (("weight", 1.0), ("bias", 2.0))}.values()
    module = {f"module.{name}": value for name, value in raw.items()}
    torch.save([module, {"param_groups": []}, 12, 5000, *([ema] if averaged else [])], path := tmp_path / "ckpt.pth")
    source = read(path)
    assert (source.step, kind_of(source, None), kind_of(source, "raw")) == (5000, "ema" if averaged else "raw", "raw")
    assert equal(source.weights["raw"], raw)
    assert equal(source.weights.get("ema", {}), ema if averaged else {})


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_file_of_ddpm_torch_gives_averages_and_raw_weights(prefix, tmp_path):
    raw, ema = {"in_conv.bias": torch.zeros(2)}, {"in_conv.bias": torch.ones(2)}
    model, shadow = ({f"{prefix}{name}": value for name, value in one.items()} for one in (raw, ema))
    content = {"model": model, "optimizer": {}, "ema": {"decay": 0.9999, "shadow": shadow, "num_updates": 3}, "epoch": 7}
    torch.save(content, path := tmp_path / "cifar10_2040.pt")
    source = read(path)
    assert kind_of(source, None) == "ema"
    assert equal(source.weights["raw"], raw)
    assert equal(source.weights["ema"], ema)


def test_the_step_of_a_training_list_is_that_of_the_run(tmp_path):
    raw, ema = listed("ddim", 0), listed("ddim", 1)
    torch.save([{f"module.{name}": value for name, value in raw.items()}, {}, 12, 5000, ema], path := tmp_path / "x.pth")
    run = imported(read(path), "x.pth", Asked(size=32), ["data=cifar10"], [conf_dir()])
    assert run.checkpoint["global_step"] == 5000
    assert torch.equal(run.checkpoint["ema/imported"]["time.0.weight"], ema["temb.dense.0.weight"])
    assert not torch.equal(raw["temb.dense.0.weight"], ema["temb.dense.0.weight"])
