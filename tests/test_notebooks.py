"""Notebooks run from a fresh clone. Their stored outputs are complete and name no machine."""

import json
import re
import subprocess

import matplotlib.pyplot as plt
import pytest
from forked import Process
from helpers import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 400_000
MINUTES = {"chapter", "choices", "coding", "sampling"}
QUICK = "callbacks.frechet.n=8 sampler.steps=10"
SHORTER = {"choices": [("=300 ", "=10 ", 2), ("callbacks.frechet.n=64", QUICK, 1)]}
"""What a notebook asks for, what does for a test, and how often it stands there: what it says of numbers is no claim."""


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_complete_and_name_no_machine(path):
    text = path.read_text()
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))  # once, in order
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any(output["output_type"] == "stream" for output in outputs)
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    for output in outputs:
        output.get("data", {}).pop("image/png", None)
    assert re.findall(r"(?<![\w.])(?:/(?:home|tmp|root|opt|usr|var|mnt|Users)/|[A-Z]:\\)\S*", json.dumps(notebook)) == []
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert len(text.encode()) < MOST_BYTES


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.soak if path.stem in MINUTES else pytest.mark.slow, id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_every_cell_runs_in_an_empty_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", Process)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: (shown.append(len(plt.get_fignums())), plt.close("all")))
    namespace = {"__name__": "__main__"}
    codes = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for long, short, times in SHORTER.get(path.stem, []):
        assert sum(code.count(long) for code in codes) == times
        codes = [code.replace(long, short) for code in codes]
    plt.switch_backend("Agg")
    plt.close("all")
    with plt.rc_context():
        for number, code in enumerate(codes, start=1):
            exec(compile(code, f"{path.name}, code cell {number}", "exec"), namespace)
    assert shown == [1] * sum("plt.show()" in code for code in codes)
    runs_commands = any("ddpm_lab.cli" in code for code in codes)
    assert any((tmp_path / "outputs").glob("*")) == runs_commands
