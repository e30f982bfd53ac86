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


def pytest_terminal_summary(terminalreporter) -> None:
    """Says whether sweeps have met a real SLURM."""
    outcomes = {
        name: sum("test_real_slurm.py" in getattr(report, "nodeid", "") for report in terminalreporter.getreports(name))
        for name in ("passed", "failed", "error", "skipped")
    }
    if met := sum(outcomes.values()) - outcomes["skipped"]:
        terminalreporter.write_line(f"SLURM: {outcomes['passed']} of {met}")
    elif outcomes["skipped"]:
        terminalreporter.write_line("SLURM: NOT RUN")
