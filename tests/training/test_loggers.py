"""What a run says reaches each logger, is read back by the logger's own means, and leaves metrics.csv as it was."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm_lab.errors import UserError
from ddpm_lab.training.callbacks.samples import Samples
from ddpm_lab.training.csv_logger import CsvLogger
from ddpm_lab.training.loggers import every, with_csv
from ddpm_lab.training.results import close, log, log_folder, log_picture, log_table
from ddpm_lab.training.tensorboard_logger import LONGEST_TEXT, TensorBoard

from .logging_support import callbacks, curves, no_account, offline, whole_run  # noqa: F401
from .support import CONFIG, T, fit, module, quiet, table
from .wandb_file import WandbRun, runs

pytestmark = quiet


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


# --- TensorBoard --------------------------------------------------------------------------------------------------------


def text(found: EventAccumulator, key: str) -> str:
    return found.Tensors(f"{key}/text_summary")[-1].tensor_proto.string_val[0].decode()


def test_tensorboard_holds_curves_pictures_configuration_and_final_table(tmp_path):
    results = whole_run(tmp_path, TensorBoard(tmp_path))
    found = events(tmp_path)
    for key, curve in curves(tmp_path).items():
        assert {event.step: event.value for event in found.Scalars(key)} == pytest.approx(curve, rel=1e-6)
    assert {event.step for event in found.Images("samples/grid")} == {2, 4}
    assert {event.step for event in found.Images("samples/progression")} == {2, 4}
    assert {event.step for event in found.Images("val/vlb_plot")} == {2, 4}
    (tmp_path / "back.png").write_bytes(found.Images("samples/grid")[-1].encoded_image_string)
    drawn = Image.open(tmp_path / "samples" / "step_0000004.png").convert("RGB")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "back.png")), np.asarray(drawn))
    assert json.loads(text(found, "config").split("```")[1].removeprefix("json")) == CONFIG
    final = text(found, "final/results")
    assert all(f"| {result.value} |" in final and f"| {result.key} |" in final for result in results)
    assert text(found, "val/vlb_terms").count("\n") == T + 1


def test_a_long_table_is_no_text(tmp_path):
    logger = TensorBoard(tmp_path)
    logger.log_table("short", ["a"], [[None]] * LONGEST_TEXT, 1)
    logger.log_table("long", ["a"], [[1]] * (LONGEST_TEXT + 1), 1)
    logger.close(0)
    assert events(tmp_path).Tags()["tensors"] == ["short/text_summary"]


def test_a_resumed_tensorboard_hides_what_the_checkpoint_does_not_know(tmp_path):
    first = TensorBoard(tmp_path)
    for step in (1, 2, 3, 4):
        first.log_metrics({"a": step}, step)
    second = TensorBoard(tmp_path)
    second.keep_until(2)
    for step in (3, 4, 5):
        second.log_metrics({"a": 10 * step}, step)
    second.close(0)
    assert {e.step: e.value for e in events(tmp_path).Scalars("a")} == {1: 1, 2: 2, 3: 30, 4: 40, 5: 50}
    assert len(events(tmp_path).Scalars("a")) == 5


def test_events_are_on_disk_at_once(tmp_path):
    logger = TensorBoard(tmp_path)
    logger.log_metrics({"a": 1.0}, 7)
    assert [event.step for event in events(tmp_path).Scalars("a")] == [7]
    logger.close(0)


# --- all of them --------------------------------------------------------------------------------------------------------


def test_metrics_csv_is_the_same_beside_them(tmp_path):
    chosen = every(mode="offline", project="p", run_dir=tmp_path / "all")
    whole_run(tmp_path / "all", *chosen)
    whole_run(tmp_path / "csv")
    assert (tmp_path / "all" / "metrics.csv").read_bytes() == (tmp_path / "csv" / "metrics.csv").read_bytes()
    assert isinstance(runs(tmp_path / "all")[0], WandbRun)
    assert events(tmp_path / "all").Tags()["scalars"]


def test_metrics_csv_is_always_there_and_once(tmp_path):
    board = TensorBoard(tmp_path)
    assert [type(logger) for logger in with_csv(board, tmp_path)] == [CsvLogger, TensorBoard]
    assert [type(logger) for logger in with_csv(CsvLogger(tmp_path), tmp_path)] == [CsvLogger]


def test_a_missing_package_is_answered_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"logger=tensorboard: .* pip install 'ddpm-lab\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    loggers = [CsvLogger(tmp_path), *every(mode="offline", project="p", run_dir=tmp_path)]
    for logger in loggers:  # what Lightning calls itself
        logger.log_hyperparams({"a": 1})
        logger.log_metrics({"a": 1.0}, 1)
    other = SimpleNamespace(loggers=loggers, is_global_zero=False, global_step=1, default_root_dir=tmp_path)
    log_picture(other, "key", tmp_path)
    log_table(other, "key", ["a"], [[1]])
    log_folder(other)
    close(other, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_logger_is_told_what_it_has_a_method_for(tmp_path):
    class Own(CsvLogger):
        told: list[str] = []  # noqa: RUF012

        def log_picture(self, key: str, path: Path, step: int) -> None:
            self.told.append(f"{key} {path.name} {step}")

    trainer = fit(tmp_path, module(), [Samples(2, 1, 2, 0)], steps=2, validate_every=2, loggers=[Own(tmp_path / "x")])
    assert Own.told == ["samples/grid step_0000002.png 2", "samples/progression progression_0000002.png 2"]
    (tmp_path / "x").mkdir()
    log(trainer, {"a": 1.0})
    assert table(tmp_path / "x")[-1]["a"] == 1.0
