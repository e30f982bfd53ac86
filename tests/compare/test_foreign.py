"""Whatever lies in the folders, `python compare.py` says in a line what it left out, and compares the rest."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import arrays

from compare.synthetic import T, config, write_evaluation, write_run
from compare.test_command import command, said, two
from ddpm_lab.compare import page

RESOURCES = (page.PLOTLY, "page.js", "page.css")


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def set_config(run: Path, **groups: Any) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load((run / "config.yaml").read_text()) | groups))


def set_terms(run: Path, **content: Any) -> None:
    terms = arrays(run / "vlb_terms.npz")
    np.savez(run / "vlb_terms.npz", **terms | content)


CONFIGS = {
    "schedule in a word": {"schedule": "linear"},
    "seed in words": {"seed": "1"},
    "seed is a truth": {"seed": True},
}
ODD = {
    "trainer is a list": {"trainer": [1], "callbacks": {"samples": [1]}},
    "dates in lists": {"optim": {"lr": [{"from": __import__("datetime").date(2020, 1, 1)}]}},
}
CURVES = {
    "half a file": '[{"title": "x", "x"',
    "a table": '{"title": "x"}',
    "no values": '[{"title": "x", "alt": "x", "x": {"label": "t"}, "y": {"label": "t", "values": [1]}}]',
    "two lengths": '[{"title": "x", "alt": "x", "x": {"label": "t", "values": [1]}, "y": {"label": "t", "values": []}}]',
    "no end": "[" * 100_000,
}


@pytest.mark.parametrize("change", CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_that_is_none_is_skipped(change, tmp_path):
    set_config(two(tmp_path) / "a", **change)
    out = said(tmp_path)
    assert (
        f"note: {tmp_path / 'a'}: config.yaml is not one of a run (it has no seed, or neither schedule nor model); skipped"
        in out
    )
    assert "1 run," in out


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_a_configuration_with_odd_parts_is_compared(change, tmp_path):
    set_config(two(tmp_path) / "a", **change)
    out = said(tmp_path)
    assert "2 runs," in out


@pytest.mark.parametrize("content", CURVES.values(), ids=CURVES)
def test_curves_of_another_kind_are_named_on_the_console_and_on_the_page(content, tmp_path):
    (two(tmp_path) / "a" / "curves.json").write_text(content)
    out = said(tmp_path)
    (note,) = [line for line in out.splitlines() if line.startswith("note:")]
    assert str(tmp_path / "a" / "curves.json") in note
    assert str(tmp_path / "a" / "curves.json") in (tmp_path / "compare" / "index.html").read_text()


def test_runs_without_curves_are_named_in_one_line(tmp_path):
    for path in list(two(tmp_path).glob("*/curves.json")):
        path.unlink()
    out = said(tmp_path)
    (note,) = [line for line in out.splitlines() if "curves.json" in line]
    assert f"{tmp_path / 'a'} and 1 more" in note


@pytest.mark.parametrize("content", ["seed: 1\nschedule: &s {x: *s}\n", "seed: 1\nschedule: " + "[" * 20_000, "\ud83d"])
def test_yaml_that_holds_itself_or_no_end_is_skipped(content, tmp_path):
    (two(tmp_path) / "a" / "config.yaml").write_bytes(content.encode("utf-8", "surrogatepass"))
    code, out, _ = command(tmp_path)
    assert code == 0
    assert "config.yaml is not readable as YAML; skipped" in out


@pytest.mark.parametrize("content", ["[" * 100_000, "", "[]", '{"metrics": [1]}'])
def test_a_summary_that_is_none_is_no_run(content, tmp_path):
    (two(tmp_path) / "a" / "summary.json").write_text(content)
    out = said(tmp_path)
    assert "cosine" not in out or "linear" not in out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, None, "much", [1], 10**400])
def test_what_is_no_measured_number_is_left_out_and_said(value, tmp_path):
    edit(two(tmp_path) / "a" / "summary.json", lambda c: c["metrics"]["bound_bpd"].update(value=value))
    out = said(tmp_path)
    assert f"note: {tmp_path / 'a'}: bound_bpd is no finite number, so left out" in out


TERMS = {
    "words": {"terms_bpd": np.array(["a"] * T)},
    "a table": {"terms_bpd": np.zeros((T, 2))},
    "one number": {"terms_bpd": np.float64(1), "times": np.int64(3)},
    "other times": {"times": np.arange(3)},
    "no stride": {"stride": 0},
    "stride in words": {"stride": "two"},
    "few indices": {"index": np.arange(5)},
    "indices below 0": {"index": np.arange(60) - 9},
    "not a number": {"per_datum_bpd": np.full(60, np.nan)},
}


@pytest.mark.parametrize("change", TERMS.values(), ids=TERMS)
def test_terms_of_another_kind_are_left_out(change, tmp_path):
    set_terms(two(tmp_path) / "a", **change)
    out = said(tmp_path)
    assert "2 runs," in out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello"])
def test_terms_that_cannot_be_read_are_named(content, tmp_path):
    (two(tmp_path) / "a" / "vlb_terms.npz").write_bytes(content)
    out = said(tmp_path)
    assert out.count("vlb_terms.npz: not readable") == 1


def test_curves_with_other_steps_are_read_as_far_as_they_go(tmp_path):
    (two(tmp_path) / "a" / "metrics.csv").write_text(f"step,train/loss\n{'9' * 5000},1\n²,3\n1,nan\n2,3\n3,4\n")
    assert command(tmp_path)[0] == 0
    (tmp_path / "b" / "metrics.csv").unlink()
    (tmp_path / "b" / "metrics.csv").mkdir()
    code, out, _ = command(tmp_path)
    assert code == 0
    assert "metrics.csv: not readable" in out


ARMS = {
    "null": lambda c: c["arms"].append(None),
    "words": lambda c: c.update(arms="abc"),
    "a record in words": lambda c: c["arms"][0]["results"][0].update(record="x"),
    "a key that is a list": lambda c: c["arms"][0]["results"][0].update(key=[5]),
}
STRANGE = {
    "a numbered key": lambda c: c["arms"][0]["results"][0].update(key=5),
    "a picture that is a folder": lambda c: c["arms"][0].update(picture="."),
    "a record of lists": lambda c: c["arms"][0]["results"][1].update(record={"n": [1], "seed": [3], "sampler": "ddim"}),
    "data in a list": lambda c: c["arms"][0].update(per_datum=["x"]),
    "data in no file": lambda c: c["arms"][0].update(per_datum={"bound": "nothing.npz"}),
    "data in a number": lambda c: c["arms"][0].update(per_datum={"bound": 5}),
    "data elsewhere": lambda c: c["arms"][0].update(per_datum={"bound": "/etc/passwd"}),
}


@pytest.mark.parametrize("change", [*ARMS.values(), *STRANGE.values()], ids=[*ARMS, *STRANGE])
def test_an_evaluation_of_another_kind_is_left_out(change, tmp_path):
    two(tmp_path)
    for name in "ab":
        write_evaluation(tmp_path / name, {("ancestral", T, "beta"): (3.0, 9.0), ("ddim", 4, "beta"): (4.0, 12.0)})
    edit(tmp_path / "a" / "eval" / "e" / "evaluation.json", change)
    out = said(tmp_path)
    assert ("is not as evaluate.py writes it" in out) == (change in ARMS.values())


@pytest.mark.parametrize("kind", ["folder", "nowhere", "half"])
def test_a_picture_that_cannot_be_read_is_not_shown(kind, tmp_path):
    picture = two(tmp_path) / "a" / "samples" / "step_0000030.png"
    picture.mkdir() if kind == "folder" else picture.symlink_to("no") if kind == "nowhere" else picture.write_bytes(b"\x89PNG")
    assert command(tmp_path)[0] == 0


class Active(HTMLParser):
    """What of a page does something, or leads elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.result: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        entry = dict(attrs)
        self.result += [name for name in entry if name.startswith("on")]
        self.result += [tag] * (tag == "svg" or (tag == "script" and entry.get("type") != "application/json"))
        self.result += [self.get_starttag_text() or tag] * (tag == "a" and not (entry.get("href") or "").startswith("#"))


def test_markup_in_names_and_values_stays_text(tmp_path):
    """On the page, and in plots, where plotly would read it."""
    bad = "<script>alert(1)</script><a href=https://x.example>"
    marked = tmp_path / "<svg onload=alert(1)>"
    write_run(marked / "a", config(1, optim__lr=bad), 3.0)
    write_run(marked / "b", config(1, "cosine", optim__lr=2), 2.9)
    named = {f"{bad}_fd": {"value": 3, "n": "<b>"}}
    edit(marked / "a" / "summary.json", lambda c: (c["metrics"].update(named), c.update(platform=bad)))
    said(marked, f"out={tmp_path / 'out'}")
    text = (tmp_path / "out" / "index.html").read_text()
    assert Active(text).result == ["script", "script"]  # plotly's and ours
    for figure in (part.partition("</script>")[0] for part in text.split('<script type="application/json">')[1:]):
        assert "\\u003cscript" not in figure
        assert "\\u003ca " not in figure


def test_names_that_are_no_text_are_said_and_written(tmp_path):
    write_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), config(1, optim__lr="größe|*_日本🎉"), 3.0)
    write_run(tmp_path / "new\nline", config(1), 2.9)
    (tmp_path / os.fsdecode(b"\xfe")).mkdir()
    out = said(tmp_path, f"out={tmp_path / os.fsdecode(b'out')}")
    assert "\\udcfe: empty; skipped" in out
    assert "größe|*_日本🎉" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", "table.csv", "table.md", "table.tex"}


def test_links_that_run_in_circles_are_not_followed(tmp_path):
    (two(tmp_path) / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").symlink_to("config.yaml")
    out = said(tmp_path)
    assert "2 runs," in out
    assert command(tmp_path / "self")[0] == 2


def test_folders_may_be_deeper_than_python_recurses(tmp_path):
    deep = two(tmp_path)
    for _ in range(1_100):
        deep = deep / "x"
        deep.mkdir()
    try:
        code, out, err = command(tmp_path)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "x")], check=True)  # pytest's own would recurse
    assert (code, err) == (0, "")
    assert "/x/x: empty; skipped" in out


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights, to be refused")
def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    texts = {name: page._resource(name) for name in RESOURCES}
    monkeypatch.setattr(page, "_resource", texts.__getitem__)
    two(tmp_path / "runs")
    for path in [tmp_path / "runs", tmp_path, *tmp_path.parents]:
        if Path(tempfile.gettempdir()) in path.parents:
            path.chmod(0o755)
    command(tmp_path)  # what another user could not import is there
    write_run(tmp_path / "runs" / "closed", config(3))
    closed = [tmp_path / "runs" / "closed" / name for name in ("vlb_terms.npz", "metrics.csv", "samples/step_0000020.png")]
    (tmp_path / "runs" / "shut").mkdir()
    (tmp_path / "out").mkdir(mode=0o777)
    (tmp_path / "out").chmod(0o777)
    for path in (*closed, tmp_path / "runs" / "shut"):
        path.chmod(0)
    os.seteuid(65534)
    try:
        code, out, err = command(tmp_path / "runs", f"out={tmp_path / 'out'}")
        readonly = command(tmp_path / "runs")
    finally:
        os.seteuid(0)
    assert (code, err) == (0, "")
    assert f"{tmp_path / 'runs' / 'shut'}: cannot be read (Permission denied); skipped" in out
    assert "vlb_terms.npz: not readable (PermissionError)" in out
    assert "metrics.csv: not readable (PermissionError)" in out
    assert readonly[0] == 2
    assert "cannot be written (Permission denied)" in readonly[2]


def test_numbers_in_words_are_the_same_choice_as_in_figures(tmp_path):
    for i, (seed, lr) in enumerate([(1, 1), (2, "1"), (1, True), (2, "true"), (1, None), (2, "null")]):
        write_run(tmp_path / str(i), config(seed, optim__lr=lr), 3.0)
    code, out, _ = command(tmp_path)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith("lr=")] == ["lr=1", "lr=true", "lr=null"]
    assert "seeds: 2" in out


def test_two_targets_with_one_name_are_two_choices(tmp_path):
    for i, owner in enumerate(("mine", "theirs")):
        set_config(write_run(tmp_path / str(i), config(1), 3.0 - i), loss={"_target_": f"{owner}.loss.Simple"})
    out = command(tmp_path)[1]
    assert "theirs.loss.Simple is ahead of mine.loss.Simple on bits/dim: lower by 1.00" in out
