"""Where the weights of a network lie in a checkpoint, and which of them are taken; which files beside it are read."""

from pathlib import Path
from typing import Any

import pytest
import torch
from imports import DIGITS, convert, folder_of, network, refused, weights

import ddpm_lab
from ddpm_lab.files import sha256

STATE = weights("ddim", network(8, None))
ZERO = {key: torch.zeros_like(value) for key, value in STATE.items()}
CONTAINERS: dict[str, tuple[Any, str, str]] = {
    "averages under shadow": ({"model": ZERO, "ema": {"decay": 0.9, "shadow": STATE}}, "", "ema"),
    "averages without the others": ({"ema": STATE}, "", "ema"),
    "averages beside a state dict": ({"state_dict": ZERO, "ema_state_dict": STATE}, "", "ema"),
    "averages without a shadow": ({"model": STATE, "ema": {"decay": 0.9}}, "weights=raw", "raw"),
    "raw weights that are asked for": ({"state_dict": STATE, "ema_state_dict": ZERO}, "weights=raw", "raw"),
    "another name": ({"model_state_dict": STATE}, "", "given"),
    "ddim's list": ([ZERO, {}, 3, 50, STATE], "", "ema"),
    "wrapped twice": ({f"module.module.{key}": value for key, value in STATE.items()}, "", "given"),
}


def same(folder: Path, kind: str) -> bool:
    run = ddpm_lab.load(folder)
    assert run.config["imported"]["weights"] == kind
    return all(torch.equal(value, network(8, None).state_dict()[key]) for key, value in run.net.state_dict().items())


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_weights_of_a_container_are_found(kind, tmp_path):
    content, word, called = CONTAINERS[kind]
    torch.save(content, tmp_path / "x.pt")
    done = convert("from=x.pt", *DIGITS, "net.groups=8", *word.split(), cwd=tmp_path)
    assert done.code == 0, done.told
    assert same(tmp_path / "outputs" / "imported" / "x", called)


def test_averages_that_are_none_are_named_with_what_else_can_be_taken(tmp_path):
    torch.save({"model": STATE, "ema": {"decay": 0.9}}, tmp_path / "x.pt")
    told = refused("from=x.pt", *DIGITS, cwd=tmp_path)
    assert "decay" in told
    assert "weights=raw" in told
    assert "weights=raw" not in refused("from=x.pt", *DIGITS, "weights=ema", cwd=tmp_path)


def test_settings_beside_a_file_of_another_layout_are_not_read(tmp_path):
    torch.save(STATE, tmp_path / "x.pt")
    (tmp_path / "config.json").write_text("{")
    assert convert("from=x.pt", *DIGITS, "net.groups=8", cwd=tmp_path).code == 0
    run = ddpm_lab.load(tmp_path / "outputs" / "imported" / "x")
    assert run.config["imported"]["sha256"] == {"x.pt": sha256(tmp_path / "x.pt")}


def test_settings_that_decide_are_hashed_after_the_weights(tmp_path):
    place = folder_of(tmp_path / "theirs")
    assert convert(f"from={place}", "data=digits", cwd=tmp_path).code == 0
    files = ["diffusion_pytorch_model.safetensors", "config.json", "scheduler_config.json"]
    sums = ddpm_lab.load(tmp_path / "outputs" / "imported" / "theirs").config["imported"]["sha256"]
    assert list(sums.items()) == [(name, sha256(place / name)) for name in files]


def test_a_run_of_ones_own_is_for_ckpt(tmp_path):
    assert convert(f"from={folder_of(tmp_path / 'theirs')}", "data=digits", "name=own", cwd=tmp_path).code == 0
    done = convert("from=outputs/imported/own", "data=digits", "name=again", cwd=tmp_path)
    assert (done.code, "ckpt=" in done.told) == (2, True)


@pytest.mark.parametrize(("size", "good"), [(16, True), (32, True), (17, False)])
def test_data_of_another_size_are_noted_and_the_size_alone_is_blamed(size, good, tmp_path):
    torch.save(STATE, tmp_path / "x.pt")
    done = convert("from=x.pt", f"size={size}", "data=digits", "net.groups=8", cwd=tmp_path)
    assert (done.code == 0) == good
    said = done.printed if good else done.told
    assert ("8×8" in said, f"size={size}" in said) == (good, not good)
    assert "use net" not in said
