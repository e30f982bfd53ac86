"""A stranger's runs: what their names and numbers hold is shown, and neither obeyed by a terminal nor by a browser or a
spreadsheet."""

import csv

import numpy as np
import pytest

from compare.synthetic import config, write_run
from compare.test_command import said, two
from compare.test_foreign import set_terms

ESCAPE = "\x1b[2J\x1b]0;owned\x07"


@pytest.mark.parametrize("name", [ESCAPE, "<img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", "@SUM(1)", "a\nb", "+1+1"])
def test_a_hostile_label_is_text(name, tmp_path):
    write_run(tmp_path / "a", config(1, loss={"_target_": "ddpm_lab.core.loss.Simple", "kind": "plain"}), 3.0)
    write_run(tmp_path / "b", config(1, loss={"_target_": "ddpm_lab.core.loss.Simple", "kind": name}), 2.9)
    out = said(tmp_path)
    assert "\x1b" not in out
    assert "\x07" not in out
    folder = tmp_path / "compare"
    texts = [(folder / file).read_text() for file in ("table.csv", "table.md", "table.tex", "index.html")]
    assert not any("\x1b" in text for text in texts)
    assert "<img" not in texts[1]
    with (folder / "table.csv").open(newline="") as file:
        cells = [cell for row in csv.DictReader(file) for cell in row.values() if cell]
    assert not [cell for cell in cells if cell[0] in "=@+"]


def test_a_number_below_zero_stays_a_number(tmp_path):
    for place, start in (("a", -3.0), ("b", -2.0)):
        write_run(tmp_path / place, config(1, schedule__start=start), 3.0 - start)
    said(tmp_path)
    with (tmp_path / "compare" / "table.csv").open(newline="") as file:
        assert {row["schedule.start"] for row in csv.DictReader(file)} == {"-3.0", "-2.0"}


@pytest.mark.parametrize("infinity", [np.inf, -np.inf])
def test_infinite_terms_leave_a_gap(infinity, tmp_path):
    folder = two(tmp_path)
    terms = np.load(folder / "a" / "vlb_terms.npz")["terms_bpd"]
    terms[2] = infinity
    set_terms(folder / "a", terms_bpd=terms)
    assert "2 runs," in said(tmp_path)
