"""`python sample.py`: the files it writes, and what it refuses."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import pytest
import torch
from helpers import ROOT, environment
from PIL import Image

from ddpm_lab import load
from ddpm_lab.cli.sample import main
from ddpm_lab.core.grey import to_levels
from ddpm_lab.core.guidance import ClassifierFree
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.evaluation.trajectory import FILMS, FRAME_MS, LAST_MS
from ddpm_lab.models.checkpoint import write_archive
from evaluation.support import DIGITS, VECTORS, Counted, copied, evaluate

FEW_STEPS = ["sampler=ddim", "sampler.steps=4"]
ALL = "files=[png,grid,npz,pt]"


@pytest.fixture(scope="module")
def trained_run(run_of):
    return run_of(*DIGITS)


@pytest.fixture
def run(trained_run, tmp_path):
    return copied(trained_run, tmp_path / "run")


def sample(ckpt: Path, *arguments: str) -> Path:
    """The folder of the files."""
    with patch.object(sys, "argv", ["sample.py", f"ckpt={ckpt}", *arguments]):
        main()
    out = [word.partition("=")[2] for word in arguments if word.startswith("out=")]
    return Path(out[0]) if out else max((ckpt / "drawn").iterdir())


def refused(capsys: pytest.CaptureFixture, ckpt: Path, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        sample(ckpt, *arguments)
    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    return said.err


def array(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as file:
        assert "arr_0" in file.files
        return file["arr_0"]


def test_all_files_hold_the_samples_of_the_run(run, tmp_path):
    folder = sample(run, *FEW_STEPS, "n=270", "seed=3", "grid=5", ALL, f"out={tmp_path / 'files'}")
    expected = load(run).sample(270, DDIM(steps=4), seed=3)
    floats, arr = torch.load(folder / "samples.pt"), array(folder)
    assert torch.equal(floats, expected)
    grey = to_levels(expected, 17).double()
    assert (arr.shape, arr.dtype) == ((270, 8, 8, 1), np.uint8)
    assert np.array_equal(arr, (grey * 255 / 16).round().permute(0, 2, 3, 1).numpy())
    pictures = sorted((folder / "images").iterdir())
    assert [path.name for path in pictures[:2]] == ["000000.png", "000001.png"]
    assert all(np.array_equal(np.asarray(Image.open(path)), of[..., 0]) for path, of in zip(pictures, arr, strict=True))
    content = json.loads((folder / "samples.json").read_text())
    assert content["files"].keys() == {"images", "grid.png", "samples.npz", "samples.pt"}
    named = {"n": 270, "seed": 3, "weights": "ema/0.9999", "sampler": "ddim", "steps": 4, "eta": 0.0, "not_finite": 0}
    assert {key: content["record"][key] for key in named} == named
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0


def test_the_samples_are_those_that_evaluation_measures(run, monkeypatch):
    measured = evaluate(
        run, *FEW_STEPS, start=["name=e", "quality.n=12", "nll.n=10", "nll.chain=sampler", "nll.train_stride=0"]
    )
    calls = Counted(monkeypatch)
    folder = sample(run, *FEW_STEPS, "n=12", "grid=12")
    assert calls.n == 0  # nothing is drawn twice
    (grid,) = measured.folder.glob("samples_*.png")
    assert grid.read_bytes() == (folder / "grid.png").read_bytes()
    record, ours = measured.record("pixels_fd"), json.loads((folder / "samples.json").read_text())["record"]
    of_samples = {key: ours[key] for key in ours.keys() & record.keys() if ours[key] is not None}
    assert of_samples == {key: record[key] for key in of_samples}
    assert len(of_samples) > 12


def test_a_stop_goes_on_in_the_same_folder(run, tmp_path, monkeypatch):
    asked = [*FEW_STEPS, "n=260", "files=[npz]", f"out={tmp_path / 'files'}"]
    with monkeypatch.context() as stopping:
        Counted(stopping, stop=6)
        with pytest.raises(SystemExit) as ended:
            sample(run, *asked)
    assert ended.value.code == 130
    assert not (tmp_path / "files" / "samples.json").exists()
    calls = Counted(monkeypatch)
    folder = sample(run, *asked)
    assert calls.n == 4  # of 8: the first 256 were kept
    assert np.array_equal(array(folder), array(sample(copied(run, tmp_path / "other"), *FEW_STEPS, "n=260", "batch=33")))


def test_no_data_are_needed(tmp_path, run_of):
    images = tmp_path / "images.npz"
    np.savez(images, np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8))
    run = run_of(*DIGITS, "data=npz", f"data.path={images}")
    images.unlink()
    assert array(sample(run, *FEW_STEPS, "n=2")).shape == (2, 8, 8, 3)


@pytest.mark.parametrize("what", ["x0", "xt"])
def test_a_trajectory_ends_at_the_samples(run, what):
    with (
        patch("ddpm_lab.evaluation.trajectory.save_progression") as strip,
        patch("ddpm_lab.evaluation.trajectory.tiled") as tiles,
    ):
        tiles.side_effect = lambda x, columns: np.zeros((20, 31, 1), np.uint8)
        strip.side_effect = lambda frames, labels, path: path
        sample(run, *FEW_STEPS, "n=3", "rows=3", "frames=3", "files=[grid]", f"show={what}", "film=[gif,mp4]")
    frames, labels, _ = strip.call_args.args
    states = list(load(run).model.sampling(sampler=DDIM(steps=4)).sample_states(0, 3, 0))
    shown = [states[i].x0 if what == "x0" else states[i].x for i in (0, 2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(frames, shown, strict=True))
    assert labels == (["t = 20", "t = 10", "t = 5"] if what == "x0" else ["t = 15", "t = 5", "data"])


@pytest.mark.parametrize("channels", [1, 3])
def test_films_show_every_picture_for_its_time(tmp_path, channels):
    greys, side = [10, 200, 90], (21, 30)  # an odd height
    pictures = [np.full((*side, channels), grey, np.uint8) for grey in greys]
    gif, mp4 = (FILMS[kind](pictures, tmp_path / f"film.{kind}") for kind in ("gif", "mp4"))
    with Image.open(gif) as film:
        assert (film.n_frames, film.size) == (3, (30, 21))
        for i, grey in enumerate(greys):
            film.seek(i)
            assert np.abs(np.asarray(film.convert("L")).astype(int) - grey).max() <= 1
    with av.open(str(mp4)) as film:
        shown = [float(frame.to_ndarray(format="gray").mean()) for frame in film.decode(video=0)]
    expected = [grey for grey, ms in zip(greys, (FRAME_MS, FRAME_MS, LAST_MS), strict=True) for _ in range(ms * 25 // 1000)]
    assert np.abs(np.subtract(shown, expected)).max() < 4  # compressed


def test_vectors_have_floats_and_a_plot(run_of, tmp_path, capsys):
    run = copied(run_of(*VECTORS), tmp_path / "run")
    folder = sample(run, "n=5")
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {
        "config.yaml", "grid.png", "samples.pt", "samples.json", "SHA256SUMS",
    }  # fmt: skip
    assert torch.equal(torch.load(folder / "samples.pt"), load(run).sample(5))
    capsys.readouterr()
    assert "files=npz" in refused(capsys, run, "files=[npz,pt]")
    assert "film=[mp4]" in refused(capsys, run, "show=xt", "film=[mp4]")


def test_samples_are_of_the_classes_that_are_asked_for(run_of, capsys):
    run = run_of(*DIGITS, "data.conditional=true", "optim.warmup=0", "optim.lr=0.05")
    guided = ["guidance=classifier_free", "guidance.scale=3"]
    folder = sample(run, *FEW_STEPS, "n=5", "classes=[3,7]", *guided, "files=[npz,pt]")
    expected = load(run).sample(5, DDIM(steps=4), classes=[3, 7], guidance=ClassifierFree(3.0))
    assert torch.equal(torch.load(folder / "samples.pt"), expected)
    assert not torch.equal(expected, load(run).sample(5, DDIM(steps=4), classes=[3, 7]))
    with np.load(folder / "samples.npz") as file:
        assert file["arr_1"].tolist() == [3, 7, 3, 7, 3]
    record = json.loads((folder / "samples.json").read_text())["record"]
    assert (record["classes"], record["guidance_scale"]) == ("3, 7", 3.0)
    capsys.readouterr()
    assert "classes=[10]: allowed is one or more of 0 to 9" in refused(capsys, run, "classes=[10]")


REFUSED = {
    "classes=[1]": ("classes=[1]", "trained without classes"),
    "guidance=classifier_free": ("guidance=classifier_free", "data.conditional"),
    "n=0": ("n=0", "int >= 1"),
    "files=[jpg]": ("files=[jpg]", "png, grid, npz, pt"),
    "show=noise": ("show=noise", "x0, xt"),
    "film=[mpeg]": ("film=[mpeg]", "gif, mp4"),
    "nll.n=3": ("nll.n=3: no such key",),
    "metrics=pixels": ("metrics=pixels",),
    "sampler=ddim sampler.steps=21": ("steps=21", "T=20"),
    "variance=learned_range": ("variance=learned_range", "variance=beta"),
    "variance=analytic gamma.n=1438": ("gamma.n=1438", "1437 training data"),
    "out=FILE": ("out=", "a file"),
    "out=/proc/nowhere": ("out", "/proc/nowhere", "cannot be made or written to"),
    f"out=/tmp/{300 * 'a'}": ("out", "cannot be made or written to"),
    "out=OTHERS": ("out=", "nothing is overwritten"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_mistake_is_one_line_and_nothing_is_drawn(words, run, tmp_path, capsys):
    (tmp_path / "others").mkdir()
    for name in ("file", "others/mine.txt"):
        (tmp_path / name).write_text("")
    typed = words.replace("FILE", str(tmp_path / "file")).replace("OTHERS", str(tmp_path / "others"))
    said = refused(capsys, run, *typed.split())
    assert all(part in said for part in REFUSED[words])
    assert not (run / "drawn").exists()


def test_another_command_does_not_overwrite(run, tmp_path, capsys):
    out = f"out={tmp_path / 'files'}"
    sample(run, *FEW_STEPS, "n=2", out)
    before = array(tmp_path / "files")
    capsys.readouterr()
    assert "nothing is overwritten" in refused(capsys, run, *FEW_STEPS, "n=2", "seed=1", out)
    other = copied(run, tmp_path / "other")
    checkpoint = torch.load(other / "checkpoints" / "last.ckpt", weights_only=True)
    write_archive(checkpoint | {"global_step": 3}, other / "checkpoints" / "last.ckpt")
    assert "nothing is overwritten" in refused(capsys, other, *FEW_STEPS, "n=2", out)
    sample(run, *FEW_STEPS, "n=2", out)
    assert np.array_equal(array(tmp_path / "files"), before)


def test_a_disk_without_room_is_said_before_anything_is_drawn(run, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9, 64 * 1000 * 3 - 1))
    said = refused(capsys, run, "n=1000")
    assert "n=1000" in said
    assert "out=" in said


@pytest.mark.soak
def test_two_processes_write_the_same(trained_run, tmp_path):
    one, two = copied(trained_run, tmp_path / "one"), copied(trained_run, tmp_path / "two")
    asked = [*FEW_STEPS, "n=600", "files=[npz]"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "sample.py")]
    command = [*start, f"ckpt={two}", *asked, f"out={tmp_path / 'files'}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert np.array_equal(array(tmp_path / "files"), array(sample(one, *asked)))
