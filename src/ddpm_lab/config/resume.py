"""`resume=RUN_OR_CHECKPOINT`: which checkpoint, which configuration, which folder. Needs no torch for a run folder."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ddpm_lab.config.nested import plain
from ddpm_lab.config.options import content
from ddpm_lab.errors import UserError
from ddpm_lab.files import check_links, is_whole, read_yaml
from ddpm_lab.plain import check_plain
from ddpm_lab.sweeps.state import finished
from ddpm_lab.training.decay import OVER_RUN

FREE = ("callbacks", "guidance", "logger", "metrics", "run", "sampler", "trainer")
"""What may change on resume: none of it touches the weights that come out, but for rounding and how many steps are taken."""
HELD = ("trainer.accumulate", "trainer.precision", "trainer.tf32")
"""What of it may not, since numbers would be held or multiplied with fewer digits. `trainer.compile` may, as the device may: it
changes the order of sums, and needs a compiler that another machine may lack. What is not typed stays, and the run is exact."""
LENGTH = ("max_steps", "validate_every", "log_every")
"""Of the trainer, what stays the run's own unless it is typed: another place to run is no other run."""


class Resumed(NamedTuple):
    config: DictConfig
    checkpoint: Path
    folder: Path | None
    """Where the run goes on: its own folder from its last checkpoint, else (None) a new one."""


def resumed(cfg: DictConfig, overrides: list[str], dirs: Sequence[Path]) -> Resumed:
    """`cfg` is what the command line composed to; only what `overrides` mention of it counts, the rest is the run's own.
    Options are in `dirs`."""
    from ddpm_lab.config.build import check_parts
    from ddpm_lab.config.combinations import check_combination, check_optimiser
    from ddpm_lab.config.signature import inspected
    from ddpm_lab.config.values import Run

    given = Path(cfg.resume).expanduser()
    checkpoint, folder = located(newest(given), "resume")
    stored = configuration(checkpoint, folder)
    if stored.get("imported") is not None:
        raise UserError(f"resume={cfg.resume}: was imported: there are weights, and no state of an optimiser to go on from")
    typed = {key: value for key, _, value in (override.lstrip("+").partition("=") for override in overrides)}
    steps = stored.trainer.max_steps
    choose(stored, typed, dirs, FREE)
    if "experiment" in typed:
        raise UserError(f"resume={cfg.resume} goes on with the experiment of that run: leave experiment= out.")
    if refused := apply(cfg, stored, [key for key in typed if key not in (*FREE, "resume")], FREE, HELD):
        listed = "; ".join(f"{key}={new} but the checkpoint has {old}" for key, new, old in refused)
        raise UserError(
            f"resume={cfg.resume}: {listed}. Leave that out to go on with the run as it was, or leave resume out to start "
            f"anew. May change on resume: {', '.join(FREE)}."
        )
    _check_length(stored, steps)
    check_parts(stored)
    inspected("run", Run, plain(stored)["run"])
    check_combination(stored, dirs)
    check_optimiser(stored, dirs)
    stored.resume = str(checkpoint)
    in_place = folder is not None and (given.is_dir() or checkpoint.name == "last.ckpt") and cfg.run.name is None
    if folder is None or not in_place:
        stored.run.update({key: cfg.run[key] for key in ("root", "name")})  # where is written, the user says, and no stranger
        return Resumed(stored, checkpoint, None)
    if finished(folder, steps := stored.trainer.max_steps):
        longer = f"; a larger trainer.max_steps, e.g. trainer.max_steps={2 * steps}, goes on."
        if decay := _over_run(stored):
            longer = f", where optim.decay={decay} ends: train a longer run anew"
        raise UserError(f"resume={folder}: that run is complete at step {steps}{longer}")
    return Resumed(stored, checkpoint, folder)


def _over_run(stored: DictConfig) -> str | None:
    """The decay of the learning rate, if it is over the whole run."""
    decay = OmegaConf.select(stored, "optim.decay")
    return decay if decay in OVER_RUN else None


def _check_length(stored: DictConfig, steps: int) -> None:
    """Refuse another length for a run whose learning rate falls over all of it: steps that were taken would have had another
    rate, so that no run from the start has these weights."""
    if stored.trainer.max_steps != steps and (decay := _over_run(stored)):
        raise UserError(
            f"trainer.max_steps={stored.trainer.max_steps}: the checkpoint has {steps}, over which optim.decay={decay} lets "
            "the learning rate fall: leave it out, or leave resume out to start anew"
        )


def configuration(checkpoint: Path, folder: Path | None) -> DictConfig:
    """What a run was trained with, by its folder, or else by its checkpoint where config.yaml is damaged. Raises UserError for
    what is not that of a run."""
    if folder is not None:
        path = folder / "config.yaml"
        try:
            check_plain(read_yaml(path))
            if isinstance(config := OmegaConf.load(path), DictConfig) and {"data", "seed", "trainer"} <= config.keys():
                return config
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):  # as a full disk leaves it
            pass
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
    from ddpm_lab.models.checkpoint import read_checkpoint

    return cast(DictConfig, OmegaConf.create(read_checkpoint(checkpoint)["config"]))


def located(path: Path, key: str) -> tuple[Path, Path | None]:
    """The checkpoint that a run folder or a checkpoint's path stands for, and its run folder where there is one. Raises
    UserError that begins with the key by which it was given."""
    if not path.exists():
        raise UserError(f"{key}={path}: no such file or folder; allowed is a run folder or a checkpoint in it.{_near(path)}")
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.exists():
        raise UserError(f"{key}={path}: not a run folder (it has no checkpoints/last.ckpt).{_near(path / 'any')}")
    if checkpoint.suffix == ".safetensors":
        raise UserError(f"{key}={path}: a file of tensors; python convert.py from={path} makes a run folder of it: give that")
    if not is_whole(checkpoint):
        others = f" Readable: {', '.join(map(str, readable[-5:]))}." if (readable := _readable(checkpoint)) else ""
        raise UserError(f"{key}={path}: {checkpoint} is not a readable checkpoint (damaged, cut short, or not one).{others}")
    folder = checkpoint.parent.parent
    if not (folder / "config.yaml").exists():
        return checkpoint, None
    check_links(folder, key)
    return checkpoint, folder


def _readable(checkpoint: Path) -> list[Path]:
    """The readable checkpoints beside it, the newest last."""
    return sorted(filter(is_whole, checkpoint.parent.glob("[!.]*.ckpt")), key=lambda path: path.stat().st_mtime)


def newest(run: Path) -> Path:
    """Of a run folder whose last checkpoint is damaged the newest readable one, which is told; else what was given."""
    last = run / "checkpoints" / "last.ckpt"
    if not last.exists() or is_whole(last) or not (readable := _readable(last)):
        return run
    print(f"{last} is damaged: going on from {readable[-1]}", file=sys.stderr)
    return readable[-1]


def _near(path: Path) -> str:
    runs = sorted(checkpoint.parent.parent for checkpoint in path.parent.glob("*/checkpoints/last.ckpt"))
    return f" Runs there: {', '.join(map(str, runs[-5:]))}." if runs else ""


def choose(stored: DictConfig, typed: Mapping[str, str], dirs: Sequence[Path], free: Sequence[str]) -> None:
    """Put the options of free groups in place, as their files have them: the experiment of the command line is another's."""
    for group in (group for group in free if group in typed):
        new = content(group, typed[group], dirs)
        if group == "trainer":
            new |= {key: stored.trainer[key] for key in (*LENGTH, *(key.partition(".")[2] for key in HELD))}
        OmegaConf.update(stored, group, new, merge=False)


Refused = list[tuple[str, object, object]]
"""A key, what was typed, and what the stored configuration has."""


def apply(cfg: DictConfig, stored: DictConfig, keys: Sequence[str], free: Sequence[str], held: Sequence[str] = ()) -> Refused:
    """Put the values of typed keys of free groups in place, but for those that are held. The others may not differ."""
    refused: Refused = []
    for key in keys:
        new, old = OmegaConf.select(cfg, key), OmegaConf.select(stored, key)
        if key.split(".")[0] in free and key not in held:
            OmegaConf.update(stored, key, new, merge=False, force_add=True)
        elif isinstance(new, DictConfig) and isinstance(old, DictConfig):
            pairs = [(f"{key}.{name}", new.get(name), old.get(name)) for name in dict.fromkeys([*new, *old])]
            refused += [pair for pair in pairs if pair[1] != pair[2]]
        elif new != old:
            refused.append((key, new, old))
    return refused
