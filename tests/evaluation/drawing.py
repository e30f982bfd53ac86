"""`python figures.py` in this process, and what it left behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ddpm_lab.cli.figures import main

FEW_STEPS = ["sampler=ddim", "sampler.steps=4"]
NOISY_STEPS = ["sampler=ddim_eta1", "sampler.steps=4"]
FIGURES = {
    "progressive": ["figure.n=2", "figure.frames=3"],
    "shared": ["figure.n=2"],
    "interpolation": ["figure.points=3"],
    "coding": ["figure.n=12", "figure.stride=5"],
    "neighbours": ["figure.n=9", "figure.features=null"],
    "forward": ["figure.n=2", "figure.frames=3"],
    "trajectories": ["figure.n=2", "figure.frames=3"],
    "inpainting": ["figure.n=2", "figure.copies=2", "figure.jump=2"],
    "edit": ["figure.n=2"],
    "inversion": ["figure.n=2", "figure.at=0.9"],
}


def draw(figure: str, *arguments: str) -> dict[str, Any]:
    """What stands in the record of the figure."""
    with patch.object(sys, "argv", ["figures.py", f"figure={figure}", *arguments]):
        main()
    out = [Path(word.partition("=")[2]) for word in arguments if word.startswith("out=")]
    ckpt = [Path(word.partition("=")[2]) for word in arguments if word.startswith("ckpt=")]
    folder = out[0] if out else max((ckpt[0] / "figures").iterdir())
    names = {f"{figure}.png", f"{figure}.pdf", f"{figure}.txt", f"{figure}.json", "config.yaml", "SHA256SUMS"}
    assert names <= {path.name for path in folder.iterdir()}
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    content = json.loads((folder / f"{figure}.json").read_text())
    assert (folder / f"{figure}.txt").read_text().split() == content["caption"].split()
    return content


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What it says when it refuses: one line, and exit code 2."""
    capsys.readouterr()
    with patch.object(sys, "argv", ["figures.py", *arguments]), pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    return said.err
