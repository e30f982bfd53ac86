"""Tensors and JSON out of other people's files: no code from them is run, and a small file does not fill the memory."""

import json
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.plain import brief

MOST_JSON = 2**24
"""Bytes: a hundred times what an index of weights has."""
POINTER = b"version https://git-lfs"
UNREADABLE = "not a readable checkpoint (damaged, cut short, or another file)"

BUILT = re.compile(
    r"collections (OrderedDict|Counter)|(builtins|__builtin__) set|torch (Size|[a-z]\w*)|torch(\.cuda)? \w+Storage|"
    r"torch\._utils _rebuild_(tensor|tensor_v2|parameter|meta_tensor_no_storage)|torch\.nn\.parameter Parameter"
)
"""What a pickle may build. torch allows more, of which some, as bytearray and _codecs.encode, fill the memory by one number."""
ZIP = b"PK\x03\x04"
OLD = 5
"""Pickles at the start of a file of torch.save before archives: a number, a version, the system, the content, names."""


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
        with path.open("rb") as file:
            _check_pickles(file, path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):  # the name of what would be called
            raise _more(path, str(error).partition("GLOBAL ")[2].partition(" ")[0]) from error
        raise UserError(f"{path}: {UNREADABLE}") from error
    except Exception as error:  # torch raises a dozen kinds
        raise UserError(f"{path}: {UNREADABLE}") from error


def _check_pickles(file: BinaryIO, path: Path) -> None:
    """Raises UserError for a compressed archive, or what builds more than tensors and plain containers; ValueError for what
    torch.save does not write."""
    if file.read(len(ZIP)) == ZIP:  # as torch tells them apart
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):  # torch compresses none
                raise UserError(f"{path}: a compressed archive, which torch.save writes none of; allowed is a checkpoint")
            built = [name for e in archive.infolist() if e.filename.endswith(".pkl") for name in _built(archive.read(e))]
    else:
        file.seek(0)
        built = [name for _ in range(OLD) for name in _built(file)]
    if other := next((name for name in built if not BUILT.fullmatch(name)), None):
        raise _more(path, other.replace(" ", "."))


def _built(content: bytes | BinaryIO) -> list[str]:
    """The module and the name of what a pickle asks for; torch reads no other opcode that asks."""
    return [str(value) for opcode, value, _ in pickletools.genops(content) if opcode.name == "GLOBAL"]


def _more(path: Path, name: str) -> UserError:
    return UserError(
        f"{path}: holds {brief(name)}; allowed are tensors and plain containers, as more could run code or fill the memory; "
        "where you trust it, save the network's state dict alone by torch.save, and give that"
    )


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
