"""What an unlucky or a hostile world does to a run ends in one clear line, and nothing that was kept is lost."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import Process
from helpers import FEW_HELD_OUT, ROOT, TINY, command_here, digest, environment

from ddpm_lab.cli.arguments import run as run_command
from ddpm_lab.cli.evaluate import main as evaluate
from ddpm_lab.errors import UserError
from ddpm_lab.files import LOCK, held, new_folder, read_yaml
from ddpm_lab.models.checkpoint import read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own
RUN = [*TINY, *FEW_HELD_OUT, "callbacks.checkpoints.keep_every=1"]
LONG = [word for word in RUN if not word.startswith(("trainer.max_steps", "trainer.validate_every"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert command_here(*RUN, "run.name=run", cwd=folder).returncode == 0
    return folder / "outputs" / "smoke" / "run"


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def refused(*arguments: str, cwd: Path) -> str:
    done = command_here(*arguments, cwd=cwd)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_folders_of_one_second_are_different(tmp_path):
    made = [new_folder(tmp_path, "run.root") for _ in range(20)]
    assert len(set(made)) == 20
    assert all(folder.is_dir() for folder in made)


def test_a_folder_is_held_by_one_process_and_says_by_whom(run):
    with held(run, "run.root"):
        told = refused(f"resume={run}", "trainer.max_steps=3", cwd=run.parent)
        assert str(os.getpid()) in told
        assert str(run) in told
    assert command_here(f"resume={run}", "trainer.max_steps=3", cwd=run.parent).returncode == 0


HOLDING = """
import sys, time
from pathlib import Path
from ddpm_lab.files import held
with held(Path(sys.argv[1]), "x"):
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match=str(process.pid)), held(tmp_path, "x"):
            pass
        process.kill()
    with held(tmp_path, "x"):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_run_that_is_refused_leaves_no_folder(tmp_path):
    refused(*RUN, "data.batch_size=15", "trainer.accumulate=2", cwd=tmp_path)
    assert not (tmp_path / "outputs").exists()


def test_a_damaged_configuration_is_that_of_the_checkpoint(run, whole):
    (run / "config.yaml").write_text("")
    assert command_here(f"resume={run}", "trainer.max_steps=3", cwd=run.parent).returncode == 0
    before, now = (read_yaml(folder / "config.yaml") for folder in (whole, run))
    assert (before["data"], before["schedule"], now["trainer"]["max_steps"]) == (now["data"], now["schedule"], 3)


@pytest.mark.parametrize(("old", "new"), [("T: 10", "T: 11"), ("batch_size: 16", "batch_size: 8"), ("lr: 0.001", "lr: 0.1")])
def test_a_configuration_that_was_edited_is_refused(old, new, run):
    path = run / "config.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    told = refused(f"resume={run}", "trainer.max_steps=3", cwd=run.parent)
    assert new.replace(": ", "=") in told
    assert old.partition(" ")[2] in told
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_a_secret_of_the_reader_is_not_looked_up(run, monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    path = run / "config.yaml"
    path.write_text(path.read_text() + "names: ${oc.env:SECRET}\n")
    told = refused(f"resume={run}", "trainer.max_steps=3", cwd=run.parent)
    assert "${oc.env:SECRET}" in told
    assert "hidden" not in told


def test_a_damaged_last_checkpoint_gives_way_to_the_newest(run, whole):
    os.utime(run / "checkpoints" / "step_0000001.ckpt")
    for name in ("last", "best", "step_0000002"):
        path = run / "checkpoints" / f"{name}.ckpt"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    (run / "summary.json").unlink()
    done = command_here(f"resume={run}", cwd=run.parent)
    assert done.returncode == 0
    assert "last.ckpt is damaged: going on from" in done.stderr
    assert "step_0000001.ckpt" in done.stderr
    assert digest(run) == digest(whole)


def test_a_run_without_a_checkpoint_begins_again_under_its_name(whole, tmp_path):
    folder = tmp_path / "outputs" / "smoke" / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints")
    assert "exists" in refused(*RUN, "run.name=run", cwd=tmp_path)
    (folder / "summary.json").unlink()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / ".last.tmp.1.ckpt").write_bytes(b"half")  # as a kill while the first is written leaves it
    assert "exists" in refused(*RUN, "optim.lr=0.1", "run.name=run", cwd=tmp_path)
    assert command_here(*RUN, "run.name=run", cwd=tmp_path).returncode == 0
    assert digest(folder) == digest(whole)
    assert (folder / "metrics.csv").read_text().count("\n") == (whole / "metrics.csv").read_text().count("\n")


def test_a_run_killed_before_its_configuration_was_written_begins_again(whole, tmp_path):
    folder = tmp_path / "outputs" / "smoke" / "run"
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    assert "exists" in refused(*RUN, "run.name=run", cwd=tmp_path)
    (folder / "notes.txt").unlink()
    (folder / LOCK).write_text("process 1 on a machine")
    (folder / ".config.tmp.1.yaml").write_text("half")
    with held(folder, "run.root"):  # by another process that has just begun
        assert "in use" in refused(*RUN, "run.name=run", cwd=tmp_path)
    assert command_here(*RUN, "run.name=run", cwd=tmp_path).returncode == 0
    assert digest(folder) == digest(whole)


def test_a_run_refused_once_its_data_are_read_leaves_its_name_to_the_corrected_command(whole, tmp_path):
    few = [*TINY, "data.val_fraction=0.005", "callbacks.vlb_terms.stride=5"]
    assert "needs at least" in refused(*few, "run.name=run", cwd=tmp_path)
    folder = tmp_path / "outputs" / "smoke" / "run"
    with held(folder, "run.root"):  # another that has not made its first step
        assert "in use" in refused(*RUN, "run.name=run", cwd=tmp_path)
    assert command_here(*RUN, "run.name=run", cwd=tmp_path).returncode == 0
    assert digest(folder) == digest(whole)
    assert "needs at least" in (folder / "train.log").read_text()
    assert "exists" in refused(*RUN, "optim.lr=0.1", "run.name=run", cwd=tmp_path)


BUSY = """
import signal, sys, time
from ddpm_lab.cli.arguments import run
run(lambda argv: (print("ready", flush=True), time.sleep(60)), stopped="stopped; what was measured is kept")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_with_a_line_and_its_code(number):
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, told = process.communicate()
    assert (process.returncode, told) == (128 + number, "\nstopped; what was measured is kept\n")


@pytest.mark.soak
@pytest.mark.parametrize(("program", "number"), [("train.py", signal.SIGHUP), ("evaluate.py", signal.SIGTERM)])
def test_a_signal_at_any_moment_is_no_traceback(number, program, run, tmp_path):
    """While it imports, builds, trains or measures; SIGHUP with the terminal gone."""
    words = [*LONG, "trainer.max_steps=500"] if program == "train.py" else [f"ckpt={run}"]
    for delay in (0.15, 0.5, 1.5, 4.0, 9.0):
        with (tmp_path / "told").open("w+") as told:
            process = subprocess.Popen(
                [sys.executable, ROOT / program, *words], cwd=tmp_path, env=environment(), stdout=told, stderr=told
            )
            time.sleep(delay)
            process.send_signal(number)
            assert process.wait() in (0, 128 + number, -number)  # -number: before Python itself has begun
            told.seek(0)
            assert "Traceback" not in told.read()


def test_sighup_saves_the_step_and_ends_with_129(tmp_path):
    words = [*LONG, "trainer.max_steps=100000", "callbacks.checkpoints.last_every=5", "run.name=hung"]
    process = Process([sys.executable, ROOT / "train.py", *words], cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    folder = tmp_path / "outputs" / "smoke" / "hung"
    while process.poll() is None and not (folder / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 129
    log = (folder / "train.log").read_text()
    step = read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    assert f"stopped at step {step}" in log


def test_a_file_of_aliases_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "bomb.yaml").write_text("\n".join(lines))
    assert "bomb.yaml" in refused("schedule=bomb", f"--config-dir={tmp_path}", cwd=tmp_path)


def test_a_key_that_is_no_text_is_named(tmp_path):
    (tmp_path / "schedule").mkdir()
    (tmp_path / "schedule" / "own.yaml").write_text("_target_: ddpm_lab.core.schedule.linear\n1: 3\n")
    told = refused("schedule=own", f"--config-dir={tmp_path}", cwd=tmp_path)
    assert "own.yaml" in told
    assert "key 1" in told


@pytest.mark.parametrize("word", ["schedule.T=1000001", "data.batch_size=" + "1" + "0" * 40, "seed=" + "9" * 400])
def test_numbers_have_bounds(word, tmp_path):
    key = word.partition("=")[0]
    assert refused(*TINY, word, cwd=tmp_path).startswith(f"error: {key}=")


def test_a_full_disk_ends_any_command_with_a_line(capsys):
    def full(argv: list[str]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "evaluation.csv")

    with pytest.raises(SystemExit) as ended:
        run_command(full)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: evaluation.csv: could not be written (No space left on device)")


def test_a_process_without_free_descriptors_says_so_in_a_line(capsys):
    def opens(argv: list[str]) -> None:
        raise OSError(errno.EMFILE, "Too many open files", "config.yaml")

    with pytest.raises(SystemExit) as ended:
        run_command(opens)
    told = capsys.readouterr().err
    assert (ended.value.code, told.count("\n")) == (2, 1)
    assert all(word in told for word in ("config.yaml", "ulimit -n"))


OWN = """
from lightning import Callback


class Failing(Callback):
    def on_train_batch_end(self, *_):
        raise KeyError("a mistake")
"""


def test_a_callback_of_ones_own_that_fails_is_named_with_its_place(tmp_path, monkeypatch):
    (tmp_path / "failing_callback.py").write_text(OWN)
    (tmp_path / "conf" / "callbacks").mkdir(parents=True)
    lines = ["defaults: [default, _self_]", "own:", "  _target_: failing_callback.Failing"]
    (tmp_path / "conf" / "callbacks" / "own.yaml").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [*RUN, "callbacks=own", "run.name=run", f"--config-dir={tmp_path / 'conf'}"]
    done = command_here(*words, cwd=tmp_path)
    told = done.stderr.splitlines()[-1]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in ("failing_callback.Failing", "failing_callback.py, line 7", "KeyError", "a mistake"):
        assert word in told
    assert "Traceback" in (tmp_path / "outputs" / "smoke" / "run" / "train.log").read_text()


def test_two_evaluations_share_no_folder(run, monkeypatch):
    few = ["quality.n=0", "nll.n=4", "nll.train_stride=0"]
    for _ in range(2):
        monkeypatch.setattr("sys.argv", ["evaluate.py", f"ckpt={run}", *few])
        evaluate()
    made = [path for path in (run / "eval").iterdir() if path.name != "work"]
    assert len(made) == 2
    monkeypatch.setattr("sys.argv", ["evaluate.py", f"ckpt={run}", f"name={made[0].name}", *few])
    with held(made[0], "name"), pytest.raises(SystemExit) as ended:
        evaluate()
    assert ended.value.code == 2
