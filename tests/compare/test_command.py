"""`python compare.py` as a user types it: its options, its mistakes in one line, and what it costs."""

import contextlib
import io
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from helpers import ROOT, environment

from compare.synthetic import config, sweep, write_run
from ddpm_lab.cli.compare import main, parsed
from ddpm_lab.errors import UserError


def command(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, on a strict terminal."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code: Any = 0
    asked = patch.object(sys, "argv", ["compare.py", *map(str, arguments)])
    with asked, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))


def said(*arguments: str | Path) -> str:
    """What a command prints that succeeds, and complains of nothing."""
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    return out


def two(folder: Path) -> Path:
    """linear in a, cosine in b."""
    write_run(folder / "a", config(1), 3.0)
    write_run(folder / "b", config(1, "cosine"), 2.9)
    return folder


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("out={}/file", "cannot be written (File exists)"),
        ("out={}/file/below", "cannot be written (Not a directory)"),
        ("out={}/" + "x" * 300, "cannot be written (File name too long)"),
        ("baseline=~nobody_of_that_name", "no choice has that"),
        ("level=0.99999999999999999", "allowed is a number from 0.5 to 0.999"),
        ("level=0.9999999999999999", "allowed is a number from 0.5 to 0.999"),
        ("x" * 5_000, "no such folder"),
    ],
)
def test_a_mistake_is_one_line(argument, message, tmp_path):
    two(tmp_path)
    (tmp_path / "file").touch()
    code, _, err = command(tmp_path, argument.format(tmp_path))
    assert code == 2
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_what_cannot_be_written_is_said_all_the_same(tmp_path):
    (two(tmp_path) / "compare").touch()
    code, out, _ = command(tmp_path)
    assert code == 2
    assert "is ahead of" in out or "nothing is supported" in out


def test_a_user_who_is_not_there_is_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(two(tmp_path), "out=~nobody_of_that_name/x")[0] == 0
    assert (tmp_path / "~nobody_of_that_name" / "x" / "index.html").exists()


@pytest.mark.slow
def test_a_reader_who_leaves_early_is_no_failure(tmp_path):
    line = f"{sys.executable} {ROOT / 'compare.py'} {sweep(tmp_path)} | head -1 >&2; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run([shutil.which("bash") or "sh", "-c", line], capture_output=True, text=True, env=environment())
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (tmp_path / "compare" / "index.html").exists()


def test_options_of_the_command():
    here = str(ROOT)
    assert parsed([here, "level=0.9"])[1:5] == (None, ROOT / "compare", 0.9, ())
    assert parsed([here, "baseline=schedule=linear,loss=vlb", "out=x"]).baseline == "schedule=linear,loss=vlb"
    for wrong, message in (
        (["levle=0.9"], "Did you mean level"),
        (["level=95"], "from 0.5 to 0.999"),
        (["nowhere"], "no such folder"),
        ([], "Name"),
    ):
        with pytest.raises(UserError, match=message):
            parsed([here, *wrong] if wrong else wrong)


HEAVY = {"torch", "lightning", "hydra", "omegaconf", "scipy.stats", "scipy.optimize", "matplotlib", "PIL", "pandas"}
LOADED = """
import sys
import ddpm_lab.compare.online
from ddpm_lab.cli.compare import main
main()
print("loaded", *sys.modules)
"""


def test_it_loads_nothing_heavy(tmp_path):
    """A comparison takes less time than to import torch."""
    command = [sys.executable, "-c", LOADED, str(sweep(tmp_path, seeds=(1,)))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert not HEAVY & set(done.stdout.splitlines()[-1].split())


@pytest.mark.slow
def test_two_hundred_folders_take_less_than_half_a_minute(tmp_path):
    first = sweep(tmp_path / "0", seeds=tuple(range(50)))
    assert len(list(first.iterdir())) == 200
    started = time.time()
    command = [sys.executable, str(ROOT / "compare.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert time.time() - started < 30
    assert "200 runs" in done.stdout
    shutil.rmtree(tmp_path / "0" / "0")
