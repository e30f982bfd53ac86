"""The format of a checkpoint: tensors and plain containers, written so that a kill or a full disk leaves the last one whole."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from ddpm_lab.errors import UserError
from ddpm_lab.files import replacing


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes beside the target, syncs, and renames: another folder might be another file system, where a move is a copy. Raises
    UserError where there is no room."""
    try:
        with replacing(path) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # torch hides a full disk in a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"{path}: could not be written ({cause.strerror}); what was saved before is intact.") from error
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, on the CPU; runs no code from it. Raises UserError naming the file, and readable ones by it."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint.{_others(path)}") from error
    except Exception as error:  # torch raises a dozen kinds, none of which tells a user more than this
        raise UserError(f"{path}: not a readable checkpoint (cut short, or not one of ours).{_others(path)}") from error
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "global_step"} <= checkpoint.keys():
        raise UserError(f"{path}: a checkpoint, but not one of ddpm-lab's (config and state_dict are missing).{_others(path)}")
    return checkpoint


TRAINING = ("callbacks", "loops", "lr_schedulers", "optimizer_states")
"""What of a checkpoint only training needs."""


def write_weights(source: Path, target: Path) -> None:
    """The checkpoint without what only training needs: weights, averages and all that says what they are."""
    checkpoint = read_checkpoint(source)
    torch.save({key: value for key, value in checkpoint.items() if key not in TRAINING}, target)


def _others(path: Path) -> str:
    others = sorted(str(other) for other in path.parent.glob("[!.]*.ckpt") if other != path and zipfile.is_zipfile(other))
    return f" Beside it: {', '.join(others)}." if others else ""
