"""What `python figures.py` refuses: in one line, and nothing is drawn."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ddpm_lab.core.schedule import cosine
from ddpm_lab.data.digits import Digits
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures.inversion import check_codes

from .drawing import FEW_STEPS, draw, refused
from .support import DIGITS

REFUSED = {
    "figure=intepolation": ("figure=intepolation", "figure=interpolation"),
    "figure=edit figure.n=361": ("figure.n=361", "360"),
    "figure=forward figure.at=[0.5]": ("figure.at", "figure=edit"),
    "figure=interpolation figure.pair=[0,360]": ("figure.pair=[0, 360]", "0 to 359"),
    "figure=inpainting figure.mask=right": ("figure.mask=right", "left, top, center", "PNG"),
    "figure=inpainting figure.mask=FILE": ("figure.mask=", "not readable"),
    "figure=inpainting figure.mask=EMPTY": ("figure.mask=", "not readable"),
    "figure=inpainting figure.mask=WORDS": ("figure.mask=", "real numbers"),
    "figure=inpainting sampler.steps=8": ("figure.jump=10", "1 to 7", "figure.resamplings=1"),
    "figure=shared sampler=ddim sampler.steps=4": ("sampler=ddim", "no noise", "ancestral"),
    "figure=trajectories sampler=unipc": ("sampler=unipc", "no noise"),
    "figure=progressive sampler.steps=1": ("sampler.steps=1", "2 and more"),
    "figure=schedules figure.T=1": ("figure.T=1",),
    "figure=coding figure.stride=21": ("figure.stride=21", "T = 20"),
    "figure=neighbours figure.rows=300": ("figure.rows=300", "256"),
    "figure=edit out=FILE": ("out=", "a file"),
    "figure=edit out=FOLDER": ("out=", "nothing is overwritten"),
    "figure=edit sampler=ddim sampler.steps=21": ("steps=21", "T=20"),
    "figure=schedules figure.T=30": ("figure.T=30", "figure.T=20"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_mistake_is_one_line_and_nothing_is_drawn(words, run_of, tmp_path, capsys):
    trained_run = run_of(*DIGITS)
    (tmp_path / "file.png").write_text("x")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "words.npy", np.array([["a"] * 8] * 8))
    names = {"FILE": "file.png", "EMPTY": "empty.npy", "WORDS": "words.npy", "FOLDER": "."}
    typed = re.sub("|".join(names), lambda match: str(tmp_path / names[match[0]]), words)
    said = refused(capsys, f"ckpt={trained_run}", *typed.split())
    assert [part for part in REFUSED[words] if part not in said] == []
    assert not (trained_run / "figures").exists()


def test_a_run_is_needed(capsys):
    assert "ckpt" in refused(capsys, "figure=edit")


def test_codes_without_signal_are_refused():
    of: Any = SimpleNamespace(diffusion=SimpleNamespace(schedule=cosine()))
    check_codes(0.993, 993, of)
    with pytest.raises(UserError, match=r"figure\.at=0\.994\b.*t = 994\b.*0\.993\b"):
        check_codes(0.994, 994, of)


def test_absent_data_are_said(run, tmp_path, monkeypatch, capsys):
    def absent(data: Digits) -> None:
        raise UserError("data.path: no such file")

    monkeypatch.setattr(Digits, "load", absent)
    assert "data.path" in refused(capsys, f"ckpt={run}", "figure=edit")
    assert draw("progressive", f"ckpt={run}", *FEW_STEPS, "figure.n=1", f"out={tmp_path / 'files'}")["record"]
