"""Small networks of other code, under the names of the files that docs/checkpoints.md brings in."""

import functools
import sys
from pathlib import Path
from unittest.mock import patch

import torch

from ddpm_lab.cli.convert import main

sys.path.append(str(Path(__file__).parent / "interop"))
from originals import listed
from test_equal_to_diffusers import saved

FILES = {
    "ema_diffusion_cifar10_model.ckpt": "ddim",
    "cifar10_2040.pt": "ddpm_torch",
    "cifar10_uncond_50M_500K.pt": "openai",
    "cifar10_uncond_vlb_50M_500K.pt": "openai",
    "diffusion.pt": "openai",
}
"""And the list in tests/interop/layouts of their weights."""


def documented(folder: Path) -> None:
    """Writes them; a repository of the Hugging Face hub is a folder."""
    for file, name in FILES.items():
        torch.save(listed(name), folder / file)
    saved(folder)
    (folder / "saved").rename(folder / "ddpm-cifar10-32")


@functools.cache
def bring(*argv: str) -> None:
    """`python convert.py ARGV` in this folder, once: a folder that is there is refused."""
    with patch.object(sys, "argv", ["convert.py", *(word.replace("hf:google/", "") for word in argv)]):
        main()
