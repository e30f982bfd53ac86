"""Tiny networks as other code stores them, and `python convert.py` in this process."""

import io
import json
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor

from ddpm_lab.cli.convert import main
from ddpm_lab.interop.layout import write_weights
from ddpm_lab.interop.recognise import LAYOUTS
from ddpm_lab.nets.unet import UNet

CONFIG: dict[str, Any] = {
    "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4, "downsample_padding": 0, "flip_sin_to_cos": False,
    "freq_shift": 1, "norm_eps": 1e-6,
}  # fmt: skip
"""Of a UNet of two levels, for digits."""
SCHEDULER: dict[str, Any] = {"num_train_timesteps": 20, "variance_type": "fixed_large", "timestep_spacing": "trailing"}
DIGITS = ("size=8", "data=digits")


def network(groups: int = 4, head_width: int | None = 4) -> UNet:
    """Weights by seed, none of them zero."""
    of_net = {"channels": 8, "multipliers": (1, 1), "blocks": 1, "attention": (4,), "groups": groups, "head_width": head_width}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet(1, 1, 8, **of_net, time_offset=-1.0)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.05)
    return net


def weights(layout: str = "diffusers", net: UNet | None = None) -> dict[str, Tensor]:
    return write_weights(LAYOUTS[layout], net or network())


def folder_of(place: Path, config: dict[str, Any] = CONFIG, state: dict[str, Tensor] | None = None) -> Path:
    """As diffusers saves a flat pipeline."""
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(config))
    (place / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    save_file(weights() if state is None else state, place / "diffusion_pytorch_model.safetensors")
    return place


class Converted(NamedTuple):
    code: int
    printed: str
    told: str


def convert(*words: str, cwd: Path) -> Converted:
    """Any exception but the command's own exit is raised."""
    printed, told, code = io.StringIO(), io.StringIO(), 0
    with chdir(cwd), redirect_stdout(printed), redirect_stderr(told), patch.object(sys, "argv", ["convert.py", *words]):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Converted(code, printed.getvalue(), told.getvalue())


def refused(*words: str, cwd: Path) -> str:
    """What is said in one line, with nothing written."""
    done = convert(*words, cwd=cwd)
    assert (done.code, done.told.count("\n"), done.printed) == (2, 1, ""), done
    assert not (cwd / "outputs").exists()
    return done.told
