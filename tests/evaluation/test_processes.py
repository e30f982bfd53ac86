"""Several processes share the work, and the numbers are those of one."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT, environment

from .support import BROKEN, copied, evaluate, kept, scored

ASK = ["variance=beta,analytic", "gamma.n=4"]
MORE = [
    pytest.param([], id="bound"),
    pytest.param(
        ["nll.terms=2", "metrics=classifier", "metrics.epochs=1", "quality.sets=2"], id="estimate", marks=pytest.mark.soak
    ),
]


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Two processes of evaluate.py."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "evaluate.py")]
    return subprocess.run([*start, *arguments], capture_output=True, text=True, env=environment())


@pytest.mark.parametrize("more", MORE)
def test_two_processes_give_the_numbers_of_one_to_the_bit(more, run, tmp_path):
    two = copied(run, tmp_path / "two")
    one = evaluate(run, "-m", *ASK, *more, start=BROKEN)
    done = torchrun("-m", f"ckpt={two}", *BROKEN, *ASK, *more)
    assert done.returncode == 0, done.stderr
    told = json.loads((two / "eval" / "e" / "evaluation.json").read_text())["arms"]
    assert scored(told) == scored(one.arms)
    for arms, processes in ((told, 2), (one.arms, 1)):
        seconds = [r["record"] for arm in arms for r in arm["results"] if r["key"] == "sampling_seconds"]
        assert [record["processes"] for record in seconds] == [processes] * 2
    for arm in one.arms:
        for name in arm["per_datum"].values():
            assert (two / "eval" / "e" / name).read_bytes() == (one.folder / name).read_bytes()
    assert [place.name for place in kept(two, "*")] == [place.name for place in kept(run, "*")]
    assert done.stdout.count(str(two / "eval" / "e")) == 2  # one process speaks: where it goes, where it went
    assert not list(two.rglob("*.tmp*"))
