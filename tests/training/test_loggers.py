"""What a run says reaches each logger, is read back by the logger's own means, and leaves metrics.csv as it was."""

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ddpm_lab.errors import UserError
from ddpm_lab.training.callbacks.bound import VLBTerms
from ddpm_lab.training.callbacks.progress import LossQuartiles
from ddpm_lab.training.callbacks.samples import Samples
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.csv_logger import CsvLogger
from ddpm_lab.training.final import measure
from ddpm_lab.training.loggers import every, with_csv
from ddpm_lab.training.results import close, log, log_final
from ddpm_lab.training.tensorboard_logger import LONGEST_TEXT, TensorBoard
from ddpm_lab.training.wandb_logger import Wandb

from .support import T, fit, module, quiet
from .wandb_file import WandbRun, runs

pytestmark = quiet


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No key, and nothing of wandb's outside the folder of the test."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, place in {"WANDB_CACHE_DIR": "cache", "WANDB_CONFIG_DIR": "config", "NETRC": "netrc"}.items():
        monkeypatch.setenv(name, str(tmp_path / "home" / place))


def offline(folder: Path, mode: str = "offline", **about) -> Wandb:
    return Wandb(
        **{"project": "p", "entity": None, "group": None, "tags": [], "name": None, **about}, mode=mode, run_dir=folder
    )


def callbacks() -> list[Callback]:
    return [Samples(4, 2, 3, 0), VLBTerms(4, 1, 0), LossQuartiles(), Checkpoints(100, None)]


def whole_run(folder: Path, *loggers, steps: int = 4):
    """Training, two validations and the final measurement."""
    model = module()
    trainer = fit(folder, model, callbacks(), steps=steps, validate_every=2, loggers=loggers)
    results = measure(trainer, model)
    log_final(trainer, results)
    close(trainer, 0)
    return results


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Of metrics.csv, by name and step."""
    rows = table(folder)
    return {key: {int(row["step"]): float(row[key]) for row in rows if row[key]} for key in rows[0] if key != "step"}


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
    assert json.loads(text(found, "config").split("```")[1].removeprefix("json")) == {"seed": 0}
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


# --- Weights & Biases ---------------------------------------------------------------------------------------------------


def test_wandb_holds_curves_pictures_tables_configuration_and_summary(tmp_path):
    folder = tmp_path / "my_run"
    results = whole_run(folder, offline(folder, project="lab", group="g", tags=["a", "b"]))
    (found,) = runs(folder)
    assert (found.run.project, found.run.run_group, list(found.run.tags)) == ("lab", "g", ["a", "b"])
    assert (found.run.display_name, found.exit_code, found.config["seed"]) == ("my_run", 0, 0)
    for key, curve in curves(folder).items():
        assert found.values(key) == pytest.approx(curve, rel=1e-12)
    for key, file in {"samples/grid": "samples/step_0000004.png", "val/vlb_plot": None}.items():
        assert set(found.values(key)) == {2, 4}
        sent = found.files / found.values(key)[4]["path"]
        assert file is None or sent.read_bytes() == (folder / file).read_bytes()
    terms = np.load(folder / "vlb_terms.npz")
    sent = found.table("final/vlb_terms", 4)
    assert sent["columns"] == ["t", "bits/dim", "standard error", "n"]
    np.testing.assert_array_equal(np.array(sent["data"])[:, 1], terms["terms_bpd"])
    final = found.table("final/results", 4)["data"]
    assert final == [[result.label.strip(), result.value, result.se, result.key] for result in results]
    assert {key: found.summary[f"final/{key}"] for key in ("bound_bpd", "kl_bpd")} == {
        result.key: result.value for result in results if result.key in ("bound_bpd", "kl_bpd")
    }


def test_all_that_wandb_writes_is_in_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "run"
    logger = offline(folder)
    logger.log_table("t", ["a"], [[1]], 1)
    logger.close(0)
    (found,) = runs(folder)
    assert found.artifacts
    assert all(Path(path).is_relative_to(folder / "wandb") and Path(path).exists() for path in found.artifacts)
    assert "WANDB_DATA_DIR" not in os.environ
    assert wandb.run is None  # nor does it take the place of a run of the user's own


def test_disabled_writes_nothing_and_needs_no_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    whole_run(tmp_path, offline(tmp_path, "disabled"))
    assert not (tmp_path / "wandb").exists()


def ours(caplog) -> list[str]:
    return [record.message for record in caplog.records if record.name == "ddpm_lab"]


def test_without_a_key_it_is_one_line_and_offline(tmp_path, caplog, capfd):
    logger = offline(tmp_path, "online")
    with caplog.at_level(logging.INFO, "ddpm_lab"):
        logger.log_metrics({"a": 1.0}, 1)
        logger.log_metrics({"a": 2.0}, 2)
        logger.close(0)
    (line,) = ours(caplog)
    assert line.startswith("wandb: No API key configured")
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in line
    assert "\n" not in line
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert runs(tmp_path)[0].values("a") == {1: 1.0, 2: 2.0}


NO_NETWORK = """
import sys
from ddpm_lab.training import wandb_logger
wandb_logger.TIMEOUT = 1.0
logger = wandb_logger.Wandb("online", "p", None, None, [], None, sys.argv[1])
logger.log_metrics({"a": 1.0}, 1)
logger.close(0)
"""


def test_without_a_network_it_is_one_line_and_offline(tmp_path):
    folder, key = tmp_path / "run", "0123456789" * 4
    environment = {**os.environ, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": key}
    arguments = [sys.executable, "-c", NO_NETWORK, str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith("wandb: ")
    assert "offline instead" in line
    assert runs(folder)[0].values("a") == {1: 1.0}


def test_a_fault_of_wandbs_is_one_line_and_training_goes_on(tmp_path, caplog):
    logger = offline(tmp_path)
    logger.log_metrics({"a": 1.0}, 1)
    run = logger._run

    class Broken:
        def log(self, *_, **__) -> None:
            raise ConnectionResetError("Connection lost")

    logger._run = Broken()
    with caplog.at_level(logging.WARNING, "ddpm_lab"):
        for step in (2, 3):
            logger.log_metrics({"a": 2.0}, step)
        logger.close(0)
    assert ours(caplog) == ["wandb: Connection lost; the run goes on without it"]
    run.finish()


def test_a_resumed_run_goes_on_with_its_id_and_its_steps(tmp_path):
    """Of a folder; another folder is another run."""
    folder = tmp_path / "a"
    fit(folder, module(), callbacks(), steps=3, validate_every=2, loggers=[first := offline(folder)])
    first.close(130)
    trainer = fit(
        folder, module(), callbacks(), steps=6, validate_every=2, loggers=[offline(folder)],
        checkpoint=folder / "checkpoints" / "last.ckpt",
    )  # fmt: skip
    close(trainer, 0)
    broken, resumed = runs(folder)
    assert broken.run.run_id == resumed.run.run_id
    assert (broken.exit_code, resumed.exit_code) == (130, 0)
    assert list(broken.values("train/loss")) == [1, 2, 3]
    assert list(resumed.values("train/loss")) == [4, 5, 6]
    other = offline(tmp_path / "b")
    other.log_metrics({"a": 1.0}, 1)
    other.close(0)
    assert runs(tmp_path / "b")[0].run.run_id != broken.run.run_id


class Online:
    """wandb.init that answers as if there were a server."""

    def __init__(self) -> None:
        self.asked: list[dict] = []

    def __call__(self, **arguments):
        self.asked.append(arguments)
        return wandb.sdk.wandb_init.init(**{**arguments, "mode": "offline", "resume": None})


def test_online_asks_to_resume_the_same_run(tmp_path, monkeypatch):
    server = Online()
    monkeypatch.setattr(wandb, "init", server)
    for _ in range(2):
        logger = offline(tmp_path, "online")
        logger.log_metrics({"a": 1.0}, 1)
        logger.close(0)
    first, second = server.asked
    assert (first["mode"], first["resume"], first["id"]) == ("online", "allow", second["id"])


# --- all of them --------------------------------------------------------------------------------------------------------


def test_metrics_csv_is_the_same_beside_them(tmp_path):
    chosen = every("offline", "p", None, None, [], None, tmp_path / "all")
    whole_run(tmp_path / "all", *chosen)
    whole_run(tmp_path / "csv")
    assert (tmp_path / "all" / "metrics.csv").read_bytes() == (tmp_path / "csv" / "metrics.csv").read_bytes()
    assert isinstance(runs(tmp_path / "all")[0], WandbRun)
    assert events(tmp_path / "all").Tags()["scalars"]


def test_metrics_csv_is_always_there_and_once(tmp_path):
    board = TensorBoard(tmp_path)
    assert [type(logger) for logger in with_csv(board, tmp_path)] == [CsvLogger, TensorBoard]
    assert [type(logger) for logger in with_csv(CsvLogger(tmp_path), tmp_path)] == [CsvLogger]


@pytest.mark.parametrize(("package", "make"), [("wandb", offline), ("tensorboard", TensorBoard)])
def test_a_missing_package_is_answered_with_what_to_install(package, make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"logger={package}: .* pip install 'ddpm-lab\[{package}\]'"):
        make(tmp_path)


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    for logger in [CsvLogger(tmp_path), *every("offline", "p", None, None, [], None, tmp_path)]:
        logger.log_hyperparams({"a": 1})
        logger.log_metrics({"a": 1.0}, 1)
        for method, what in {"log_picture": [tmp_path], "log_table": [["a"], [[1]]]}.items():
            if hasattr(logger, method):
                getattr(logger, method)("key", *what, 1)
        logger.close(0)
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
    assert table(tmp_path / "x")[-1]["a"] == "1.0"
