"""A mistake on the command line of evaluate.py is one line, at once, and leaves nothing behind."""

import sys

import forked
import numpy as np
import pytest
import torch
from evaluation.support import DIGITS, QUICK, copied, evaluate, refusal
from helpers import CONF, ROOT, environment

from ddpm_lab.cli.evaluate import main, with_own_parts
from ddpm_lab.config.evaluated import trained_by


@pytest.fixture(scope="module")
def trained_run(run_of):
    return run_of(*DIGITS)


@pytest.fixture
def run(trained_run, tmp_path):
    """A run of digits with nothing measured."""
    return copied(trained_run, tmp_path / "run")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))


REFUSED = {
    "weights=ema/0.5": ("weights=ema/0.5: this checkpoint has ema, raw, ema/0.9999",),
    "sampler=ddim sampler.steps=50": ("sampler=ddim", "steps=50", "T=20", "1 to 20"),
    "sampler=ddim sampler.eta=2": ("sampler.eta=2: allowed is float in [0, 1]",),
    "sampler=dimm": ("Did you mean sampler=ddim?", "Options: ancestral, auto, ddim, ddim_eta1"),
    "variance=analytc": ("Did you mean variance=analytic?",),
    "smapler=ddim": ("Did you mean sampler=ddim?",),
    "nll.trems=3": ("Did you mean nll.terms=3",),
    "+nll.terms=3": ("leave out the +",),
    "loss=vlb": ("loss=vlb: no such key",),
    "sampler=ddim,ancestral": ("add -m",),
    "nll.split=test": ("nll.split=test: allowed is one of val, train",),
    "nll.n=361": ("nll.n=361: the val split has 360 data",),
    "nll.split=train nll.n=1438": ("nll.n=1438: the train split has 1437 data",),
    "nll.n=1": ("nll.n=1: allowed is int >= 2 or null",),
    "nll.stride=8 nll.n=10": ("nll.stride=8 needs", "16 data", "there are 10"),
    "nll.stride=21": ("nll.stride=21", "1 to 20"),
    "nll.stride=2 nll.terms=3": ("nll.stride=2 has no part in an estimate by nll.terms=3",),
    "variance=analytic gamma.n=1438": ("gamma.n=1438: there are 1437 training data",),
    "quality.statistics=/nowhere.npz": ("quality.statistics=/nowhere.npz", "allowed is file that exists"),
    "quality.statistics=FILES/other.npz": ("these are statistics of 5 features, and pixels gives 64",),
    "quality.statistics=FILES/other.npz variance=analytic": ("these are statistics of 5 features",),
    "quality.statistics=FILES/text.npz": ("quality.statistics=FILES/text.npz: not readable as .npz",),
    "metrics=inception metrics.weights=/nowhere.pth": ("metrics.weights=/nowhere.pth", "allowed is file that exists"),
    "metrics=inception metrics.weights=FILES/text.npz": ("metrics.weights",),
    "name=../../elsewhere": ("name=../../elsewhere: allowed is folder name",),
    "name=work": ("name=work",),
    "device=gpu": ("device=gpu: allowed is one of auto, cpu, cuda",),
    "seed=-1": ("seed=-1: allowed is int >= 0",),
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_what_cannot_be_measured_is_refused(arguments, run, tmp_path, capsys):
    np.savez(tmp_path / "other.npz", mu=np.zeros(5), sigma=np.eye(5))
    (tmp_path / "text.npz").write_text("no archive")
    said = refusal(capsys, f"ckpt={run}", *arguments.replace("FILES", str(tmp_path)).split())
    for text in REFUSED[arguments]:
        assert text.replace("FILES", str(tmp_path)) in said
    assert not (run / "eval").exists()


def test_a_gpu_that_is_not_there_is_refused(run, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device=cuda: torch finds no CUDA device here; use device=cpu" in refusal(capsys, f"ckpt={run}", "device=cuda")
    said = refusal(capsys, f"ckpt={run}", "device=cpu", "compile=reduce-overhead")
    assert all(word in said for word in ("compile=reduce-overhead", "GPU", "compile=true"))
    assert not (run / "eval").exists()


def test_inception_without_its_weights_and_without_a_network_is_refused(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))

    def no_network(*_, **__) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    said = refusal(capsys, f"ckpt={run}", "metrics=inception")
    assert "name it by metrics.weights=FILE, or use metrics=pixels" in said
    assert not (run / "eval").exists()


def test_no_checkpoint_is_refused(capsys):
    assert "ckpt is needed" in refusal(capsys)


def test_a_folder_that_is_not_there_is_refused(capsys, tmp_path):
    assert f"ckpt={tmp_path}/gone: no such file or folder" in refusal(capsys, f"ckpt={tmp_path}/gone")


def test_a_folder_without_a_checkpoint_is_refused_and_runs_beside_are_named(run, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    said = refusal(capsys, f"ckpt={tmp_path}/empty")
    assert "not a run folder (it has no checkpoints/last.ckpt)" in said
    assert f"Runs there: {run}." in refusal(capsys, f"ckpt={tmp_path}")


@pytest.mark.parametrize("place", ["alone.ckpt", "run/checkpoints/last.ckpt"])
def test_a_foreign_checkpoint_is_refused(place, run, capsys, tmp_path):
    torch.save({"model": torch.zeros(3)}, tmp_path / place)
    said = refusal(capsys, f"ckpt={tmp_path / place}")
    assert f"{tmp_path / place}: a checkpoint, but not one of ddpm-lab's" in said
    assert not (run / "eval").exists()


def test_a_checkpoint_of_another_network_is_refused(run, capsys):
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for name, value in checkpoint["ema/0.9999"].items():
        checkpoint["ema/0.9999"][name] = value[:1]
    torch.save(checkpoint, path)
    assert "holds the weights of another network" in refusal(capsys, f"ckpt={run}")


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_checkpoint_that_is_cut_short_is_refused_and_whole_ones_are_named(share, run, capsys):
    path = run / "checkpoints" / "last.ckpt"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    said = refusal(capsys, f"ckpt={run}")
    assert "last.ckpt is not a readable checkpoint" in said
    assert f"Readable: {run}/checkpoints/best.ckpt" in said


def test_a_configuration_that_is_none_is_that_of_the_checkpoint(run):
    whole = trained_by(str(run))[0]
    for text in ("{{", "a: 1", "[1, 2]", ""):
        (run / "config.yaml").write_text(text)
        assert trained_by(str(run))[0] == whole


def test_other_data_than_those_trained_on_are_refused(run, capsys):
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["Digits"]["sha256"] = "0" * 64
    torch.save(checkpoint, path)
    said = refusal(capsys, f"ckpt={run}")
    assert "these are not the data that the checkpoint was trained on (their contents differ)" in said
    assert not (run / "eval").exists()


def test_a_classifier_of_data_without_labels_is_refused(run_of, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    unlabelled = run_of(*DIGITS, "data=npz", f"data.path={tmp_path / 'images.npz'}", "data.val_fraction=0.5")
    said = refusal(capsys, f"ckpt={unlabelled}", "metrics=classifier")
    assert "metrics=classifier data=npz" in said
    assert "use metrics=inception or metrics=pixels" in said
    assert not (unlabelled / "eval").exists()


def test_a_folder_that_cannot_be_written_is_refused(run, capsys):
    (run / "eval").write_text("a file, where a folder should be")
    said = refusal(capsys, f"ckpt={run}", "name=e")
    assert f"{run}/eval/e cannot be made or written to" in said


def test_one_bad_choice_stops_a_sweep_before_its_first(run, capsys):
    for arguments in (["sampler=ddim", "sampler.steps=5,50"], ["nll.n=10,361"], ["weights=ema,ema/0.5"], ["name=e,../f"]):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            evaluate(run, "-m", *arguments)
        assert ended.value.code == 2
        assert "error: " in capsys.readouterr().err
        assert not (run / "eval").exists()


def test_the_command_ends_as_it_should_and_shows_no_traceback(run):
    refused = forked.run(ROOT / "evaluate.py", f"ckpt={run}", "nll.terms=3", "nll.stride=2", env=environment())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: nll.stride=2")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["--help", "variance"]])
def test_help_needs_no_checkpoint(words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    main()
    said = capsys.readouterr().out
    assert "analytic" in said
    assert "learned_range" in said


DIRS = [CONF / "evaluate", CONF]


def test_a_value_of_the_sampler_alone_is_about_the_runs_own(run_of):
    """Its other values stay as they were in that run; those of the option's file need no mention."""
    folder = run_of(
        "experiment=smoke", *QUICK, "sampler=ddim", "sampler.steps=6", "sampler.eta=0.25", "sampler.spacing=leading"
    )
    argv = with_own_parts([f"ckpt={folder}", "sampler.steps=5"], DIRS)
    assert set(argv[2:]) == {"sampler=ddim", "sampler.eta=0.25", "sampler.spacing=leading"}
    assert with_own_parts([f"ckpt={folder}"], DIRS) == [f"ckpt={folder}"]
