"""From the configurations of sample.py to files of samples."""

import errno
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ddpm_lab import ranks
from ddpm_lab.config.build_evaluation import (
    OF_SUBJECT,
    at_hand,
    choice_of,
    gamma_size,
    head_checkpoint,
    network_of,
    prepare,
    subject_of,
    with_parts,
)
from ddpm_lab.config.nested import Config, plain
from ddpm_lab.domains import Incompatible
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.measure import device_of, join, leave
from ddpm_lab.evaluation.sample_files import Wanted, write_samples
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.evaluation.trajectory import Shown
from ddpm_lab.files import new_folder, read_yaml, sha256, unwritable, write_text
from ddpm_lab.models.contract import Model
from ddpm_lab.models.measurement import Likelihood

CONFIG = "config.yaml"
PLACES = ("ckpt", "out", "device", "batch", "folder", "checkpoint")
"""Keys that say where, and on which no sample depends."""


def sample_all(configs: Sequence[DictConfig]) -> None:
    """Draws what every configuration asks for. Raises UserError before any sample is drawn."""
    prepare()
    join(device_of(configs[0].device))
    try:
        check_apart(configs)
        loaded = lru_cache(maxsize=1)(subject_of)  # one model in memory, as a sweep may ask for many
        for cfg in configs:
            checked(plain(cfg), loaded)
        for cfg in configs:
            _sample(cfg, loaded)
    finally:
        leave()


def check_apart(configs: Sequence[DictConfig]) -> None:
    """Raises UserError where several would be written to one folder."""
    outs = [cfg.out for cfg in configs if cfg.out is not None]
    if len(set(outs)) < len(outs):
        raise UserError(f"out={outs[0]}: several choices would be written there; leave it out, and each has its own folder")


def checked(cfg: Config, loaded: Callable[..., Subject]) -> tuple[Subject, Wanted]:
    """Raises UserError for what cannot be drawn, shown or written."""
    subject = loaded(*(cfg[key] for key in OF_SUBJECT))
    shown = Shown(cfg["show"], cfg["rows"], cfg["frames"], cfg["film"]) if cfg["show"] else None
    wanted = Wanted(cfg["n"], cfg["files"], cfg["grid"], shown)
    model = model_of(cfg, subject)
    if shown is not None:
        shown.check(model)
    choice = Choice(model)
    wanted.kinds(choice)
    check_free(cfg, subject)
    wanted.check_disk(choice, Path(cfg["out"] or cfg["folder"]).expanduser())
    return subject, wanted


def model_of(cfg: Config, subject: Subject) -> Model:
    """Under the chosen parts. Raises UserError for those that do not go together, or ask for more data than there are."""
    if (n := gamma_size(cfg)) is not None and n > (size := subject.size("train")):
        raise UserError(f"gamma.n={n}: there are {size} training data")
    try:
        return with_parts(cfg, network_of(cfg, subject), **at_hand(cfg, subject))
    except ValueError as error:
        groups = error.arguments if isinstance(error, Incompatible) else ()
        chosen = [f"{group}={cfg['names'][group]}" for group in groups if group in cfg["names"]]
        raise UserError(": ".join([*filter(None, [" ".join(chosen)]), str(error)])) from error


def asked(cfg: Config, subject: Subject | None) -> dict[str, Any]:
    """What a folder's files depend on, as its config.yaml has it."""
    network = {} if subject is None else {"checkpoint_sha256": subject.of_network["checkpoint_sha256"]}
    if subject is not None and (head := head_checkpoint(cfg)) is not None:
        network["head_sha256"] = sha256(head)
    return {**cfg, **network}


def check_free(cfg: Config, subject: Subject | None) -> None:
    """Raises UserError for a folder that cannot be written, or has files that are not of this very command and network:
    nothing is overwritten."""
    if cfg["out"] is None:
        return
    folder = Path(cfg["out"]).expanduser()
    with unwritable(folder, "out"):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"out={cfg['out']}: a file; allowed is a folder, or one that is not there yet")
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not os.access(there, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        others = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
    if not others:
        return
    try:
        earlier = read_yaml(folder / CONFIG)
    except Exception:  # there is none, or no yaml
        earlier = None
    ours = {key: value for key, value in asked(cfg, subject).items() if key not in PLACES}
    if not isinstance(earlier, dict) or {key: value for key, value in earlier.items() if key not in PLACES} != ours:
        raise UserError(f"out={cfg['out']}: the folder holds other files, and nothing is overwritten: choose another")


def _sample(config: DictConfig, loaded: Callable[..., Subject]) -> None:
    cfg = plain(config)
    subject, wanted = checked(cfg, loaded)
    with ranks.by_first():
        folder = _folder(cfg) if ranks.rank() == 0 else None
    folder = ranks.agreed(folder)
    with ranks.held(folder, "out", ranks.rank() == 0):
        with ranks.by_first(), unwritable(folder, "out"):
            if ranks.rank() == 0:
                write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(asked(cfg, subject))))
        choice = choice_of(cfg, Likelihood(chain="sampler"), subject)
        written = write_samples(subject, choice, wanted, folder)
    if ranks.rank() == 0:
        line = f"{wanted.n} samples, {choice.steps} steps"
        print(f"{folder}\n  {subject.line}\n  {line}, {', '.join(f'{k} {v}' for k, v in choice.names_of_samples.items())}")
        print("".join(f"  {path.name}\n" for path in written), end="")


def _folder(cfg: Config) -> Path:
    return new_folder(Path(cfg["folder"]) / "drawn", "ckpt") if cfg["out"] is None else Path(cfg["out"]).expanduser()
