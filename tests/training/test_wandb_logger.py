"""What a run says reaches wandb, whatever there is of key and network, and no fault of wandb's reaches the run."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb
from helpers import arrays

from ddpm_lab.training.results import close

from .logging_support import callbacks, curves, no_account, offline, whole_run  # noqa: F401
from .support import fit, module, quiet
from .wandb_file import runs

pytestmark = quiet


def test_wandb_holds_curves_pictures_tables_configuration_and_summary(tmp_path):
    folder = tmp_path / "my_run"
    results = whole_run(folder, offline(folder, project="lab", group="g", tags=["a", "b"]))
    (sent_run,) = runs(folder)
    assert (sent_run.run.project, sent_run.run.run_group, list(sent_run.run.tags)) == ("lab", "g", ["a", "b"])
    assert (sent_run.run.display_name, sent_run.exit_code, sent_run.config["seed"]) == ("my_run", 0, 0)
    for key, curve in curves(folder).items():
        assert sent_run.values(key) == pytest.approx(curve, rel=1e-12)
    for key, file in {"samples/grid": "samples/step_0000004.png", "val/vlb_plot": None}.items():
        assert set(sent_run.values(key)) == {2, 4}
        sent = sent_run.files / sent_run.values(key)[4]["path"]
        assert file is None or sent.read_bytes() == (folder / file).read_bytes()
    terms = arrays(folder / "vlb_terms.npz")
    sent = sent_run.table("final/vlb_terms", 4)
    assert sent["columns"] == ["t", "bits/dim", "standard error", "n"]
    np.testing.assert_array_equal(np.array(sent["data"])[:, 1], terms["terms_bpd"])
    final = sent_run.table("final/results", 4)["data"]
    assert final == [[result.label.strip(), result.value, result.se, result.key] for result in results]
    assert {key: sent_run.summary[f"final/{key}"] for key in ("bound_bpd", "kl_bpd")} == {
        result.key: result.value for result in results if result.key in ("bound_bpd", "kl_bpd")
    }


def test_all_that_wandb_writes_is_in_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "run"
    logger = offline(folder)
    logger.log_table("t", ["a"], [[1]], 1)
    logger.close(0)
    (sent_run,) = runs(folder)
    assert sent_run.artifacts
    assert all(Path(path).is_relative_to(folder / "wandb") and Path(path).exists() for path in sent_run.artifacts)
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
    assert line.startswith("wandb: ")
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in line
    assert "\n" not in line
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")
    assert runs(tmp_path)[0].values("a") == {1: 1.0, 2: 2.0}


NO_NETWORK = """
import sys
from ddpm_lab.training import wandb_logger
wandb_logger.INIT_TIMEOUT = 1.0
logger = wandb_logger.Wandb("online", "p", None, None, [], None, "none", run_dir=sys.argv[1])
logger.log_metrics({"a": 1.0}, 1)
logger.close(0)
"""


@pytest.mark.soak
def test_without_a_network_it_is_one_line_and_offline(tmp_path):
    folder, key = tmp_path / "run", "0123456789" * 4
    environment = {**os.environ, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": key}
    arguments = [sys.executable, "-c", NO_NETWORK, str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=True)
    (line,) = (done.stdout + done.stderr).splitlines()
    assert line.startswith("wandb: ")
    assert "wandb sync" in line
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
        folder,
        module(),
        callbacks(),
        steps=6,
        validate_every=2,
        loggers=[offline(folder)],
        checkpoint=folder / "checkpoints" / "last.ckpt",
    )
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
