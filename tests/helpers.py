"""Shared by tests: compose and train in this process, or run the command as a user does."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import forked
import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ddpm_lab.cli.fit import train
from ddpm_lab.cli.train import main
from ddpm_lab.config.combinations import resolve_auto
from ddpm_lab.config.fit import fitted
from ddpm_lab.config.options import conf_dir
from ddpm_lab.config.preflight import VERSION
from ddpm_lab.models.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[1]
CONF = conf_dir()

TINY_WITH_WHOLE_NET = [
    "experiment=smoke",
    "trainer.max_steps=2",
    "trainer.validate_every=2",
    "trainer.log_every=1",
    "data.batch_size=16",
    "schedule.T=10",
    "callbacks.frechet_curve.n=8",
    "callbacks.frechet.n=8",
    "callbacks.vlb_terms.final_stride=5",
]
"""Two steps and one validation that fires every callback, of a network with attention and two resolutions."""
SMALL_NET = ["net.multipliers=[1]", "net.attention=[]"]
"""One resolution and no attention: a tiny run takes a quarter less time."""
TINY = [*TINY_WITH_WHOLE_NET, *SMALL_NET]
UNMEASURED = [f"callbacks.{name}=null" for name in ("samples", "frechet", "frechet_curve", "vlb_terms")]
"""The same without any of them but checkpoints."""
FEW_HELD_OUT = ["data.val_fraction=0.05"]
"""For runs whose numbers are compared with each other alone: 90 digits instead of 360."""


def composed(*overrides: str, config_dir: Path | None = None) -> DictConfig:
    """The configuration of `python train.py OVERRIDES`, variance=auto resolved; `config_dir` is that of --config-dir."""
    search = [] if config_dir is None else [f"hydra.searchpath=['file://{config_dir}']"]
    with initialize_config_dir(str(CONF), **VERSION):
        cfg = compose("config", overrides=[*overrides, *search])
    OmegaConf.set_struct(cfg, False)
    resolve_auto(cfg)
    return cfg


def one_pixel(*arguments: Any) -> Path:
    """In place of a function that plots, whose last argument is the path: plots would take a third of a tiny run's time."""
    Image.new("L", (1, 1)).save(arguments[-1])
    return arguments[-1]


@contextmanager
def no_plots() -> Iterator[None]:
    """The two that a run draws, of its bound and of how samples come about, are one pixel."""
    callbacks = "ddpm_lab.training.callbacks"
    with patch(f"{callbacks}.bound.plot", one_pixel), patch(f"{callbacks}.samples.save_progression", one_pixel):
        yield


def trained(folder: Path, *overrides: str, config_dir: Path | None = None) -> Path:
    """Train in this process; returns the run folder. Plots are one pixel."""
    with no_plots():
        assert train(fitted(composed(*overrides, config_dir=config_dir)), folder, None, None, time.time()) == 0
    return folder


def arrays(path: Path) -> dict[str, np.ndarray]:
    """All of an .npz, the file closed again."""
    with np.load(path) as file:
        return dict(file)


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python train.py ARGUMENTS`, as a user types it, in another folder: a process of its own, but see `forked`."""
    return forked.run(ROOT / "train.py", *arguments, cwd=cwd, env=environment())


def command_anew(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in a process that imports everything."""
    words = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment())


def command_here(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has imported everything; plots are one pixel. Any exception but the command's own exit is
    raised."""
    printed, told, code = io.StringIO(), io.StringIO(), 0
    typed = patch.object(sys, "argv", ["train.py", *arguments])
    with chdir(cwd), redirect_stdout(printed), redirect_stderr(told), typed, no_plots():
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, code, printed.getvalue(), told.getvalue())


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def digest(folder: Path) -> str:
    """Of the weights, their average and every measured number of a run."""
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    average = next(value for key, value in checkpoint.items() if key.startswith("ema/"))
    content = hashlib.sha256()
    for state in (checkpoint["state_dict"], average):
        for name, value in sorted(state.items()):
            content.update(name.encode() + value.numpy().tobytes())
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    content.update(json.dumps({key: metric["value"] for key, metric in metrics.items()}).encode())
    return content.hexdigest()
