"""`python figures.py`: what its figures show, and the files it writes."""

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import CONF
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from ddpm_lab import load
from ddpm_lab.core.diffusion import diffuse
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.data.digits import Digits
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures import figure as files
from ddpm_lab.evaluation.figures.inpainting import known_of
from ddpm_lab.pictures import tiled
from evaluation.drawing import FEW_STEPS, FIGURES, NOISY_STEPS, draw, refused
from evaluation.support import DIGITS, VECTORS


def shown(figure: str, run: Path, *arguments: str) -> tuple[Tensor, list[str], list[str], dict[str, Any]]:
    """The pictures, rows × columns × C H W, the labels of columns and rows, and the record."""
    seen: list[Any] = []

    def strip(x: Tensor, columns: list[str], rows: list[str] | None = None) -> Any:
        seen[:] = [x, columns, rows or []]
        return files.Figure()

    with patch(f"ddpm_lab.evaluation.figures.{figure}.strip", strip):
        content = draw(figure, f"ckpt={run}", *arguments)
    return (*seen, content)


def held_out(n: int) -> Tensor:
    data = Digits()
    data.setup()
    return data.scaled("val", n)


def test_every_figure_is_looked_at():
    options = {path.stem for path in (CONF / "figures" / "figure").glob("*.yaml")}
    assert options == {*FIGURES, "schedules"}


@pytest.mark.parametrize(
    "figure", ["edit", *(pytest.param(name, marks=pytest.mark.slow) for name in FIGURES if name != "edit")]
)
def test_a_caption_says_how_the_figure_was_made(figure, run):
    noisy = figure in ("shared", "trajectories")
    content = draw(figure, f"ckpt={run}", *(NOISY_STEPS if noisy else FEW_STEPS), "seed=3", *FIGURES[figure])
    caption = content["caption"]
    sampled = [] if figure in ("forward", "coding", "inversion") else ["ddim", "4 of 20 steps", f"η = {int(noisy)}"]
    assert [part for part in [str(run), "ema/0.9999", "seed 3", "step 2", *sampled] if part not in caption] == []
    assert content["record"]["seed"] == 3
    assert len(content["record"]["checkpoint_sha256"]) == 64
    for key in ("n", "copies"):
        asked = [word.partition("=")[2] for word in FIGURES[figure] if word.startswith(f"figure.{key}=")]
        assert all(re.search(rf"\b{n}\b", caption) for n in asked)


def test_pictures_are_drawn_sharp(monkeypatch):
    """Every pixel of an 8×8 image is a square of one grey level, in PNG as in what PDF embeds."""
    monkeypatch.undo()
    from ddpm_lab.pictures import strip

    made = strip(held_out(4).unflatten(0, (2, 2)), ["a", "b"], ["c", "d"])
    (image,) = made.axes[0].images
    assert image.get_interpolation() == "nearest"
    canvas = np.asarray(image.get_array())
    assert np.array_equal(canvas[2:50:6, 2:50:6], canvas[7:50:6, 7:50:6])
    assert [label.get_text() for label in made.axes[0].get_yticklabels()] == ["c", "d"]


def test_the_same_command_draws_the_same(run):
    first, again = (shown("shared", run, *NOISY_STEPS, "figure.n=2")[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, shown("shared", run, *NOISY_STEPS, "figure.n=2", "seed=1")[0])


def test_samples_share_their_latent(run):
    """At T the latent is noise. With next to no noise in its steps all samples of one latent are nearly one."""
    asked = ["figure.n=3", "figure.at=[1.0,0.5]"]
    x, columns, rows, _ = shown("shared", run, *FEW_STEPS, "sampler.eta=1e-9", *asked)
    assert (columns, rows) == (["x_t", "1", "2", "3"], ["t = 20", "t = 10"])
    assert torch.allclose(x[:, 1], x[:, 2], atol=1e-5)
    states = list(DDIM(4)(load(run).diffusion, load(run).net, x[:1, 0], lambda t: x[:1, 0]))
    assert torch.allclose(x[1, :1], states[1].x, atol=1e-5)  # 20 → 15 → 10
    assert torch.allclose(x[:, 1], states[-1].x, atol=1e-5)
    x, *_ = shown("shared", run, *NOISY_STEPS, *asked)
    assert not torch.allclose(x[:, 1], x[:, 2], atol=1e-2)


def test_the_forward_process_has_one_noise_for_all_t(run):
    x, columns, _, _ = shown("forward", run, "figure.n=2", "figure.frames=3")
    chain = load(run).diffusion.chain
    assert columns == ["data", "t = 10", "t = 20"]
    assert torch.equal(x[:, 0], held_out(2))
    eps = (x[:, 2] - chain[20].at_t.signal_scale * x[:, 0]) / chain[20].at_t.noise_scale
    assert torch.allclose(x[:, 1], diffuse(x[:, 0], eps, chain[10]), atol=1e-5)


def test_interpolation_ends_at_the_edited_data(run):
    """By q, λ = 0 and 1 are image-to-image of the two data by one noise."""
    asked = [*FEW_STEPS, "figure.at=[0.25,0.9]"]
    x, columns, rows, _ = shown("interpolation", run, *asked, "figure.points=3")
    assert columns == ["data", "λ = 0", "λ = 0.5", "λ = 1", "data"]
    assert rows == ["t = 5", "t = 18"]
    assert torch.equal(x[:, [0, 4]], held_out(2).expand(2, 2, 1, 8, 8))
    edited, *_ = shown("edit", run, *asked, "figure.n=1")
    assert torch.allclose(x[:, 1], edited[0, 1:], atol=1e-5)
    assert not torch.allclose(x[:, 1], x[:, 3], atol=1e-2)


def test_interpolation_by_codes_ends_at_the_decoded_data(run):
    asked = ["sampler=ddim", "sampler.steps=20", "figure.at=[0.5]"]
    x, *_ = shown("interpolation", run, *asked, "figure.method=ddim", "figure.points=2")
    decoded = shown("inversion", run, *asked[:2], "figure.at=0.5", "figure.n=2")[0][2]
    assert torch.allclose(x[0, 1:3], decoded, atol=1e-4)


def test_inversion_states_its_error(run):
    x, columns, rows, content = shown("inversion", run, "sampler.steps=20", "figure.n=3", "figure.at=0.9")
    assert rows == ["data", "code", "decoded"]
    rmse = 127.5 * (x[2] - x[0]).square().mean((1, 2, 3)).sqrt()
    assert columns == [f"{e:.2f}" for e in rmse.tolist()]
    assert content["numbers"]["rmse_of_255"] == pytest.approx(float(rmse.square().mean().sqrt()), rel=1e-5)


@pytest.mark.soak
def test_codes_of_digits_come_back(tmp_path, run_of):
    """Within a grey level of 255, in unit steps of a thousand."""
    words = ["trainer.max_steps=60", "trainer.validate_every=60", "schedule.T=1000", "sampler.steps=10"]
    run = run_of("experiment=smoke", *words, "callbacks.vlb_terms.stride=100", "callbacks.vlb_terms.final_stride=100")
    content = shown("inversion", run, "sampler.steps=null", "figure.at=0.8", "figure.n=2", f"out={tmp_path / 'files'}")[-1]
    assert content["numbers"]["rmse_of_255"] < 1


def test_inpainting_keeps_what_is_given(run, tmp_path):
    mask = np.full((8, 8), 255, np.uint8)
    mask[2:5, 1:] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    asked = [*FEW_STEPS, "figure.jump=2", "figure.n=2", "figure.copies=2", f"figure.mask={tmp_path / 'mask.png'}"]
    x, columns, _, content = shown("inpainting", run, *asked)
    known = torch.as_tensor(mask > 0)
    assert columns == ["data", "given", "1", "2"]
    assert bool((x[..., known] == x[:, :1, :, known]).all())
    assert not torch.equal(x[:, 2], x[:, 3])
    assert f"{21 / 64:.0%}" in content["caption"]


def test_masks(tmp_path):
    """False is filled in: a half, a quarter of the area, or what a file has as 0."""
    assert known_of("left", 4, 6)[0].tolist() == [False] * 3 + [True] * 3
    assert known_of("top", 4, 6)[:, 0].tolist() == [False] * 2 + [True] * 2
    assert (~known_of("center", 8, 8)).nonzero().aminmax(dim=0).min.tolist() == [2, 2]
    assert int((~known_of("center", 8, 8)).sum()) == 16
    array = np.arange(24).reshape(4, 6) >= 5
    for values in (array, array.astype(np.uint8), array.astype(np.float64)):
        np.save(tmp_path / "mask.npy", values)
        assert np.array_equal(known_of(str(tmp_path / "mask.npy"), 4, 6), array)
    with pytest.raises(UserError, match=r"4×6.*8×8"):
        known_of(str(tmp_path / "mask.npy"), 8, 8)


def test_neighbours_know_a_copy(run):
    """Samples that are training data have the ratio 0, and themselves as the nearest."""
    data = Digits()
    data.setup()
    pieces = [{"x": data.raw("train")[7:11]}]
    with patch("ddpm_lab.evaluation.figures.neighbours.drawn", lambda *_: pieces):
        x, columns, rows, content = shown("neighbours", run, "figure.n=4", "figure.rows=2", "figure.features=null")
    assert (columns, rows) == (["sample", "pixels", "2.", "3."], ["0.00", "0.00"])
    assert torch.equal(x[:, 0], x[:, 1])
    assert content["numbers"] == {"pixels_ratio_median": 0.0, "pixels_ratio_below_third": 1.0}
    distances = (data.scaled("train")[None] - x[:, :1]).flatten(2).norm(dim=2)
    second, third = (torch.stack([data.scaled("train")[i] for i in distances.argsort(1)[:, k]]) for k in (1, 2))
    assert torch.equal(x[:, 2], second)
    assert torch.equal(x[:, 3], third)


def test_coding_shows_what_was_sent(run):
    place = "ddpm_lab.evaluation.figures.coding"
    with patch(f"{place}.draw_strip") as strip, patch(f"{place}.tiled", wraps=tiled) as tiles:
        content = draw("coding", f"ckpt={run}", "figure.n=20", "figure.stride=5", "figure.rows=2", "figure.rates=[0.001,64]")
    assert strip.call_args.args[2] == ["0.001\nt = 20", "64\nt = 1", "data"]
    pictures = tiles.call_args.args[0].unflatten(0, (2, 3))
    assert torch.equal(pictures[:, 2], held_out(2))
    assert (pictures[:, 1] - pictures[:, 2]).abs().mean() < (pictures[:, 0] - pictures[:, 2]).abs().mean()
    assert content["numbers"]["bound_bpd"] > 0


def test_schedules_need_no_run(tmp_path, capsys):
    with patch.object(files.Figure, "legend", autospec=True) as legend:
        content = draw("schedules", f"out={tmp_path / 'files'}", "figure.T=30")
    lines = [line for axes in legend.call_args.args[0].axes for line in axes.lines]
    options = sorted({path.stem for path in (CONF / "schedule").glob("*.yaml")} - {"tangent", "constant_rate", "learned"})
    assert [line.get_label() for line in lines[: len(options)]] == options
    assert len(lines) == 3 * len(options)
    assert "T = 30" in content["caption"]


def test_the_schedule_of_a_run_is_drawn_beside_the_others(run, tmp_path):
    with patch.object(files.Figure, "legend", autospec=True) as legend:
        content = draw("schedules", f"ckpt={run}", f"out={tmp_path / 'files'}", "figure.T=20")
    lines = {line.get_label(): line for line in legend.call_args.args[0].axes[0].lines}
    own = OmegaConf.load(run / "config.yaml").schedule["_target_"].rpartition(".")[2]
    assert np.array_equal(lines["this run"].get_ydata(), lines[own].get_ydata())
    assert str(run) in content["caption"]


def test_vectors_have_trajectories_alone(run_of, capsys, tmp_path):
    run = run_of(*VECTORS)
    content = draw("trajectories", f"ckpt={run}", f"out={tmp_path / 'files'}", "figure.n=2")
    assert "dimensions" in content["caption"]
    for figure in ("edit", "progressive"):
        said = refused(capsys, f"ckpt={run}", f"figure={figure}")
        assert f"figure={figure}" in said
        assert "vectors" in said


def test_a_conditional_model_has_the_figures_that_tell_its_network_the_classes(run_of, capsys):
    run = run_of(*DIGITS, "data.conditional=true")
    said = refused(capsys, f"ckpt={run}", "figure=edit")
    assert "figure=edit" in said
    assert "progressive" in said
    for figure in ("progressive", "forward"):
        assert draw(figure, f"ckpt={run}", *FEW_STEPS, *FIGURES[figure])["figure"] == figure
