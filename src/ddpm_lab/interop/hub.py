"""Repositories of the Hugging Face hub: settings and weights of diffusers, through its own client and cache."""

import re
from pathlib import Path

from ddpm_lab.errors import UserError, require
from ddpm_lab.interop.source import STEM

SETTINGS = ("config.json", "scheduler_config.json", "scheduler/scheduler_config.json", "unet/config.json")
"""Of a flat repository, and of a pipeline."""
SAFE, PICKLED = ((f"{STEM}*{end}", f"unet/{STEM}*{end}") for end in (".safetensors*", ".bin*"))
"""Weights, and where there are several files the index of them."""
NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetched(name: str) -> tuple[Path, str]:
    """The folder of `OWNER/NAME[@REVISION]` in the hub's cache, and the name with the commit as its revision. With
    HF_HUB_OFFLINE=1 nothing is asked of the network. Raises UserError."""
    if not (match := NAME.fullmatch(name)):
        raise UserError(f"from=hf:{name}: allowed is hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    require("huggingface_hub", "hub", f"from=hf:{name}: ")
    from huggingface_hub import snapshot_download

    repository, revision = match.groups()
    try:
        for weights in (SAFE, PICKLED):
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[*SETTINGS, *weights]))
            if any(folder.glob(f"**/{STEM}*")):
                break
    except Exception as error:  # of the client, of its HTTP library, of the disk: each raises kinds of its own
        page = f"https://huggingface.co/{repository}/tree/{revision or 'main'}"
        raise UserError(
            f"from=hf:{name}: could not be fetched ({type(error).__name__}). Where there is such a repository, download "
            f"config.json, scheduler_config.json and {STEM}.safetensors (or .bin) of {page}, of a pipeline out of unet/ and "
            "scheduler/, into one folder, and type from=FOLDER"
        ) from error
    return folder, f"hf:{repository}@{folder.name}"
