"""The format of a checkpoint: tensors and plain containers, written so that a kill or a full disk leaves the last one whole."""

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor, nn

from ddpm_lab.domains import Named, NonNegativeInt, PositiveInt, Size, accepts, allowed
from ddpm_lab.errors import UserError
from ddpm_lab.files import is_archive, replacing, seal
from ddpm_lab.models.portable import read_portable, state_sha256
from ddpm_lab.plain import brief, check_plain


def _of_tensors(value: object) -> bool:
    """Whether it maps names to tensors."""
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _of_snapshots(value: object) -> bool:
    """Whether it maps at most 1,000 steps to hashes of files."""
    return (
        isinstance(value, dict)
        and len(value) <= MOST_SNAPSHOTS
        and all(accepts(PositiveInt, step) and re.fullmatch("[0-9a-f]{64}", str(digest)) for step, digest in value.items())
    )


MOST_SNAPSHOTS = 1000
"""Of a run: each is a column of a system of equations."""
Values: Any = Annotated[dict, Named(lambda _: True, words="mapping")]
Levels: Any = Annotated[int, Ge(2), Le(256)]
State: Any = Annotated[object, Named(_of_tensors, words="mapping of names to tensors")]
FORMAT: dict[str, Any] = {
    "config": Values,
    "config.seed": NonNegativeInt,
    "config.data": Values,
    "config.trainer": Values,
    "config.callbacks": Values | None,
    "shape": Annotated[list[Size], MinLen(1)],
    "levels": Levels | None,
    "global_step": NonNegativeInt,
    "state_dict": State,
}
"""What every checkpoint holds, but for averages, "ema/<decay>", which are `State` too."""
OF_CLASSES: dict[str, Any] = {"class_counts": Annotated[list[PositiveInt], MinLen(1)]}
"""What that of a conditional model holds besides: the training data of each class."""
OF_POWERS: dict[str, Any] = {
    "snapshots": Annotated[object, Named(_of_snapshots, words="mapping of steps to sha256")],
    "snapshots_dtype": Literal["float32", "float16"],
}
"""What one with averages by powers of the step holds besides (`models.snapshots`)."""
OF_SOLVED: dict[str, Any] = {"solved_from": PositiveInt}
"""What one holds whose average was solved: from how many others."""
TRAINING: dict[str, Any] = {
    "callbacks": Values,
    "loops": Values,
    "lr_schedulers": list,
    "optimizer_states": list,
}
"""What of a checkpoint only training needs, besides `RESUMED`."""
Version: Any = Annotated[str, Named(lambda text: re.fullmatch(r"\d+(\.\w+)+(\+\S+)?", text) is not None, words="version")]
RESUMED = TRAINING | {
    "processes": Annotated[int, Ge(1), Le(2**20)],
    "timesteps": Values,
    "epoch": NonNegativeInt,
    "pytorch-lightning_version": Version,
}


def write_archive(content: dict[str, Any], path: Path) -> None:
    """Tensors and plain containers with their sha256. Writes beside the target, syncs, and renames: another folder might be
    another file system, where a move is a copy. Raises UserError where there is no room."""
    try:
        with replacing(path) as partial, partial.open("w+b") as file:
            torch.save(content, file)
            seal(file)
    except (OSError, RuntimeError) as error:  # torch hides a full disk in a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(f"{path}: could not be written ({cause.strerror}); what was saved before is intact.") from error


def read_archive(path: Path) -> Any:
    """What `write_archive` wrote, on the CPU; runs no code from it. Raises ValueError where a bit of it has changed or it is no
    archive, and whatever torch raises."""
    with path.open("rb") as file:
        if not is_archive(file):
            raise ValueError("not what was written")
        return torch.load(file, map_location="cpu", weights_only=True)


def weights_sha256(net: nn.Module) -> str:
    """Of a network's weights by name, wherever and in whatever order of memory they are."""
    return state_sha256(net.state_dict())


def save_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """An archive, on the disk when this returns."""
    write_archive(checkpoint, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, checked; a file .safetensors is read as `read_portable` does. Raises UserError naming the file,
    and readable ones by it."""
    try:
        checkpoint = (read_portable if path.suffix == ".safetensors" else read_archive)(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint.{_others(path)}") from error
    except Exception as error:  # torch raises a dozen kinds, none of which tells a user more than this
        raise UserError(f"{path}: not a readable checkpoint (damaged, cut short, or another file).{_others(path)}") from error
    if not isinstance(checkpoint, dict) or not {"config", "state_dict", "global_step"} <= checkpoint.keys():
        raise UserError(f"{path}: a checkpoint, but not one of ddpm-lab's (config and state_dict are missing).{_others(path)}")
    try:
        _check(checkpoint)
    except ValueError as error:
        raise UserError(f"{path}: a damaged checkpoint: {error}") from error
    return checkpoint


def _check(checkpoint: dict[str, Any]) -> None:
    """Raises ValueError for a field that is not what it should be."""
    averages = {key: State for key in checkpoint if str(key).startswith("ema/")}
    resumed = RESUMED if "optimizer_states" in checkpoint else {}
    of_some = {key: domain for key, domain in (OF_CLASSES | OF_POWERS | OF_SOLVED).items() if key in checkpoint}
    for key, domain in (FORMAT | of_some | averages | resumed).items():
        held = checkpoint if key in averages or "." not in key else checkpoint["config"]
        value = held.get(key if held is checkpoint else key.removeprefix("config."))
        if (held is checkpoint and key not in held) or not accepts(domain, value):
            raise ValueError(f"{key}={brief(value)}: allowed is {allowed(domain)}")
    check_plain(checkpoint["config"], "config")


def write_weights(source: Path, target: Path) -> None:
    """The checkpoint without what only training needs: weights, averages and all that says what they are."""
    checkpoint = read_checkpoint(source)
    write_archive({key: value for key, value in checkpoint.items() if key not in TRAINING}, target)


def _others(path: Path) -> str:
    """The newest readable checkpoints beside it."""
    beside = [other for other in path.parent.glob("[!.]*.ckpt") if other != path and zipfile.is_zipfile(other)]
    newest = sorted(beside, key=lambda other: other.stat().st_mtime)[-5:]
    return f" Beside it: {', '.join(map(str, newest))}." if newest else ""
