"""Runs with random weights, and convert.py in this process."""

from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import torch
from helpers import composed
from torch import Tensor, nn

import ddpm_lab
from ddpm_lab.cli.convert import main
from ddpm_lab.cli.fit import write_config
from ddpm_lab.config.build import build_model
from ddpm_lab.config.nested import plain
from ddpm_lab.config.unused import drop_unused
from ddpm_lab.models.checkpoint import write_archive

NET = ["experiment=smoke", "schedule.T=100", "net.channels=16", "net.groups=4", "net.multipliers=[1,2]", "net.blocks=1"]
OTHERS = ["prediction=v", "variance=learned_range", "loss=hybrid", "schedule=zero_terminal_snr", "schedule.T=40"]
OTHERS += ["sampler.clip=0.9", "net.scale_shift=true", "net.head_width=8", "net.attention=[8,4]", "net.dropout=0.25"]
OTHERS += ["net.time_order=cos_sin", "net.time_shift=0", "net.time_width=24", "net.norm_eps=0.001", "net.down_padding=around"]


def randomise(net: nn.Module, seed: int) -> nn.Module:
    """Every parameter nonzero, the features of order one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in net.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_((p[0].numel() ** -0.5 if p.ndim > 1 else 0.3) * noise + (p.ndim == 1 and name.endswith("weight")))
    return net


def made(folder: Path, *overrides: str, shape: tuple[int, ...] = (1, 8, 8)) -> Path:
    """A run folder with random weights, raw and averaged."""
    cfg = composed(*overrides)
    drop_unused(cfg)
    model = build_model(cfg, shape, 17)
    average = {name: value.clone() for name, value in randomise(model.net, 1).state_dict().items()}
    randomise(model.net, 2)
    content = {"config": plain(cfg), "shape": [*shape], "levels": 17, "global_step": 7, "state_dict": model.state_dict()}
    write_archive(content | {"ema/0.9": average}, folder / "checkpoints" / "last.ckpt")
    write_config(folder, cfg)
    return folder


def convert(folder: Path, *words: str) -> tuple[int, str]:
    """`python convert.py WORDS` in a folder: its exit code, and what it printed."""
    told, code = StringIO(), 0
    with chdir(folder), redirect_stdout(told), redirect_stderr(told), patch("sys.argv", ["convert.py", *words]):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, told.getvalue()


def exported(run: Path, to: str, *words: str) -> Path:
    out = run.parent / f"{run.name}_{to}"
    code, told = convert(run.parent, f"ckpt={run}", f"to={to}", f"out={out}", *words)
    assert code == 0, told
    return out


def imported(source: Path, *words: str) -> Path:
    folder = source.parent / "again"
    folder.mkdir()
    code, told = convert(folder, f"from={source}", "name=x", *words)
    assert code == 0, told
    return folder / "outputs" / "imported" / "x"


def weights(run: Path) -> dict[str, Tensor]:
    return ddpm_lab.load(run).net.state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
