"""Other people's checkpoints: what lies in a file or a folder, and which weights of a network it holds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.files import sha256
from ddpm_lab.interop.reading import check_tensor, parts_of, read_tensors, settings
from ddpm_lab.plain import brief

STEM = "diffusion_pytorch_model"
WEIGHTS = tuple(f"{STEM}.{end}" for end in ("safetensors", "safetensors.index.json", "bin", "bin.index.json"))
"""Of a folder of diffusers; the first that is there is read."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "unet.")
"""Of wrappers around a network, where all of its weights have them."""


AVERAGES = ("ema", "ema_state_dict")
RAW = ("model", "model_state_dict", "state_dict")
"""Keys of checkpoints under which a state dict lies."""


@dataclass
class Source:
    """What was read. `weights`: of "ema", "raw", or of "given", where the file does not say which they are; unchecked until
    they are `taken`."""

    path: Path
    """The file with the weights, or the index of several."""
    weights: dict[str, Any]
    files: dict[str, str]
    """The sha256 of each file that was read, by its name."""
    step: int = 0

    def taken(self, asked: str | None) -> str:
        """Which weights are taken, averaged ones where there are any; the others are let go. Those of which the file does not
        say what they are, are what they are asked for as. Raises UserError for those that the file has not."""
        has = [kind for kind in ("ema", "raw", "given") if kind in self.weights]
        kind = asked or has[0]
        if kind not in has and "given" not in has:
            raise UserError(f"weights={asked}: {self.path} has {', '.join(has)}")
        try:
            self.weights = {kind: checked(self.weights[kind if kind in has else "given"], self.path)}
        except UserError as error:
            if others := [other for other in has if asked is None and other != kind]:
                raise UserError(f"{error} (weights={kind}; weights={others[0]} takes the others)") from error
            raise
        return kind

    def config(self) -> dict[str, Any] | None:
        """Of diffusers, beside the weights."""
        return self._settings(self.path.parent / "config.json")

    def scheduler(self) -> dict[str, Any] | None:
        """Beside the unet, in the pipeline's folder or in a flat repository."""
        unet, name = self.path.parent, "scheduler_config.json"
        return self._settings(unet / name, unet / "scheduler" / name, unet.parent / "scheduler" / name)

    def _settings(self, *places: Path) -> dict[str, Any] | None:
        place = next((place for place in places if place.exists()), None)
        if place is None:
            return None
        content = settings(place)
        self.files[place.name] = sha256(place)
        return content

    def names(self) -> list[str]:
        """Of the file and of its folder, or of the folder of its pipeline or repository, as it was given."""
        path = self.path.absolute()
        of_folder = path.parent.parent if path.parent.name == "unet" else path.parent
        return [*([] if path.name.startswith(STEM) else [path.name]), of_folder.name]


def read(place: Path) -> Source:
    """A file, or a folder as diffusers has it. Raises UserError for what cannot be read, or would have to run code."""
    try:
        if place.is_dir():
            return _folder(place)
        if not place.is_file():
            there = "no file or folder" if place.exists() else "no such file or folder"
            raise UserError(f"from={place}: {there}; allowed are a checkpoint, a folder of diffusers, hf:OWNER/NAME")
        source = Source(place, {}, {place.name: sha256(place)})
        _take(source, read_tensors(place))
        return source
    except OSError as error:
        raise UserError(f"from={place}: {error.filename or place} cannot be read ({error.strerror})") from error


def _folder(place: Path) -> Source:
    """A pipeline, or the folder of its unet, or a flat repository of both."""
    unet = place / "unet" if (place / "unet").is_dir() else place
    if (place / "config.yaml").exists() and (place / "checkpoints").is_dir():
        raise UserError(
            f"from={place}: a run of ddpm-lab itself: give it to ckpt= of the other commands, or of this one with to="
        )
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
    source, tensors = Source(path, {}, {}), {}
    for part in parts_of(path) if path.suffix == ".json" else [path]:
        source.files[part.name] = sha256(part)
        tensors |= checked(read_tensors(part), part)
    source.weights = {"given": tensors}
    return source


def _take(source: Source, content: Any) -> None:
    """Sort the content of a checkpoint by the forms that the five code bases write, and others like them."""
    path, weights = source.path, source.weights
    if isinstance(content, list) and len(content) in (4, 5) and isinstance(content[0], Mapping):  # ddim's training file
        weights["raw"] = content[0]
        source.step = content[3] if type(content[3]) is int and content[3] >= 0 else 0
        if len(content) == 5:
            weights["ema"] = content[4]
        return
    if not isinstance(content, Mapping) or not any(isinstance(content.get(key), Mapping) for key in (*AVERAGES, *RAW)):
        weights["ema" if re.search(r"(^|[_-])ema([_.-]|$)", path.name.lower()) else "given"] = content
        return
    if {"state_dict", "config", "global_step"} <= content.keys():
        raise UserError(f"from={path}: a checkpoint of ddpm-lab itself: give it to ckpt= of the other commands")
    raw = next((content[key] for key in RAW if isinstance(content.get(key), Mapping)), None)
    ema = next((content[key] for key in AVERAGES if isinstance(content.get(key), Mapping | list) and content[key]), None)
    if ema is not None:  # ddpm-torch has them under shadow
        weights["ema"] = ema.get("shadow", ema) if isinstance(ema, Mapping) else ema
    if raw is not None:
        weights["raw" if "model" in content or ema is not None else "given"] = raw


def checked(content: Any, path: Path) -> dict[str, Tensor]:
    """By name, without a wrapper's prefix."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        what = "empty" if isinstance(content, Mapping) and not content else brief(content)
        raise UserError(f"{path}: {what}: allowed is a state dict, which maps names to tensors")
    for key, value in content.items():
        check_tensor(key, value, path)
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in content)), None):
        content = {key.removeprefix(prefix): value for key, value in content.items()}
    return dict(content)
