"""A checkpoint is whole or not there, whatever fails while it is written; and reading one runs nothing from it."""

import os
import pickle
import re
import resource
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from ddpm_lab.errors import UserError
from ddpm_lab.models import checkpoint as module_under_test
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.training.checkpoint import AtomicCheckpointIO, Checkpoints
from ddpm_lab.training.results import log

from .support import CONFIG, Recorder, fit, module, quiet, same, weights_of

pytestmark = quiet


def content(step: int, size: int = 10) -> dict:
    state = {"net.w": torch.full((size,), float(step))}
    return {"config": CONFIG, "shape": [2], "levels": None, "state_dict": state, "global_step": step}


def write(path: Path, step: int, size: int = 10) -> None:
    AtomicCheckpointIO().save_checkpoint(content(step, size), path)


@pytest.fixture
def last(tmp_path) -> Path:
    """A checkpoint of step 1, as a run has it."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    write(path, 1)
    return path


def only_step_one_is_there(path: Path) -> None:
    assert read_checkpoint(path)["global_step"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_what_is_written_is_read(last):
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(last)["state_dict"]["net.w"], torch.ones(10))
    write(last, 2)
    assert read_checkpoint(last)["global_step"] == 2
    assert [file.name for file in last.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("boom"), KeyboardInterrupt()])
def test_saving_that_fails_half_way_leaves_the_last_one_whole(error, last, monkeypatch):
    def half(checkpoint, file) -> None:
        file.write(b"PK\x03\x04half of it")
        raise error

    monkeypatch.setattr(module_under_test.torch, "save", half)
    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match="could not be written" if expected is UserError else None):
        write(last, 2)
    monkeypatch.undo()
    only_step_one_is_there(last)


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failing_rename_or_sync_leaves_the_last_one_whole(step, last, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(UserError, match=rf"{re.escape(str(last))}.*No space left on device"):
        write(last, 2)
    monkeypatch.undo()
    only_step_one_is_there(last)


@pytest.mark.parametrize("size", [5_200, 100_000])
def test_a_disk_that_is_really_full_is_answered(size, last):
    """The kernel refuses to let the file grow: the same error path as a full disk, in the real torch.save."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(UserError, match="could not be written"):
            write(last, 2, size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
        only_step_one_is_there(last)


class Payload:
    """What a malicious pickle would do when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_payload_is_refused_and_not_run(last, tmp_path):
    trap = tmp_path / "trap"
    torch.save({**content(2), "extra": Payload(trap)}, last.with_name("zip.ckpt"))
    last.with_name("plain.ckpt").write_bytes(pickle.dumps({**content(2), "extra": Payload(trap)}))
    for name in ("zip.ckpt", "plain.ckpt"):
        with pytest.raises(UserError, match="not a readable checkpoint"):
            read_checkpoint(last.with_name(name))
    assert not trap.exists()


def test_what_is_not_a_checkpoint_is_answered_and_neighbours_are_named(last):
    bad = last.with_name("bad.ckpt")
    for case in (last.read_bytes()[:-200], last.read_bytes()[:300], b"", b"hello, world\n"):
        bad.write_bytes(case)
        with pytest.raises(UserError, match=rf"{re.escape(str(bad))}.*{re.escape(str(last))}"):
            read_checkpoint(bad)
    with pytest.raises(UserError, match=rf"none\.ckpt.*{re.escape(str(last))}"):
        read_checkpoint(last.with_name("none.ckpt"))


@pytest.mark.parametrize("foreign", [{"state_dict": {}}, {"model": torch.ones(2)}, [1, 2], torch.ones(3)])
def test_a_checkpoint_of_something_else_is_answered(foreign, tmp_path):
    torch.save(foreign, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="a checkpoint, but not one of ddpm-lab's"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_only_readable_neighbours_are_recommended(last):
    last.with_name("cut.ckpt").write_bytes(last.read_bytes()[:300])
    with pytest.raises(UserError) as caught:
        read_checkpoint(last.with_name("none.ckpt"))
    assert "cut.ckpt" not in str(caught.value)


def test_a_reader_never_sees_half_a_file(last):
    """The name always leads to a whole file: one that is open stays what it was."""
    with last.open("rb") as held:
        write(last, 2)
        assert torch.load(held, weights_only=True)["global_step"] == 1
    assert read_checkpoint(last)["global_step"] == 2


def test_what_a_kill_left_is_swept_and_nothing_else(last, tmp_path):
    left, mine = last.with_name("last.ckpt.tmp.4242"), last.with_name("notes.txt")
    left.write_bytes(b"half")
    mine.write_text("keep")
    fit(tmp_path, module(), [Checkpoints(100, None)], steps=1)
    assert sorted(file.name for file in last.parent.iterdir()) == ["last.ckpt", "notes.txt"]


def steps_on_disk(folder: Path) -> dict[str, int]:
    return {path.name: read_checkpoint(path)["global_step"] for path in sorted((folder / "checkpoints").glob("*.ckpt"))}


class Bounds(Recorder):
    """Gives validation the bounds that a test wants it to find."""

    def __init__(self, *bounds: float, key: str = "val/bound_bpd") -> None:
        super().__init__(lambda trainer, _: steps_on_disk(Path(trainer.default_root_dir)))
        self.bounds, self.key = list(bounds), key

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        log(trainer, {self.key: self.bounds.pop(0)})


def test_best_is_written_only_when_the_bound_falls(tmp_path):
    bounds = Bounds(5.0, 3.0, 3.0, 4.0, float("nan"), 2.5, 9.0)
    fit(tmp_path, module(), [bounds, Checkpoints(100, None)], steps=7, validate_every=1)
    assert [seen.get("best.ckpt") for seen in bounds.seen] == [None, 1, 2, 2, 2, 2, 6]  # each seen before its validation


def test_best_of_any_logged_number_in_either_direction(tmp_path):
    scores = Bounds(5.0, 3.0, 7.0, 4.0, key="val/score")
    fit(tmp_path, module(), [scores, Checkpoints(100, monitor="val/score", mode="max")], steps=4, validate_every=1)
    assert steps_on_disk(tmp_path)["best.ckpt"] == 3
    other = Checkpoints(100)
    other.load_state_dict({"best": 7.0, "monitor": "val/score"})
    assert other.best is None
    other.load_state_dict({"best_bpd": 3.5})  # of version 0.1
    assert other.best == 3.5
    other.load_state_dict({"best_bpd": float("inf")})
    assert other.best is None


def test_a_monitored_number_that_is_not_logged_is_said_once(tmp_path, caplog):
    fit(tmp_path, module(), [Bounds(5.0, 3.0), Checkpoints(100, monitor="val/bound")], steps=2, validate_every=1)
    assert "best.ckpt" not in steps_on_disk(tmp_path)
    (line,) = [record.getMessage() for record in caplog.records if "monitor" in record.getMessage()]
    assert "callbacks.checkpoints.monitor=val/bound" in line
    assert "val/bound_bpd" in line


def test_lightnings_own_callbacks_monitor_validation_numbers(tmp_path):
    """EarlyStopping ends the run; ModelCheckpoint keeps the best: with what VLBTerms and others log."""
    bounds = Bounds(5.0, 3.0, 4.0, 4.5, 2.0, 1.0)
    best = ModelCheckpoint(tmp_path / "own", filename="best", monitor="val/bound_bpd")
    trainer = fit(tmp_path, module(), [bounds, EarlyStopping("val/bound_bpd", patience=2), best], steps=6, validate_every=1)
    assert trainer.global_step == 4
    assert read_checkpoint(tmp_path / "own" / "best.ckpt")["global_step"] == 2
    assert not (tmp_path / "checkpoints").exists()


def test_last_and_kept_come_when_they_should(tmp_path):
    seen = Recorder(lambda trainer, _: steps_on_disk(tmp_path))
    fit(tmp_path, module(), [seen, Checkpoints(3, 5)], steps=11)
    assert [found.get("last.ckpt") for found in seen.seen] == [None, None, None, 3, 3, 3, 6, 6, 6, 9, 9]
    assert steps_on_disk(tmp_path) == {"last.ckpt": 11, "step_0000005.ckpt": 5, "step_0000010.ckpt": 10}


def test_a_resumed_run_knows_the_best_bound(tmp_path):
    fit(tmp_path, module(), [Bounds(2.0, 9.0), Checkpoints(100, None)], steps=2, validate_every=1)
    checkpoints = Checkpoints(100, None)
    fit(
        tmp_path,
        module(),
        [Bounds(3.0), checkpoints],
        steps=3,
        validate_every=1,
        checkpoint=tmp_path / "checkpoints" / "last.ckpt",
    )
    assert checkpoints.best == 2.0
    assert steps_on_disk(tmp_path) == {"best.ckpt": 1, "last.ckpt": 3}


def test_a_checkpoint_holds_all_that_a_run_goes_on_with(tmp_path):
    model = module()
    trainer = fit(tmp_path, model, [Checkpoints(100, None)], steps=5)
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert same(list(checkpoint["state_dict"].values()), weights_of(model.model.net))
    moments = checkpoint["optimizer_states"][0]["state"]
    assert same([m["exp_avg"] for m in moments.values()], [s["exp_avg"] for s in trainer.optimizers[0].state.values()])
    assert checkpoint["lr_schedulers"][0]["last_epoch"] == 5
    assert (checkpoint["config"], checkpoint["shape"], checkpoint["levels"]) == (CONFIG, [1, 4, 4], 17)
