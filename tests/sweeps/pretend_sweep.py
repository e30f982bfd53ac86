"""A sweep whose runs only pretend to train: they write what training would leave."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm_lab.cli.sweep import sweep
from ddpm_lab.config.preflight import preflight

PRETENDS = """
import json, os, signal, sys, time
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
value = lambda key: words[key].strip("'")
folder = Path(value("resume") if "resume" in words else os.path.join(*map(value, ("run.root", "run.experiment", "run.name"))))
starts = folder.parent / f"{folder.name}.starts"
start = {"words": sys.argv[1:], "devices": os.environ.get("CUDA_VISIBLE_DEVICES"), "folder_was_there": folder.exists(),
         "rank": os.environ.get("SLURM_PROCID")}
with starts.open("a") as file:
    file.write(json.dumps(start) + "\\n")
if "run.trained_in" in words:
    source = Path(value("run.trained_in"))
    assert (source / "summary.json").exists() and (source / "checkpoints" / "last.ckpt").exists()
if words.get("trainer.fast_dev_run") == "true":
    sys.exit()
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
task = json.loads(os.environ["TASKS"]).get(folder.name, "")
if task == "fail":
    print("error: the loss is not finite", file=sys.stderr)
    sys.exit(2)
if task == "meet":  # both are there, or neither ends
    while len(list(folder.parent.glob("*.starts"))) < 2:
        time.sleep(0.01)
if task == "wait":
    def stop(number, frame):
        (folder / "checkpoints" / "last.ckpt").touch()
        sys.exit(128 + number)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    (folder / "ready").touch()
    time.sleep(60)
(folder / "checkpoints" / "last.ckpt").touch()
(folder / "summary.json").write_text(json.dumps({"step": 1900, "metrics": {
    "bound_bpd": {"value": 3.25, "standard_error": 0.5}, "kl_bpd": {"value": 1.0},
    "pixels_fd": {"value": 0.75}, "pixels_fd_real": {"value": 0.5}}}))
"""


@pytest.fixture
def pretending(tmp_path, monkeypatch, capsys):
    """From a script that takes the place of train.py to a function that runs a command line, tells runs by number what they
    shall do, and returns exit code and what was printed."""

    def with_script(script: str, *flags: str) -> Callable[..., tuple[int, str]]:
        (tmp_path / "train.py").write_text(script)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("ddpm_lab.cli.sweep.program", lambda: [sys.executable, *flags, str(tmp_path / "train.py")])
        monkeypatch.setattr("ddpm_lab.sweeps.runner.POLL", 0.01)

        def start(line: str, **tasks: str) -> tuple[int, str]:
            monkeypatch.setenv("TASKS", json.dumps({name.strip("_"): task for name, task in tasks.items()}))
            code = sweep(preflight(["-m", *line.split()]), [])
            return code, capsys.readouterr().out

        return start

    return with_script


@pytest.fixture
def run(pretending):
    return pretending(PRETENDS)


def only() -> Path:
    (folder,) = Path("outputs/multirun").iterdir()
    return folder


def starts(folder: Path, number: int) -> list[dict]:
    path = folder / f"{number}.starts"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def states(folder: Path) -> list[tuple[str, int | None]]:
    return [(arm["state"], arm["exit_code"]) for arm in json.loads((folder / "sweep.json").read_text())["arms"]]


@pytest.fixture
def heard():
    """Signals as a terminal leaves them: tests may have been started where some are ignored."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
