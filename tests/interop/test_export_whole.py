"""One file of tensors with its configuration, folders that are whole or not there, and what their README.md says."""

import errno
import os
import shlex
import signal
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from exporting import NET, OTHERS, convert, equal, exported, imported, made, weights
from helpers import composed
from omegaconf import OmegaConf
from safetensors.torch import save

import ddpm_lab
from ddpm_lab.config.nested import plain
from ddpm_lab.config.resume import located
from ddpm_lab.config.trained import training_command
from ddpm_lab.config.unused import drop_unused
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.errors import UserError
from ddpm_lab.files import sha256, write_bytes, write_json
from ddpm_lab.metrics.record import record
from ddpm_lab.models.portable import read_portable, write_portable

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("own") / "run", *NET)


def test_one_file_opens_to_the_same_samples_and_run(own, tmp_path):
    out = tmp_path / "out"
    assert convert(tmp_path, f"ckpt={own}", "to=safetensors", f"out={out}")[0] == 0
    file, before = out / "model.safetensors", ddpm_lab.load(own)
    opened = ddpm_lab.load(file)
    assert (opened.weights, opened.step, opened.config) == ("ema/0.9", 7, before.config)
    assert torch.equal(opened.sample(2, DDIM(5)), before.sample(2, DDIM(5)))
    again = imported(file)
    assert equal(weights(again), weights(own))
    config = plain(OmegaConf.load(own / "config.yaml"))
    config["run"] |= {"root": "outputs", "experiment": "imported", "name": "x"}
    assert plain(OmegaConf.load(again / "config.yaml")) == ddpm_lab.load(again).config == config
    once, twice = (read_portable(path) for path in (file, exported(again, "safetensors") / file.name))
    assert equal(once["ema/0.9"], twice["ema/0.9"])
    assert once.keys() == twice.keys()


@pytest.mark.parametrize("weights", [3, None, "config", "ema/", "raw "])
def test_weights_of_no_known_form_are_refused(weights, tmp_path):
    write_portable({"x": torch.zeros(1)}, weights, {"config": {}}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"weights={weights}"):
        read_portable(tmp_path / "x.safetensors")
    code, told = convert(tmp_path, "from=x.safetensors")
    assert (code, "x.safetensors" in told) == (2, True)


def test_other_commands_tell_what_a_file_of_tensors_is(tmp_path):
    write_portable({"x": torch.zeros(1)}, "raw", {}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"ckpt=.*x\.safetensors: .*convert\.py from=.*x\.safetensors"):
        located(tmp_path / "x.safetensors", "ckpt")


def test_raw_weights_stay_raw_in_one_file(own, tmp_path):
    assert convert(tmp_path, f"ckpt={own}", "to=safetensors", "out=out", "weights=raw")[0] == 0
    opened = ddpm_lab.load(tmp_path / "out" / "model.safetensors")
    assert opened.weights == "raw"
    assert equal(opened.net.state_dict(), ddpm_lab.load(own, "raw").net.state_dict())
    assert not equal(opened.net.state_dict(), weights(own))


@pytest.mark.parametrize("damage", ["cut", "a bit of a weight", "a digit of the configuration", "another file"])
def test_a_damaged_file_is_refused(damage, own, tmp_path):
    assert convert(tmp_path, f"ckpt={own}", "to=safetensors", "out=out")[0] == 0
    file = tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        del content[-8:]
    elif damage == "a bit of a weight":
        content[-2] ^= 1
    elif damage == "another file":
        content = bytearray(save({"conv_in.weight": torch.zeros(2)}))
    else:
        at = content.index(b'T\\": 100') + len(b'T\\": ')
        content[at : at + 3] = b"200"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        ddpm_lab.load(file)
    code, _ = convert(tmp_path, f"from={file}", "name=x")
    assert code == 2
    assert not (tmp_path / "outputs").exists()


def test_nothing_is_overwritten_and_a_full_disk_leaves_nothing(own, tmp_path):
    (tmp_path / "out").mkdir()
    code, told = convert(tmp_path, f"ckpt={own}", "to=safetensors", "out=out")
    assert (code, [*(tmp_path / "out").iterdir()]) == (2, [])
    assert "out=out" in told

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with patch("ddpm_lab.config.exported.write_text", full):  # the last file, after the weights
        code, told = convert(tmp_path, f"ckpt={own}", "to=safetensors", "out=deep/other")
    assert code == 2
    assert "No space" in told
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("way", ["out", "in"])
def test_a_signal_while_the_folder_is_written_leaves_nothing(way, own, tmp_path, monkeypatch):
    words = [f"ckpt={own}", "to=safetensors", "out=out"]
    if way == "in":
        assert convert(tmp_path, *words)[0] == 0
        words = ["from=out/model.safetensors", "name=x"]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("ddpm_lab.signals._at_work", False)
    monkeypatch.setattr("ddpm_lab.signals.os._exit", lambda code: sys.exit(1))  # leaves all as it is
    last = "ddpm_lab.config.exported.write_text" if way == "out" else "ddpm_lab.cli.fit.write_config"
    monkeypatch.setattr(last, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert convert(tmp_path, *words)[0] == 143
    assert sorted(tmp_path.rglob("*")) == before


def test_the_card_has_numbers_with_their_records_and_where_it_comes_from(tmp_path):
    run = made(tmp_path / "run", *NET)
    fields = {"seed": 3, "weights": "ema/0.9", "sampler": "ancestral"}
    metrics = {"frechet": {"value": 0.25} | record(n=16, split="samples", **fields) | {"extractor": "pixels"}}
    metrics |= {"vlb_bpd": {"value": 3.5, "standard_error": 0.125} | record(n=360, split="val")}
    write_json(run / "summary.json", {"metrics": metrics})
    write_bytes(run / "samples" / "step_7.png", b"a picture")
    out = exported(run, "diffusers")
    card = (out / "README.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    table = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert {name: table["frechet"][name] for name in fields} == {name: str(value) for name, value in fields.items()}
    assert (table["frechet"]["value"], table["frechet"]["n"]) == ("0.2500", "16")
    assert (table["vlb_bpd"]["value"], table["vlb_bpd"]["n"]) == ("3.5000 ± 0.1250", "360")
    assert table["frechet"]["extractor"] == "pixels"
    assert sha256(run / "checkpoints" / "last.ckpt") in card
    assert training_command(ddpm_lab.load(run).config) in card
    assert (out / "samples.png").read_bytes() == b"a picture"


def test_the_command_of_a_card_makes_the_configuration():
    words = [*NET, *OTHERS, "seed=3"]
    cfg = composed(*words)
    cfg.run.experiment = words[0].removeprefix("experiment=")
    drop_unused(cfg)
    command = training_command(plain(cfg))
    assert command is not None
    assert shlex.split(command)[2] == words[0]
    again = composed(*shlex.split(command)[2:])
    again.run.experiment = cfg.run.experiment
    drop_unused(again)
    assert plain(again) == plain(cfg)
