"""A tiny run of digits, and a cache of one's own."""

import pytest

from .support import DIGITS, copied


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def run(run_of, tmp_path):
    """A run of digits with nothing measured."""
    return copied(run_of(*DIGITS), tmp_path / "run")
