"""What is found in a folder of diffusers with given settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ddpm_lab.interop.layout import Found
from ddpm_lab.interop.recognise import LAYOUTS
from ddpm_lab.interop.source import read


def found_in(folder: Path, config: dict[str, Any], scheduler: dict[str, Any]) -> Found:
    """Raises UserError for settings that are refused. No weight is looked at."""
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    save_file({"conv_in.bias": torch.zeros(1)}, folder / "diffusion_pytorch_model.safetensors")
    return LAYOUTS["diffusers"].found({}, read(folder))


def words(found: Found) -> dict[str, str]:
    """Of the other groups than the network's: what is typed for a key, by the key."""
    pairs = found.words.items() if isinstance(found.words, Mapping) else [word.split("=") for word in found.words]
    return {key: str(value).lower() for key, value in pairs}
