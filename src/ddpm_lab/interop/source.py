"""Other people's checkpoints: what lies in a file or a folder, and which weights of a network it holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.files import sha256
from ddpm_lab.interop.reading import check_tensor, parts_of, read_json, read_tensors
from ddpm_lab.plain import brief

STEM = "diffusion_pytorch_model"
WEIGHTS = tuple(f"{STEM}.{end}" for end in ("safetensors", "safetensors.index.json", "bin", "bin.index.json"))
"""Of a folder of diffusers; the first that is there is read."""
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
    try:
        if place.is_dir():
            return _folder(place)
        if not place.is_file():
            there = "no file or folder" if place.exists() else "no such file or folder"
            raise UserError(f"from={place}: {there}; allowed are a checkpoint, a folder of diffusers, hf:OWNER/NAME")
        config = place.parent / "config.json"
        source = Source(place, {}, {place.name: sha256(place)}, read_json(config) if config.exists() else None)
        source.scheduler = _scheduler(place.parent)
        _take(source, read_tensors(place))
        return source
    except OSError as error:
        raise UserError(f"from={place}: {error.filename or place} cannot be read ({error.strerror})") from error


def _folder(place: Path) -> Source:
    """A pipeline, or the folder of its unet, or a flat repository of both."""
    unet = place / "unet" if (place / "unet").is_dir() else place
    if not (unet / "config.json").exists():
        raise UserError(
            f"from={place}: neither a folder of diffusers (config.json, or unet/config.json) nor a checkpoint: give the file "
            "itself"
        )
    path = next((unet / name for name in WEIGHTS if (unet / name).exists()), None)
    if path is None:
        others = sorted(path.name for path in unet.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".ckpt"))
        instead = f"; give the file itself, as {unet / others[0]}" if others else ""
        raise UserError(f"from={place}: {unet} has none of {', '.join(WEIGHTS)}{instead}")
    source = Source(path, {}, {}, read_json(unet / "config.json"), _scheduler(unet))
    tensors: dict[str, Any] = {}
    for part in parts_of(path) if path.suffix == ".json" else [path]:
        source.files[part.name] = sha256(part)
        tensors |= _checked(read_tensors(part), part)
    source.weights = {"given": tensors}
    return source


def _scheduler(unet: Path) -> dict[str, Any] | None:
    """Beside the unet, in the pipeline's folder or in a flat repository."""
    places = [
        unet / "scheduler_config.json",
        unet / "scheduler" / "scheduler_config.json",
        unet.parent / "scheduler" / "scheduler_config.json",
    ]
    return next((read_json(place) for place in places if place.exists()), None)


def _take(source: Source, content: Any) -> None:
    """Sort the content of a checkpoint by the forms that the five code bases write."""
    path = source.path
    if isinstance(content, list) and len(content) in (4, 5) and isinstance(content[0], Mapping):  # ddim's training file
        source.weights["raw"] = _checked(content[0], path)
        source.step = content[3] if type(content[3]) is int and content[3] >= 0 else 0
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
        what = "empty" if isinstance(content, Mapping) and not content else brief(content)
        raise UserError(f"{path}: {what}: allowed is a state dict, which maps names to tensors")
    for key, value in content.items():
        check_tensor(key, value, path)
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in content):
            content = {key.removeprefix(prefix): value for key, value in content.items()}
    return dict(content)
