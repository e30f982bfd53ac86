"""A disk that is full at any moment ends a command in one line; once there is room, it goes on to the same numbers."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import FEW_HELD_OUT, TINY_WITH_WHOLE_NET, command_here, digest

from ddpm_lab.cli.evaluate import main
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.features import FeatureStore
from ddpm_lab.models.checkpoint import read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own
RUN = [*TINY_WITH_WHOLE_NET, *FEW_HELD_OUT, "callbacks.checkpoints.last_every=1"]
EVALUATION = ["name=e", "nll.n=10", "nll.terms=null", "nll.train_stride=0", "quality.n=12"]


class Disk:
    """A file system in memory, of which a file takes all but so many KiB."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.filler = folder, folder / "filler"

    def leave(self, kib: int | None) -> None:
        """None: all."""
        self.filler.unlink(missing_ok=True)
        if kib is not None:
            found = os.statvfs(self.folder)
            with self.filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - kib * 1024)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert command_here(*RUN, "run.name=x", cwd=folder).returncode == 0
    return folder / "outputs" / "smoke" / "x"


def evaluated(folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """The exit code, and what was told."""
    monkeypatch.setattr("sys.argv", ["evaluate.py", f"ckpt={folder}", *EVALUATION])
    capsys.readouterr()
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, capsys.readouterr().err


def numbers(folder: Path) -> list[str]:
    """All but how long it took."""
    rows = (folder / "eval" / "e" / "evaluation.csv").read_text().splitlines()
    return [row for row in rows if not row.startswith("sampling_seconds")]


def assert_one_line(told: str, code: int) -> None:
    """Of a command that ended with `code`; a bar writes over its own, also from below one that another test left open."""
    lines = told.replace("\r", "\n").replace("\x1b[A", "\n").splitlines()
    assert code in (0, 2)
    assert [line[:7] for line in lines if "rror" in line] == ["error: "] * (code == 2), told
    assert "Traceback" not in told


def test_an_evaluation_goes_on_to_the_same_numbers(disk, whole, tmp_path, capsys, monkeypatch):
    unbroken = shutil.copytree(whole, tmp_path / "unbroken")
    assert evaluated(unbroken, capsys, monkeypatch)[0] == 0
    run, codes = shutil.copytree(whole, disk.folder / "run"), []
    for kib in (0, 16, 40, None):
        disk.leave(kib)
        code, told = evaluated(run, capsys, monkeypatch)
        assert_one_line(told, code)
        codes.append(code)
    assert codes == [2, 2, 2, 0]
    assert numbers(run) == numbers(unbroken)


def test_training_goes_on_from_the_last_checkpoint_that_had_room(disk, whole):
    ended, run = [], disk.folder / "smoke" / "x"
    last = run / "checkpoints" / "last.ckpt"
    for kib in (8, 100, 1000, 1200, None):
        disk.leave(kib)
        begun = last.exists()
        words = [f"resume={run}"] if begun else [*RUN, f"run.root={disk.folder}", "run.name=x"]
        done = command_here(*words, cwd=disk.folder)
        assert_one_line(done.stderr, done.returncode)
        assert not begun or read_checkpoint(last)["global_step"] > 0
        ended.append((done.returncode, begun))
    assert {(2, False), (2, True)} <= set(ended)
    assert ended[-1][0] == 0
    assert digest(run) == digest(whole)


def test_rows_that_have_no_room_are_refused_before_they_are_written(disk):
    disk.leave(64)
    with pytest.raises(UserError, match=r"features\.npy"):
        FeatureStore(1024, disk.folder, in_memory=0).add(torch.zeros(1, 64))
    disk.leave(None)
    FeatureStore(1024, disk.folder, in_memory=0).add(torch.zeros(1, 64))
