"""A trained network as one file of tensors, model.safetensors, with what else a checkpoint holds as JSON in its header."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ddpm_lab.files import write_bytes

KEY = "ddpm-lab"
"""Of the header's metadata."""


def state_sha256(state: Mapping[str, Tensor], further: str = "") -> str:
    """Of tensors by name, wherever and in whatever order of memory they are, and of text before them."""
    content = hashlib.sha256(further.encode())
    for name, value in sorted(state.items()):
        content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.cpu().numpy().tobytes())
    return content.hexdigest()


def write_portable(state: Mapping[str, Tensor], weights: str, others: Mapping[str, Any], path: Path) -> None:
    """`state`: the weights of the network by its own names; `weights`: which these are, "raw", "given" or "ema/..."; `others`:
    what else `checkpoint.FORMAT` asks for. Sealed by a sha256 of all. Raises OSError."""
    held = {"weights": weights, **others}
    header = {KEY: _text({"sha256": state_sha256(state, _text(held)), **held})}
    write_bytes(path, save({name: value.cpu().contiguous() for name, value in state.items()}, header))


def _text(held: Mapping[str, Any]) -> str:
    """Read and written again it is the same."""
    return json.dumps(held, ensure_ascii=False)


def is_portable(path: Path) -> bool:
    """Whether it is such a file: one of safetensors whose header has our key."""
    try:
        with safe_open(path, "pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_portable(path: Path) -> dict[str, Any]:
    """The checkpoint that such a file holds; no code runs from it. Raises OSError, SafetensorError, and ValueError where it is
    of other code, or a bit of it has changed."""
    with safe_open(path, "pt") as file:
        held = json.loads((file.metadata() or {}).get(KEY, "null"))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    if not isinstance(held, dict):
        raise ValueError(f"no {KEY} in its header")
    if held.pop("sha256", None) != state_sha256(state, _text(held)):
        raise ValueError("not what was written")
    weights = held.pop("weights", None)
    if not isinstance(weights, str) or not re.fullmatch("raw|given|ema/.+", weights):
        raise ValueError(f"weights={weights}: allowed is raw, given, ema/...")
    if weights in ("raw", "given"):
        return {**held, "state_dict": {f"net.{name}": value for name, value in state.items()}}
    return {**held, "state_dict": {}, weights: state}
