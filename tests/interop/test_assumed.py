"""What an import takes that the file does not say: by names, by class of scheduler, by order of queries, keys and values."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from imports import DIGITS, SCHEDULER, convert, folder_of, network, refused, weights

from ddpm_lab.compare.choices import flat_config
from ddpm_lab.files import read_yaml
from ddpm_lab.interop.diffusers import CLASSES, OF_DDPM, scheduled
from ddpm_lab.interop.layout import Found
from ddpm_lab.interop.source import read

OPENAI = (*DIGITS, "layout=guided_diffusion", "net.groups=8", "net.heads=2")


def config_of(cwd: Path, *words: str) -> dict[str, Any]:
    done = convert(*words, "name=it", cwd=cwd)
    assert done.code == 0, done.told
    (folder,) = (cwd / "outputs" / "imported").iterdir()
    config = read_yaml(folder / "config.yaml")
    folder.rename(cwd / f"before_{len(list(cwd.iterdir()))}")
    return config


def assumed(config: dict[str, Any]) -> dict[str, str]:
    return dict(line.partition(",")[0].split("=") for line in config["imported"]["assumed"])


def test_both_orders_of_qkv_are_two_choices(tmp_path):
    torch.save(weights("guided_diffusion", network(8, None)), tmp_path / "x.pt")
    plain, heads, blocks = (
        config_of(tmp_path, "from=x.pt", *OPENAI, "schedule=linear", *qkv) for qkv in ([], ["qkv=heads"], ["qkv=blocks"])
    )
    assert [config["imported"]["qkv"] for config in (plain, heads, blocks)] == ["heads", "heads", "blocks"]
    assert ["qkv" in assumed(config) for config in (plain, heads, blocks)] == [True, False, False]
    flats = [flat_config(config) for config in (plain, heads, blocks)]
    assert flats[0] == flats[1] != flats[2]
    assert "qkv=blocks" in str(flats[2]["imported"])


def test_raw_weights_and_averages_of_one_file_are_two_choices(tmp_path):
    state = weights("ddpm_torch", network(8, None))
    torch.save({"model": state, "ema": {"shadow": state}}, tmp_path / "x.pt")
    flats = [flat_config(config_of(tmp_path, "from=x.pt", *DIGITS, "net.groups=8", f"weights={w}")) for w in ("ema", "raw")]
    assert flats[0] != flats[1]


NAMES = {
    "cifar10_2040.pt": ("CIFAR10", 32),
    "x-cifar-10.pt": ("CIFAR10", 32),
    "cifar10/model.pt": ("CIFAR10", 32),
    "celeba/cifar10.pt": ("CIFAR10", 32),
    "ddpm-celeba.pt": ("CelebA", 64),
    "celeba64_x.pt": ("CelebA", 64),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_word_of_a_name_tells_data_and_size_and_that_is_said(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    torch.save(weights("ddim", network(8, None)), tmp_path / name)
    config = config_of(tmp_path, f"from={name}", "net.groups=8")
    data, size = NAMES[name]
    assert config["data"]["_target_"].endswith(f".{data}")
    assert config["data"].get("size", size) == size
    assert config["net"]["attention"] == [size // 2]
    assert assumed(config).items() >= {"data": data.lower(), "size": str(size)}.items()


OTHERS = [
    "cifar100_x.pt",
    "ddpm-celebahq-256.pt",
    "celeba_hq.pt",
    "celeba-hq/x.pt",
    "mycifar10.pt",
    "cifar10s.pt",
    "cifar10/models/church.pt",
]


@pytest.mark.parametrize("name", OTHERS)
def test_a_part_of_a_word_or_a_folder_further_up_tells_nothing(name, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    torch.save(weights("ddim", network(8, None)), tmp_path / name)
    assert "data is needed" in refused(f"from={name}", "size=8", cwd=tmp_path)
    assert "size is needed" in refused(f"from={name}", "data=digits", cwd=tmp_path)


@pytest.mark.parametrize(
    "name", ["ema_x.pt", "x-ema.pt", "x_ema_0.9999.pt", "EMA.pt", "cinema.pt", "x_schema.pt", "emanuel.pt"]
)
def test_ema_is_a_word_of_the_name(name, tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / name)
    assert read(tmp_path / name).taken(None) == ("ema" if re.search("^ema[^n]|[_-]ema", name.lower()) else "given")


def with_scheduler(place: Path, without: str = "", **settings: Any) -> Path:
    folder_of(place)
    content = {key: value for key, value in {**SCHEDULER, **settings}.items() if key != without}
    (place / "scheduler_config.json").write_text(json.dumps(content))
    return place


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of numpy, in diffusers
@pytest.mark.parametrize("name", CLASSES)
def test_schedulers_that_come_in_have_the_betas_and_defaults_of_diffusers(name):
    kind = getattr(diffusers, name)
    theirs = {key: parameter.default for key, parameter in inspect.signature(kind.__init__).parameters.items()}
    ours = {**OF_DDPM, **CLASSES[name]}
    assert {key: value for key, value in ours.items() if theirs.get(key) not in (value, None)} == {}
    assert ours["clip_sample"] == theirs.get("clip_sample", False)
    schedule = {key: ours[key] for key in ("beta_schedule", "beta_start", "beta_end")}
    assert torch.equal(kind().betas, diffusers.DDPMScheduler(**schedule).betas)
    scheduled(found := Found({}, 3, 3), {"_class_name": name}, "x")
    read_back = {"schedule.beta_start": ours["beta_start"], "schedule.beta_end": ours["beta_end"], "schedule.T": 1000}
    assert found.words.items() >= read_back.items()
    assert found.words.get("sampler.clip", True) is ours["clip_sample"]
    assert found.assumed.keys() == {"variance"}


WRONG = {
    "_class_name": ["FlowMatchEulerDiscreteScheduler", "KarrasVeScheduler", 3],
    "clip_sample": ["no"],
    "thresholding": ["yes"],
    "sample_max_value": [[1]],
    "timestep_spacing": [[3], "odd"],
    "clip_sample_range": ["x", 2],
    "use_flow_sigmas": [True],
    "beta_schedule": ["exp"],
    "num_train_timesteps": [0],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_scheduler_that_means_something_else_is_refused(key, value, tmp_path):
    told = refused(f"from={with_scheduler(tmp_path / 'a', **{key: value})}", "data=digits", cwd=tmp_path)
    assert key in told
    assert "scheduler_config.json" in told


def test_without_a_class_what_is_missing_is_assumed(tmp_path):
    config = config_of(tmp_path, f"from={with_scheduler(tmp_path / 'a', without='num_train_timesteps')}", "data=digits")
    assert assumed(config).items() >= {"schedule": "linear", "schedule.T": "1000", "prediction": "eps"}.items()
    assert "variance" not in assumed(config)


TYPED = {
    "schedule.T=40": ("schedule.T", "40"),
    "schedule.beta_end=0.1": ("schedule.beta_end", "0.1"),
    "++schedule.T=40": ("schedule.T", "40"),
    "net.dropout=0.2": ("net.dropout", "0.2"),
    "prediction=v": ("prediction", None),
}


@pytest.mark.parametrize("word", TYPED)
def test_what_was_typed_is_not_assumed(word, tmp_path):
    torch.save(weights("ddim", network(8, None)), tmp_path / "x.pt")
    config = config_of(tmp_path, "from=x.pt", *DIGITS, "net.groups=8", word)
    key, value = TYPED[word]
    group, _, name = key.partition(".")
    assert value is None or str(config[group][name]) == value
    before = assumed(config_of(tmp_path, "from=x.pt", *DIGITS, "net.groups=8"))
    assert before.keys() - assumed(config).keys() == {key}


def test_of_another_schedule_only_its_length_is_assumed(tmp_path):
    torch.save(weights("ddim", network(8, None)), tmp_path / "x.pt")
    found = assumed(config_of(tmp_path, "from=x.pt", *DIGITS, "net.groups=8", "schedule=cosine"))
    assert {key for key in found if key.startswith("schedule")} == {"schedule.T"}


@pytest.mark.parametrize("word", ["net.head_width=2", "++net.head_width=2", "++net.heads=4"])
def test_heads_that_were_typed_are_not_assumed(word, tmp_path):
    torch.save(weights("improved_diffusion", network(8, None)), tmp_path / "x.pt")
    config = config_of(tmp_path, "from=x.pt", *DIGITS, "net.groups=8", "schedule=linear", word)
    assert "net.heads" not in assumed(config)
    assert (config["net"]["heads"], config["net"]["head_width"]) == ((4, None) if "heads" in word else (1, 2))
    assert {"schedule.T", "prediction", "variance", "net.time_scale", "qkv"} <= assumed(config).keys()
