"""Reading other people's files: tensors and JSON, never code."""

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.files import sha256
from ddpm_lab.plain import brief

STEM = "diffusion_pytorch_model"
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "unet.")
"""Of wrappers around a network, where all of its weights have them."""


@dataclass
class Source:
    """What was read. `weights`: of "ema", "raw", or of "given", where the file does not say which they are."""

    path: Path
    """The file with the weights, or the index of several."""
    weights: dict[str, dict[str, Tensor]]
    files: dict[str, str]
    """The sha256 of each file, by its name."""
    config: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    step: int = 0


def read(place: Path) -> Source:
    """A file, or a folder as diffusers has it. Raises UserError for what cannot be read, or would have to run code."""
    if not place.exists():
        raise UserError(f"from={place}: no such file or folder; allowed are a checkpoint, a folder of diffusers, hf:OWNER/NAME")
    if place.is_dir():
        return _folder(place)
    config = _json(place.parent / "config.json") if (place.parent / "config.json").exists() else None
    source = Source(place, {}, {place.name: sha256(place)}, config)
    source.scheduler = _scheduler(place.parent)
    _take(source, _tensors(place))
    return source


def _folder(place: Path) -> Source:
    """A pipeline, or the folder of its unet, or a flat repository of both."""
    unet = place / "unet" if (place / "unet").is_dir() else place
    if not (unet / "config.json").exists():
        raise UserError(
            f"from={place}: neither a folder of diffusers (config.json, or unet/config.json) nor a checkpoint: give the file "
            "itself"
        )
    names = [f"{STEM}.safetensors", f"{STEM}.safetensors.index.json", f"{STEM}.bin", f"{STEM}.bin.index.json"]
    path = next((unet / name for name in names if (unet / name).exists()), None)
    if path is None:
        raise UserError(f"from={place}: {unet} has none of {', '.join(names)}")
    source = Source(path, {}, {}, _json(unet / "config.json"), _scheduler(unet))
    tensors: dict[str, Any] = {}
    for part in _parts(path):
        source.files[part.name] = sha256(part)
        tensors |= _checked(_tensors(part), part)
    source.weights = {"given": tensors}
    return source


def _parts(path: Path) -> list[Path]:
    """The file itself, or those that an index names."""
    if path.suffix != ".json":
        return [path]
    index = _json(path).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise UserError(f"{path}: an index of weights without its weight_map")
    parts = [path.with_name(Path(name).name) for name in dict.fromkeys(index.values())]
    if missing := [part for part in parts if not part.exists()]:
        raise UserError(f"{path}: names {missing[0].name}, which is not there")
    return parts


def _scheduler(unet: Path) -> dict[str, Any] | None:
    """Beside the unet, in the pipeline's folder or in a flat repository."""
    places = [
        unet / "scheduler_config.json",
        unet / "scheduler" / "scheduler_config.json",
        unet.parent / "scheduler" / "scheduler_config.json",
    ]
    return next((_json(place) for place in places if place.exists()), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: {brief(content)}: allowed is a JSON object")
    return content


def _tensors(path: Path) -> Any:
    """The content of a file of tensors, on the CPU."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not readable as safetensors (damaged, cut short, or another file)") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error):
            raise UserError(
                f"{path}: holds more than tensors and plain containers, and to read it would run code from it; where you trust "
                "it, save the network's state dict alone by torch.save, and give that"
            ) from error
        raise UserError(f"{path}: not a readable checkpoint (damaged, cut short, or another file)") from error
    except Exception as error:  # torch raises a dozen kinds
        raise UserError(f"{path}: not a readable checkpoint (damaged, cut short, or another file)") from error


def _take(source: Source, content: Any) -> None:
    """Sort the content of a checkpoint by the forms that the five code bases write."""
    path = source.path
    if isinstance(content, list) and len(content) in (4, 5) and isinstance(content[0], Mapping):  # ddim's training file
        source.weights["raw"] = _checked(content[0], path)
        source.step = content[3] if isinstance(content[3], int) else 0
        if len(content) == 5:
            source.weights["ema"] = _checked(content[4], path)
    elif isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):  # ddpm-torch's
        source.weights["raw"] = _checked(content["model"], path)
        ema = content.get("ema")
        ema = ema.get("shadow", ema) if isinstance(ema, Mapping) else None
        if isinstance(ema, Mapping) and ema:
            source.weights["ema"] = _checked(ema, path)
    elif isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        if "config" in content and "global_step" in content:
            raise UserError(f"from={path}: a checkpoint of ddpm-lab itself: give it to ckpt= of the other commands")
        source.weights["given"] = _checked(content["state_dict"], path)
    else:
        source.weights["ema" if "ema" in path.name.lower() else "given"] = _checked(content, path)


def _checked(content: Any, path: Path) -> dict[str, Tensor]:
    """By name, without a wrapper's prefix."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: {brief(content)}: allowed is a state dict, which maps names to tensors")
    if other := [key for key, value in content.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{path}: {other[0]} is no tensor; allowed is a state dict, which maps names to tensors")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    return dict(content)
