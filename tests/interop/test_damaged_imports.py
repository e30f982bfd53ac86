"""Files of other code that are damaged, of another network, or hostile: each is refused in one line that names what does not
fit, and nothing is written; what only looks odd comes in."""

import json
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from imports import CONFIG, DIGITS, convert, folder_of, network, refused, weights
from safetensors.torch import save_file

import ddpm_lab
from ddpm_lab.files import sha256
from ddpm_lab.interop import reading

STEM = "diffusion_pytorch_model"
KEY = "mid_block.attentions.0.to_q.bias"


class Payload:
    """What runs a command where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def _changed(**changes: Any) -> dict[str, Any]:
    return weights() | changes


STATES = {
    "missing": ({key: value for key, value in weights().items() if key != KEY}, [KEY]),
    "extra": (_changed(logvar=torch.zeros(3)), ["logvar"]),
    "wrong shape": (_changed(**{KEY: torch.zeros(7)}), [KEY, "(7,)", "(8,)"]),
    "NaN": (_changed(**{KEY: torch.full((8,), torch.nan)}), [KEY, "NaN"]),
    "tensors that do not go together": (_changed(**{KEY: torch.zeros(8, 1)}), [KEY, "(8, 1)"]),
    "a number": (_changed(**{KEY: torch.tensor(1.0)}), [KEY, "()"]),
    "infinity in half precision": (_changed(**{KEY: torch.full((8,), torch.inf).half()}), [KEY, "infinity"]),
    "integers": (_changed(**{KEY: torch.zeros(8, dtype=torch.int64)}), [KEY, "int64"]),
    "complex": (_changed(**{KEY: torch.zeros(8, dtype=torch.complex64)}), [KEY, "complex64"]),
    "a GAN": ({"main.0.weight": torch.zeros(1), "main.1.num_batches_tracked": torch.zeros(1)}, ["main.0.weight", "ddpm_torch"]),
    "latents": (
        {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1), "betas": torch.zeros(1)},
        ["betas", "latents"],
    ),
    "half of a wrapper": (
        {f"module.{key}" if i % 2 else key: value for i, (key, value) in enumerate(weights().items())},
        ["is missing"],
    ),
}


@pytest.mark.parametrize("kind", STATES)
def test_weights_of_another_network_are_refused(kind, tmp_path):
    state, named = STATES[kind]
    place = folder_of(tmp_path / "theirs", state=state)
    told = refused(f"from={place}", "data=digits", cwd=tmp_path)
    assert all(part in told for part in [str(place), *named]), told


CONFIGS = {
    "10^9 channels": ({"block_out_channels": [10**9, 10**9]}, "block_out_channels=[1000000000"),
    "as many as there may be": ({"block_out_channels": [2**16, 2**16]}, "262144"),
    "10^9 blocks": ({"layers_per_block": 10**9}, "layers_per_block=1000000000"),
    "more blocks than weights": ({"layers_per_block": 100}, "resnets.1.norm1.weight is missing"),
    "many levels": (dict.fromkeys(("down_block_types", "up_block_types"), ["DownBlock2D"] * 10**5), "down_block_types"),
    "negative": ({"norm_num_groups": -4}, "norm_num_groups=-4"),
    "zero": ({"attention_head_dim": 0}, "attention_head_dim=0"),
    "text": ({"in_channels": "three"}, "in_channels=three"),
    "null": ({"out_channels": None}, "out_channels=null"),
    "nested": ({"block_out_channels": [[8], [8]]}, "block_out_channels="),
    "a mapping": ({"norm_eps": {"a": 1}}, "norm_eps=dict"),
    "NaN": ({"norm_eps": float("nan")}, "norm_eps=nan"),
    "not square": ({"sample_size": [8, 9]}, "sample_size=[8, 9]"),
    "other blocks": ({"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}, "SkipDownBlock2D"),
    "fewer blocks": ({"up_block_types": ["UpBlock2D"]}, "up_block_types"),
    "attention one way": ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "AttnUpBlock2D"),
    "cross attention": ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
    "another time": ({"time_embedding_type": "fourier"}, "time_embedding_type=fourier"),
    "a condition": ({"in_channels": 2}, "2 channels and gives 1"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_settings_that_no_network_here_has_are_refused(kind, tmp_path):
    changes, named = CONFIGS[kind]
    state = weights() | ({"conv_in.weight": torch.zeros(8, 2, 3, 3)} if kind == "a condition" else {})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = refused(f"from={folder_of(tmp_path / 'theirs', CONFIG | changes, state)}", "data=digits", cwd=tmp_path)
    assert named in told
    assert len(told) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB


@pytest.mark.parametrize("key", ["in_channels", "out_channels", "block_out_channels", "down_block_types", "up_block_types"])
def test_settings_that_are_missing_are_named(key, tmp_path):
    place = folder_of(tmp_path / "theirs", {name: value for name, value in CONFIG.items() if name != key})
    assert f"{key}=null" in refused(f"from={place}", "data=digits", cwd=tmp_path)


SCHEDULERS = {
    "steps": ({"num_train_timesteps": 10**9}, "num_train_timesteps=1000000000"),
    "beta": ({"beta_end": [1]}, "beta_end=[1]"),
    "a table": ({"trained_betas": [0.1]}, "trained_betas"),
    "kind": ({"beta_schedule": ["linear"]}, "beta_schedule=[linear]"),
    "prediction": ({"prediction_type": "flow"}, "prediction_type=flow"),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_schedulers_that_no_schedule_here_has_are_refused(kind, tmp_path):
    changes, named = SCHEDULERS[kind]
    place = folder_of(tmp_path / "theirs")
    (place / "scheduler_config.json").write_text(json.dumps(changes))
    assert named in refused(f"from={place}", "data=digits", cwd=tmp_path)


def _archive(path: Path, compression: int) -> None:
    torch.save(weights("ddim"), path.with_suffix(".whole"))
    with zipfile.ZipFile(path.with_suffix(".whole")) as whole, zipfile.ZipFile(path, "w", compression) as target:
        for name in whole.namelist():
            target.writestr(name, whole.read(name))
    path.with_suffix(".whole").unlink()


def _cut(path: Path) -> None:
    torch.save(weights("ddim"), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FILES = {
    "cut": (_cut, "not a readable checkpoint"),
    "empty": (lambda path: path.touch(), "not a readable checkpoint"),
    "text": (lambda path: path.write_text("a page about diffusion\n"), "not a readable checkpoint"),
    "a pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
    "no weights": (lambda path: torch.save({}, path), "empty"),
    "a list": (lambda path: torch.save([1, 2], path), "[1, 2]"),
    "no tensors": (lambda path: torch.save({"conv_in.weight": [0.5]}, path), "conv_in.weight is no tensor"),
    "no names": (lambda path: torch.save({1: torch.zeros(1)}, path), "names to tensors"),
    "one number for many": (lambda path: torch.save({"x": torch.zeros(1).expand(10**6)}, path), "x is (1000000,)"),
    "sparse": (lambda path: torch.save({"x": torch.eye(3).to_sparse()}, path), "theirs.pt"),
    "no values": (lambda path: torch.save({"x": torch.zeros(3, device="meta")}, path), "x is a tensor"),
    "compressed": (lambda path: _archive(path, zipfile.ZIP_DEFLATED), "compressed"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_no_checkpoints_are_refused(kind, tmp_path):
    write, named = FILES[kind]
    write(path := tmp_path / "theirs.pt")
    told = refused(f"from={path}", *DIGITS, "schedule=linear", cwd=tmp_path)
    assert named in told
    assert str(path) in told


def test_the_same_archive_without_compression_is_read(tmp_path):
    """What is refused above is the compression."""
    _archive(path := tmp_path / "theirs.pt", zipfile.ZIP_STORED)
    assert reading.read_tensors(path).keys() == weights("ddim").keys()


@pytest.mark.parametrize("kind", ["archive", "old", "pickle", "bin"])
def test_code_is_refused_and_not_run(kind, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "theirs.pt"
    content = weights("ddim") | {"x": Payload(canary)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(canary)))
    elif kind == "bin":
        (folder_of(tmp_path / "folder") / f"{STEM}.safetensors").unlink()
        torch.save(content, tmp_path / "folder" / f"{STEM}.bin")
        path = tmp_path / "folder"
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "archive")
    told = refused(f"from={path}", *DIGITS, cwd=tmp_path)
    assert ("run code" in told) == (kind != "pickle")  # which is of a kind that torch does not read at all
    assert not canary.exists()


def test_a_folder_without_weights_names_what_it_lacks_and_has(tmp_path):
    place = folder_of(tmp_path / "theirs")
    (place / f"{STEM}.safetensors").rename(place / f"{STEM}.fp16.safetensors")
    told = refused(f"from={place}", "data=digits", cwd=tmp_path)
    assert f"{STEM}.bin" in told
    assert f"{STEM}.fp16.safetensors" in told
    (place / f"{STEM}.fp16.safetensors").write_bytes(b"\x00" * 9)
    assert "safetensors" in refused(f"from={place / STEM}.fp16.safetensors", "data=digits", cwd=tmp_path)
    assert "config.json" in refused(f"from={tmp_path}", "data=digits", cwd=tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 10**5, '{"a": ' * 10**5, "\xff"])
def test_json_that_is_none_is_refused(text, tmp_path):
    place = folder_of(tmp_path / "theirs")
    (place / "config.json").write_text(text, encoding="latin-1")
    assert str(place / "config.json") in refused(f"from={place}", "data=digits", cwd=tmp_path)


def test_json_of_a_gigabyte_is_not_read(tmp_path):
    place = folder_of(tmp_path / "theirs")
    with (place / "config.json").open("r+b") as file:
        file.truncate(2**30)
    assert f"{2**30:,} bytes" in refused(f"from={place}", "data=digits", cwd=tmp_path)


def sharded(place: Path) -> Path:
    """The same folder with its weights in two files, and the index of them."""
    state = weights()
    names = {key: f"{STEM}-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: value for key, value in state.items() if names[key] == name}, place / name)
    (place / f"{STEM}.safetensors").unlink()
    (place / f"{STEM}.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return place


def test_weights_in_several_files_are_put_together(tmp_path):
    place = sharded(folder_of(tmp_path / "theirs"))
    assert convert(f"from={place}", "data=digits", cwd=tmp_path).code == 0
    run = ddpm_lab.load(tmp_path / "outputs" / "imported" / "theirs")
    assert all(torch.equal(value, network().state_dict()[key]) for key, value in run.net.state_dict().items())
    files = [*sorted(place.glob("*.safetensors")), place / "config.json", place / "scheduler_config.json"]
    assert run.config["imported"]["sha256"] == {file.name: sha256(file) for file in files}


@pytest.mark.parametrize("kind", ["missing", "above", "absolute", "a link out", "no map"])
def test_an_index_reads_no_file_elsewhere(kind, tmp_path):
    place, outside = sharded(folder_of(tmp_path / "theirs")), tmp_path / "outside.safetensors"
    index, first = place / f"{STEM}.safetensors.index.json", f"{STEM}-00001-of-00002.safetensors"
    (place / first).rename(outside)
    name = {"above": "../outside.safetensors", "absolute": str(outside)}.get(kind, first)
    if kind == "a link out":
        (place / first).symlink_to(outside)
    changed = index.read_text().replace(first, name) if kind != "no map" else json.dumps({"weight_map": [first]})
    index.write_text(changed)
    told = refused(f"from={place}", "data=digits", cwd=tmp_path)
    assert (name[:50] if kind != "no map" else "weight_map") in told


def test_links_of_the_hubs_cache_are_followed(tmp_path):
    """There the files of a snapshot, its index among them, are links to one folder beside it."""
    place, blobs = sharded(folder_of(tmp_path / "snapshots" / "1")), tmp_path / "blobs"
    blobs.mkdir()
    for path in place.iterdir():
        path.symlink_to(path.rename(blobs / path.name))
    assert convert(f"from={place}", "data=digits", cwd=tmp_path).code == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_in_as_float32_and_that_is_said(kind, tmp_path):
    place = folder_of(tmp_path / "theirs", state={key: value.to(kind) for key, value in weights().items()})
    done = convert(f"from={place}", "data=digits", cwd=tmp_path)
    assert (done.code, str(kind).removeprefix("torch.") in done.printed) == (0, True)
    for key, value in ddpm_lab.load(tmp_path / "outputs" / "imported" / "theirs").net.state_dict().items():
        assert torch.equal(value, network().state_dict()[key].to(kind).float())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(prefix, tmp_path):
    net = network(groups=8, head_width=None)
    torch.save({prefix + key: value for key, value in weights("ddim", net).items()}, tmp_path / "theirs.pt")
    done = convert(f"from={tmp_path / 'theirs.pt'}", *DIGITS, "net.groups=8", cwd=tmp_path)
    assert done.code == 0, done.told
    state = ddpm_lab.load(tmp_path / "outputs" / "imported" / "theirs").net.state_dict()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())


def test_names_of_attention_before_and_now_are_the_same(tmp_path):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = weights()
    for new, before in old.items():
        state = {key.replace(f".{new}.", f".{before}."): value for key, value in state.items()}
    assert state.keys() != weights().keys()
    assert convert(f"from={folder_of(tmp_path / 'theirs', state=state)}", "data=digits", cwd=tmp_path).code == 0
