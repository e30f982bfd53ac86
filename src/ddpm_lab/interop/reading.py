"""Tensors and JSON out of other people's files: no code from them is run, and a small file does not fill the memory."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.plain import brief

MOST_JSON = 2**24
"""Bytes: a hundred times what an index of weights has."""
POINTER = b"version https://git-lfs"
UNREADABLE = "not a readable checkpoint (damaged, cut short, or another file)"


def settings(path: Path) -> dict[str, Any]:
    """Raises UserError for what is no JSON object, or a larger one than any of settings."""
    try:
        if (size := path.stat().st_size) > MOST_JSON:
            raise UserError(f"{path}: {size:,} bytes of JSON; allowed are {MOST_JSON:,}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: {brief(content)}: allowed is a JSON object")
    return content


def read_tensors(path: Path) -> Any:
    """The content of a file of tensors, on the CPU. Raises UserError."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(f"{path}: a pointer of Git LFS in place of the file: type git lfs pull there, or download it")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not readable as safetensors (damaged, cut short, or another file)") from error
    try:
        if zipfile.is_zipfile(path):  # torch writes archives without compression
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise UserError(f"{path}: a compressed archive, which torch.save writes none of; allowed is a checkpoint")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):  # the name of what would be called
            raise UserError(f"{path}: {UNREADABLE}") from error
        raise UserError(
            f"{path}: holds more than tensors and plain containers, and to read it would run code from it; where you trust "
            "it, save the network's state dict alone by torch.save, and give that"
        ) from error
    except Exception as error:  # torch raises a dozen kinds
        raise UserError(f"{path}: {UNREADABLE}") from error


def check_tensor(key: str, value: object, path: Path) -> None:
    """Raises UserError for what is no tensor with all of its values in the file: one number can stand for any number of
    values, and would need as much memory as they do."""
    if not isinstance(value, Tensor):
        raise UserError(f"{path}: {key} is no tensor; allowed is a state dict, which maps names to tensors")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise UserError(f"{path}: {key} is a tensor that is sparse, quantised or without values; allowed is a dense one")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise UserError(f"{path}: {key} is {tuple(value.shape)} and has fewer values in the file")


def parts_of(index: Path) -> list[Path]:
    """The files that an index of weights names. Raises UserError for one that is missing or lies elsewhere than the index: in
    its folder, or where links of both lead to, as in the cache of the Hugging Face hub."""
    weight_map = settings(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise UserError(f"{index}: an index of weights without its weight_map")
    return [_beside(index, name) for name in dict.fromkeys(weight_map.values())]


def _beside(index: Path, name: str) -> Path:
    part = index.parent / name
    if Path(name).name != name or "\0" in name:
        raise UserError(f"{index}: names {brief(name)}; allowed are files beside it")
    if not part.is_file():
        raise UserError(f"{index}: names {brief(name)}, which is not there")
    if part.resolve().parent not in (index.parent.resolve(), index.resolve().parent):
        raise UserError(f"{index}: names {brief(name)}, a link to {part.resolve()}; allowed are files beside it")
    return part
