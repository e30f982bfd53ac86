"""Cores that a process may use, and how long its threads wait for them."""

import subprocess
import sys

import pytest
import torch

from ddpm_lab import cores

BUSY = """
import hashlib, os, threading
from ddpm_lab import cores

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
before = cores.used()

def work():
    for _ in range(100):
        hashlib.sha256(bytes(2**20)).digest()

threads = [threading.Thread(target=work) for _ in range(THREADS)]
for thread in threads:
    thread.start()
while cores.used().ran - before.ran < 0.05:
    pass
print(cores.used().share_waited_since(before))
os._exit(0)
"""


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield monkeypatch
    torch.set_num_threads(before)


@pytest.mark.parametrize(("granted", "typed", "threads"), [(1, None, 1), (1, "2", 2), (2, None, 2), (64, None, 2)])
def test_threads_are_at_most_the_cores_that_are_granted(two_threads, granted, typed, threads):
    two_threads.setattr("joblib.cpu_count", lambda: granted)
    if typed:
        two_threads.setenv("OMP_NUM_THREADS", typed)
    note = cores.use_granted()
    assert torch.get_num_threads() == threads
    assert (note is None) == (threads == 2)


@pytest.mark.skipif(not cores.THREADS.exists(), reason="Linux counts")
def test_threads_that_share_a_core_wait():
    command = [sys.executable, "-c", BUSY.replace("THREADS", "4")]
    assert float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) > 0.4


def test_where_nothing_is_counted_nothing_waited(monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "THREADS", tmp_path)
    assert cores.used() == cores.Cores(0.0, 0.0)
    assert cores.used().share_waited_since(cores.used()) == 0
