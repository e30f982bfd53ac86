"""Fixtures that several files share."""

import os
from pathlib import Path

import pretend_slurm
import pytest
from pretend_sweep import heard, pretending, run  # noqa: F401


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Path:
    """Where the pretended SLURM keeps what it knows."""
    pretend_slurm.install(tmp_path / "bin")
    (tmp_path / "queue").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PRETEND_SLURM", str(tmp_path / "queue"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "queue"
