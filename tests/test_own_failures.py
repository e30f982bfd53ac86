"""What an option of a user's own raises is told in one line, with its key, by the process that met it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import Process
from helpers import FEW_HELD_OUT, ROOT, TINY_WITH_WHOLE_NET, command, command_here, environment

from ddpm_lab import processes, ranks
from ddpm_lab.cli.evaluate import main as evaluate
from ddpm_lab.config.instantiate import permit

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own
SOURCE = """
import os
import torch
from ddpm_lab.core.loss import Simple
from ddpm_lab.core.sampler import Ancestral
from ddpm_lab.domains import Given


def fail_if(place):
    if os.environ.get("FAILS") == place and os.environ.get("LOCAL_RANK", "0") == os.environ.get("FAILING_RANK", "0"):
        raise KeyError("a mistake\\nin two lines")


class Net(torch.nn.Module):
    def __init__(
        self, in_channels: Given[int], out_channels: Given[int], size: Given[int], channels: int = 8, groups: int = 4
    ) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(in_channels, out_channels, 3, padding=1)
        fail_if("init")

    def forward(self, x, t):
        fail_if("net")
        return self.conv(x)


class Loss(Simple):
    def parts(self, diffusion, out, noised):
        fail_if("loss")
        return super().parts(diffusion, out, noised)


class Sampler(Ancestral):
    def step(self, *arguments):
        fail_if("sampler")
        return super().step(*arguments)
"""
OPTIONS = {
    "net": "_target_: failing_code.Net\nchannels: 8\ngroups: 4\n",
    "loss": "_target_: failing_code.Loss\n",
    "sampler": "_target_: failing_code.Sampler\nsteps: null\nspacing: trailing\nclip: null\n",
}
RUN = [*TINY_WITH_WHOLE_NET, *FEW_HELD_OUT, *(f"{group}=own" for group in OPTIONS)]
KEYS = {"init": "net", "net": "net", "loss": "loss", "sampler": "sampler"}
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A folder with the code, and conf/ with its options."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "failing_code.py").write_text(SOURCE)
    for group, text in OPTIONS.items():
        (folder / "conf" / group).mkdir(parents=True)
        (folder / "conf" / group / "own.yaml").write_text(text)
    return folder


@pytest.fixture
def flag(own, monkeypatch):
    monkeypatch.syspath_prepend(own)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(own), os.environ.get("PYTHONPATH")])))
    yield f"--config-dir={own / 'conf'}"
    permit([])


def assert_told(line: str, place: str, *more: str) -> None:
    for word in (f": {KEYS[place]}: failing_code.", "failing_code.py, line ", "KeyError", "a mistake", *more):
        assert word in line


def without_tail(text: str) -> bool:
    return "HYDRA_FULL_ERROR" not in text


@pytest.mark.parametrize("place", KEYS)
def test_training_tells_which_option_failed(place, flag, monkeypatch, tmp_path):
    monkeypatch.setenv("FAILS", place)
    done = command_here(*RUN, "run.name=x", flag, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert without_tail(done.stderr)
    assert_told(done.stderr.splitlines()[-1], place)
    log = tmp_path / "outputs" / "smoke" / "x" / "train.log"
    assert log.exists() == (place != "init")
    assert place == "init" or "Traceback" in log.read_text()


@pytest.fixture(scope="module")
def whole(own, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(own)
        assert command_here(*RUN, "run.name=x", f"--config-dir={own / 'conf'}", cwd=folder).returncode == 0
    return folder / "outputs" / "smoke" / "x"


@pytest.mark.parametrize("place", [place for place in KEYS if place != "loss"])
def test_evaluation_tells_which_option_failed(place, whole, flag, monkeypatch, capsys):
    monkeypatch.setenv("FAILS", place)
    few = ["quality.n=4", "quality.grid=0", "nll.n=4", "nll.train_stride=0"]
    monkeypatch.setattr("sys.argv", ["evaluate.py", f"ckpt={whole}", *few, f"name={place}", flag])
    with pytest.raises(SystemExit) as ended:
        evaluate()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert without_tail(told)
    assert_told(told.splitlines()[-1], place)


@pytest.mark.slow
def test_a_sweep_tells_which_option_failed(flag, monkeypatch, tmp_path):
    monkeypatch.setenv("FAILS", "loss")
    words = ["-m", *RUN, "seed=1,2", "sweep.name=s", flag]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert without_tail(done.stdout + done.stderr)
    lines = [line for line in done.stdout.splitlines() if "failed: " in line]
    assert len(lines) == 2
    for line in lines:
        assert_told(line, "loss")


def of_two(flag: str, cwd: Path, *words: str) -> subprocess.Popen:
    values = dict(word.split("=", 1) for word in (*RUN, *TWO, "run.name=x", *words))  # the later one wins
    arguments = [sys.executable, ROOT / "train.py", *(f"{key}={value}" for key, value in values.items()), flag]
    return Process(arguments, cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_process_that_fails_is_named_and_the_other_ends_with_it(flag, monkeypatch, tmp_path):
    monkeypatch.setenv("FAILS", "net")
    monkeypatch.setenv("FAILING_RANK", "1")
    process = of_two(flag, tmp_path)
    told = process.communicate()[1]
    assert process.returncode == 1
    assert "Traceback" not in told
    (line,) = [line for line in told.replace("\r", "\n").splitlines() if "error" in line]
    assert_told(line, "net", "process 1")
    assert "KeyError" in (tmp_path / "outputs" / "smoke" / "x" / "train.log").read_text()


@pytest.mark.slow
def test_a_process_that_was_killed_is_named(flag, tmp_path):
    process = of_two(flag, tmp_path, "trainer.max_steps=100000", "trainer.validate_every=100000")
    rows = tmp_path / "outputs" / "smoke" / "x" / "metrics.csv"
    while not rows.exists():
        assert process.poll() is None
        time.sleep(0.05)
    *_, child = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())  # the last that began
    os.kill(child, signal.SIGKILL)
    told = process.communicate()[1]
    assert "Traceback" not in told
    assert process.returncode == -signal.SIGKILL or "process 1 was ended by signal 9" in told  # Lightning may be quicker


@pytest.mark.parametrize(("backend", "code"), [("gloo", 0), ("nccl", 2)])
def test_over_gloo_process_0_is_left_to_end_by_itself(backend, code, monkeypatch):
    assert processes.exit_code(2) == 2
    monkeypatch.setenv(processes.FOLDER, "x")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: backend)
    assert processes.exit_code(2) == code


def test_errors_of_a_mistake_are_no_loss_of_a_process():
    assert not ranks.is_lost(RuntimeError("a shape"))
    assert not ranks.is_lost(KeyError("gloo"))
