"""`python evaluate.py` in this process, on copies of tiny runs, and what it left behind."""

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
from helpers import SMALL_NET

from ddpm_lab.cli.evaluate import main
from ddpm_lab.nets.unet import UNet

T = 20
QUICK = [
    "trainer.max_steps=2", "trainer.validate_every=2", "trainer.log_every=1", f"schedule.T={T}", "callbacks.samples.n=2",
    "callbacks.frechet.n=8", "callbacks.vlb_terms.final_stride=5", "callbacks.vlb_terms.stride=5", "data.batch_size=16",
]  # fmt: skip
DIGITS = ("experiment=smoke", *SMALL_NET, *QUICK)
VECTORS = ("experiment=gaussian_mixture", *QUICK, "data.n_train=100", "data.n_val=50")
FEW = ["name=e", "quality.n=12", "nll.n=10"]
"""Of everything, and a name to find it by."""
GAMMA, GAP = "gamma.n=4", "nll.train_stride=5"
"""The same of what is measured under the analytic variance, and beside the bound on the full chain, alone."""
BROKEN = ["name=e", "sampler=ddim", "sampler.steps=4", "nll.chain=sampler", "nll.n=70", "nll.train_stride=0", "quality.n=260"]
"""In pieces: three of the bound in one call of the network each, two of the samples in four each."""
CALLS = 3 + 2 * 4


class Evaluation(NamedTuple):
    """The folder of one evaluation, and its evaluation.json."""

    folder: Path
    content: dict[str, Any]

    @property
    def arms(self) -> list[dict[str, Any]]:
        return self.content["arms"]

    def results(self, arm: int = 0) -> dict[str, dict[str, Any]]:
        return {result["key"]: result for result in self.arms[arm]["results"]}

    def value(self, key: str, arm: int = 0) -> float:
        return self.results(arm)[key]["value"]

    def record(self, key: str, arm: int = 0) -> dict[str, Any]:
        return self.results(arm)[key]["record"]


def scored(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without durations, which no two measurements share."""
    return [arm | {"results": [r for r in arm["results"] if r["key"] != "sampling_seconds"]} for arm in arms]


def evaluate(ckpt: Path | str, *arguments: str, start: list[str] = FEW, run: Path | None = None) -> Evaluation:
    """Of an argument that is given twice the later one counts. What comes back is that of the first run, or of `run`. Raises
    SystemExit as the command exits."""
    given = [f"ckpt={ckpt}", *start, *arguments]
    if start is FEW:
        given[1:1] = [GAMMA] * any(a.startswith("variance=") and "analytic" in a for a in arguments)
        given[1:1] = [GAP] * (
            not {"nll.chain=sampler", "nll.chain=continuous", "nll.split=train", "protocol=analytic_dpm"} & set(arguments)
            and "nll.terms=" not in str(arguments)
        )
    values = dict(argument.partition("=")[::2] for argument in given if argument != "-m")
    argv = ["evaluate.py", *(["-m"] if "-m" in arguments else []), *(f"{key}={value}" for key, value in values.items())]
    with patch.object(sys, "argv", argv):
        main()
    return found(run or Path(str(ckpt).partition(",")[0]), values["name"])


def found(run: Path, name: str = "e") -> Evaluation:
    folder = run / "eval" / name
    return Evaluation(folder, json.loads((folder / "evaluation.json").read_text()))


def refusal(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What the command says when it refuses: one line on stderr, nothing else, exit code 2."""
    capsys.readouterr()
    with patch.object(sys, "argv", ["evaluate.py", *arguments]), pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def copied(run: Path, folder: Path) -> Path:
    """A run of its own with nothing measured."""
    return Path(shutil.copytree(run, folder, ignore=shutil.ignore_patterns("eval")))


def kept(run: Path, kind: str) -> list[Path]:
    """The folders of what was measured, of one kind."""
    return sorted((run / "eval" / "work").glob(f"{kind}-*"))


def columns(path: Path) -> dict[str, list[float]]:
    """Of a .csv of numbers."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


class Counted:
    """Counts calls of the network; the one of number `stop` is not answered but interrupted, as by Ctrl-C."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> None:
        self.n, self.stop, forward = 0, stop, UNet.forward

        def counted(net: UNet, *arguments: torch.Tensor) -> torch.Tensor:
            self.n += 1
            if self.n == self.stop:
                raise KeyboardInterrupt
            return forward(net, *arguments)

        monkeypatch.setattr(UNet, "forward", counted)
