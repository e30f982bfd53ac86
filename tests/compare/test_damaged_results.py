"""No damaged result changes a number, a name or a setting in silence: it is named, or all that is written stays as it was."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from compare.synthetic import T, config, write_evaluation, write_run
from compare.test_command import command
from ddpm_lab.files import SUMS, check_as_written, is_as_written, write_sums

FILES = ("config.yaml", "summary.json", "metrics.csv", "curves.json", "vlb_terms.npz")
OF_EVALUATION = ("evaluation.json", "per_datum_0_bound.npz", "bound_8_beta.csv")
PLACES = (*FILES, SUMS, *(f"eval/e/{name}" for name in (*OF_EVALUATION, SUMS)))
TOKENS = (b"NaN", b"Infinity", b"-1e999", b"9" * 400, b'"x"', b"null", b"[]", b"true")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for name, schedule in (("a", "linear"), ("b", "cosine")):
        write_run(folder / name, config(1, schedule), np.linspace(2.5, 3.5, 60))
        write_evaluation(folder / name, {("ancestral", T, "beta"): (np.linspace(2, 4, 60), 9.0)})
        write_sums(folder / name, FILES)
        write_sums(folder / name / "eval" / "e", OF_EVALUATION)
    return folder


def mutated(content: bytes, draw: random.Random) -> bytes:
    """One of: a bit flipped, cut short, a digit changed, a value replaced, a line twice."""
    kind, place = draw.randrange(5), draw.randrange(len(content))
    digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
    if kind == 0 or not digits:
        return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    if kind == 1:
        return content[:place]
    i = draw.choice(digits)
    if kind == 2:
        return content[:i] + str((int(chr(content[i])) + draw.randint(1, 9)) % 10).encode() + content[i + 1 :]
    if kind == 3:
        return content[:i] + draw.choice(TOKENS) + content[i + 1 :]
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[: len(lines) // 2], *lines[len(lines) // 2 - 1 :]]) + b"x"


@pytest.mark.parametrize("place", PLACES)
def test_a_damaged_result_is_named(place, whole, tmp_path):
    draw = random.Random(place)
    runs = shutil.copytree(whole, tmp_path / "runs")
    path = runs / "a" / place
    content = path.read_bytes()
    for i in range(10):
        while (damaged := mutated(content, draw)) == content:
            pass
        path.write_bytes(damaged)
        files = FILES if "/" not in place else OF_EVALUATION
        seen = not all(is_as_written(path.with_name(name)) for name in files)
        if path.name == SUMS and not seen:
            continue  # a line twice
        assert seen, damaged
        if i < 2:
            code, out, err = command(runs, f"out={tmp_path / 'out'}")
            assert (code, err) == (0, "")
            assert str(path.parent) in out
            assert path.name in out
            assert SUMS in out


def test_what_was_not_changed_is_not_named(whole, tmp_path):
    code, out, err = command(whole, f"out={tmp_path}")
    assert (code, err, SUMS in out) == (0, "", False)


def test_runs_of_earlier_versions_are_read_and_said_once(whole, tmp_path):
    runs = shutil.copytree(whole, tmp_path / "runs")
    for path in runs.rglob(SUMS):
        path.unlink()
    code, out, err = command(runs, f"out={tmp_path / 'out'}")
    assert (code, err, out.count(SUMS)) == (0, "", 1)


def test_a_file_that_the_sums_lack_is_named(tmp_path):
    (tmp_path / "new.csv").write_text("x")
    check_as_written(tmp_path / "new.csv")
    write_sums(tmp_path, ["*.txt"])
    assert not is_as_written(tmp_path / "new.csv")
