"""What `trainer` takes, and what may be left out of a run."""

import inspect
import json
import logging

import pytest
import torch
from helpers import TINY, composed, trained
from lightning import Trainer

from ddpm_lab import cores
from ddpm_lab.config.build import build, build_model, load
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.training import trainer
from ddpm_lab.training.callbacks import progress
from ddpm_lab.training.callbacks.progress import Throughput
from ddpm_lab.training.fit import log_to
from ddpm_lab.training.trainer import PASSED, make

from .support import Recorder, fit, module, quiet

pytestmark = quiet


def step(folder) -> int:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]


def test_arguments_that_are_handed_on_are_lightnings_and_not_ours():
    assert set(PASSED) <= inspect.signature(Trainer).parameters.keys()
    assert not set(PASSED) & inspect.signature(make).parameters.keys()


def test_no_step_on_a_cpu_loads_a_library_to_look_for_a_gpu(tmp_path, monkeypatch):
    """Lightning sets the variable, by which fused optimisers have torch load NVML at every step."""
    loaded = []
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setattr("ctypes.CDLL", lambda name, **_: loaded.append(name))
    fit(tmp_path, module(), [Recorder(lambda *_: loaded.append("step"))], steps=3)
    assert loaded[loaded.index("step") :] == ["step"] * 3


def test_limited_batches_end_the_run_there(tmp_path):
    """The run is one epoch: five batches of it are five steps; a validation of one batch measures that batch."""
    limits = ["+trainer.limit_train_batches=5", "+trainer.limit_val_batches=1", "callbacks.vlb_terms.stride=5"]
    run = trained(tmp_path / "run", *TINY, "trainer.max_steps=9", "trainer.validate_every=3", *limits)
    assert step(run) == 5
    assert "nan" not in (run / "metrics.csv").read_text()


@pytest.mark.parametrize("word", ["gradient_clip_val=1.0", "max_epochs=3", "limit_batches=4"])
def test_arguments_that_it_does_not_take_are_refused_by_name(word, tmp_path):
    with pytest.raises(UserError, match=rf"^trainer\.{word}: .*limit_train_batches"):
        build(composed(*TINY, f"+trainer.{word}"), tmp_path)


def test_a_float64_network_samples_in_float64(tmp_path):
    with pytest.raises(UserError, match=r"sample_precision=bf16-mixed.*precision=64-true"):
        build(composed(*TINY, "trainer.precision=64-true", "trainer.sample_precision=bf16-mixed"), tmp_path)


def test_cuda_graphs_are_a_mode_of_compile_that_a_cpu_refuses(tmp_path, monkeypatch):
    asked = composed(*TINY, "trainer.compile=reduce-overhead")
    with pytest.raises(UserError, match=r"trainer\.compile=reduce-overhead: .*GPU.*trainer\.compile=true"):
        build(asked, tmp_path)
    modes = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode: modes.append(mode))
    monkeypatch.setattr(trainer, "check_compile", lambda *_: None)
    build(asked, tmp_path)
    build(composed(*TINY, "trainer.compile=true"), tmp_path)
    assert modes == ["reduce-overhead", None]


@pytest.mark.parametrize("there", [True, False])
def test_data_are_told_whether_to_live_on_the_device(there, tmp_path):
    assert build(composed(*TINY, f"trainer.data_on_device={there}".lower()), tmp_path).data.on_device == there


@pytest.mark.parametrize("left_out", ["frechet", "frechet_curve", "samples", "vlb_terms", "loss_quartiles", "checkpoints"])
def test_each_callback_can_be_left_out(left_out, tmp_path):
    run = trained(tmp_path / "run", *TINY, f"callbacks.{left_out}=null")
    numbers = json.loads((run / "summary.json").read_text())["metrics"]
    assert ("bound_bpd" in numbers, "pixels_fd" in numbers) == (left_out != "vlb_terms", left_out != "frechet")
    assert (run / "checkpoints" / "last.ckpt").exists() == (left_out != "checkpoints")
    assert (run / "samples").exists() == (left_out != "samples")
    columns = (run / "metrics.csv").read_text().splitlines()[0]
    assert ("val/pixels_fd@8" in columns, "train/loss" in columns) == (
        left_out != "frechet_curve",
        left_out != "loss_quartiles",
    )


def test_a_run_without_callbacks_trains(tmp_path):
    run = trained(tmp_path / "run", "experiment=smoke", "callbacks=none", "~ema", "trainer.max_steps=2", "schedule.T=10")
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["metrics"], summary["step"], summary["weights"]) == ({}, 2, "raw")
    assert not (run / "checkpoints").exists()


def memory_format(*overrides: str, folder) -> bool:
    net = build(composed(*TINY, *overrides), folder).module.model.net
    return any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in net.parameters())


def test_memory_format_is_that_which_is_faster_on_the_device(tmp_path):
    """bfloat16 on a CPU: contiguous. What is typed is taken; a run that is opened has the format that it was trained in."""
    bf16 = "trainer.precision=bf16-mixed"
    assert [memory_format(word, folder=tmp_path) for word in ("trainer.precision=32-true", bf16)] == [True, False]
    assert memory_format(bf16, "trainer.channels_last=true", folder=tmp_path)
    assert not memory_format("trainer.channels_last=false", folder=tmp_path)
    for word, expected in ((bf16, False), ("trainer.precision=32-true", True)):
        model = build_model(composed(*TINY, word), (1, 8, 8), 17)
        content = {"config": model.config, "shape": [1, 8, 8], "levels": 17, "global_step": 0, "state_dict": model.state_dict()}
        torch.save(content, tmp_path / "x.ckpt")
        net = load(tmp_path / "x.ckpt").net
        assert any(not p.is_contiguous() for p in net.parameters()) == expected


@pytest.mark.parametrize(("limit", "lines"), [(0.0, 1), (3600.0, 0)])
def test_a_run_of_hours_on_a_cpu_says_so_once(limit, lines, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(progress, "LONG", limit)
    monkeypatch.setattr(progress, "FORETOLD_AFTER", 3)
    with caplog.at_level(logging.WARNING, "ddpm_lab"):
        fit(tmp_path, module(), [Throughput(), Recorder(lambda *_: None)], steps=8, accumulate=2)
    said = [record.getMessage() for record in caplog.records if "hours" in record.getMessage()]
    assert len(said) == lines
    assert all("5 steps" in line and "trainer.max_steps" in line for line in said)


@pytest.mark.parametrize(("waited", "threads", "lines"), [(9.0, 2, 1), (1.0, 2, 0), (9.0, 1, 0)])
def test_threads_that_wait_for_cores_are_named_once(waited, threads, lines, tmp_path, caplog, monkeypatch):
    counts = iter([cores.Cores(0.0, 0.0), cores.Cores(10 - waited, waited)])
    monkeypatch.setattr(cores, "used", lambda: next(counts))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(progress, "FORETOLD_AFTER", 3)
    with caplog.at_level(logging.WARNING, "ddpm_lab"):
        fit(tmp_path, module(), [Throughput(), Recorder(lambda *_: None)], steps=5)
    said = [record.getMessage() for record in caplog.records if "OMP_NUM_THREADS=1" in record.getMessage()]
    assert len(said) == lines
    assert all("90%" in line for line in said)


def test_the_same_run_whatever_is_measured(run_of, tmp_path):
    """No callback touches what is trained."""
    bare = trained(
        tmp_path / "bare", *TINY, "callbacks.vlb_terms=null", "callbacks.samples=null", "callbacks.frechet_curve=null"
    )
    whole = run_of(*TINY)
    a, b = (read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (bare, whole))
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_run_leaves_the_log_as_it_was(tmp_path):
    """A handler of the caller's stays, and what is said afterwards reaches it."""
    log, handler = logging.getLogger("ddpm_lab"), logging.NullHandler()
    log.addHandler(handler)
    before = list(log.handlers), log.propagate
    try:
        with log_to(tmp_path / "train.log"):
            assert not log.propagate
        assert (log.handlers, log.propagate) == before
    finally:
        log.removeHandler(handler)
