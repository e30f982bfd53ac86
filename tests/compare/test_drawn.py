"""`compare.py figures=pdf`: the plots of the page as files."""

import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawn

from compare.synthetic import config, sweep, write_evaluation, write_run
from compare.test_command import command, two
from ddpm_lab.compare.drawn import drawn
from ddpm_lab.compare.figures import Figure, two_digits
from ddpm_lab.compare.page import figures_of
from ddpm_lab.compare.report import report
from ddpm_lab.compare.run_folder import read_runs
from ddpm_lab.files import SUMS, write_sums


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> list[Figure]:
    """Of every kind, of runs as they were trained."""
    root = sweep(tmp_path_factory.mktemp("sweep"))
    write_evaluation(root / "0", {("ancestral", 8, "beta"): (3.0, 9.0), ("ddim", 4, "beta"): (4.0, 12.0)})
    study = report([root], None, 0.95, {}).studies[0]
    found = [figure for figures in figures_of(study).values() for figure in figures]
    assert {figure.kind for figure in found} == {"rows", "lines", "plane"}
    return found


def points(made: Drawn) -> set[tuple[float, float]]:
    return {tuple(map(float, point)) for line in made.axes[0].lines for point in np.asarray(line.get_xydata())}


def test_every_value_of_the_page_is_drawn(figures):
    for figure in figures:
        made = drawn(figure)
        for row, entry in enumerate(figure.data):
            if figure.kind == "rows":
                wanted = [(value, row) for value in (entry["mean"]["value"], *entry.get("seeds", {}).get("values", ()))]
            elif figure.kind == "plane":
                wanted = [(entry["x"]["value"], entry["y"]["value"])]
            else:
                wanted = [point for point in zip(entry["x"], entry["y"], strict=True) if point[1] is not None]
            assert set(wanted) <= points(made), figure.title


def test_intervals_bands_and_scales_are_those_of_the_page(figures):
    for figure in figures:
        axes = drawn(figure).axes[0]
        ends = {x for line in axes.collections if hasattr(line, "get_segments") for s in line.get_segments() for x in s[:, 0]}
        for entry in figure.data if figure.kind == "rows" else ():
            if entry["mean"]["low"] is not None:
                assert min(abs(end - entry["mean"]["low"]) for end in ends) < 1e-9
                assert min(abs(end - entry["mean"]["high"]) for end in ends) < 1e-9
        assert axes.get_xscale() == figure.x.get("type", "linear")
        assert axes.get_yscale() == figure.y.get("type", "linear")
        assert sum("low" in entry for entry in figure.data) == (len(axes.collections) if figure.kind == "lines" else 0)


HEADS = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}


@pytest.mark.parametrize("kinds", [("pdf",), ("svg", "png")])
def test_files_take_the_place_of_earlier_ones_and_the_page_links_them(kinds, tmp_path):
    two(tmp_path)
    folder = tmp_path / "compare" / "figures"
    folder.mkdir(parents=True)
    for kind in kinds:
        for name in (f"99_earlier.{kind}", f"01_mine.{kind}"):
            (folder / name).write_text(name)
    write_sums(folder, [f"99_earlier.{kind}" for kind in kinds])
    code, out, _ = command(tmp_path, f"figures={','.join(kinds)}")
    for kind in kinds:
        (folder / f"01_mine.{kind}").unlink()  # of the user's own
    again = command(tmp_path, f"figures={','.join(kinds)}")[1]
    assert out.rpartition("(")[2] == again.rpartition("(")[2]
    paths = sorted(path for path in folder.iterdir() if path.name != SUMS)
    assert (code, bool(paths)) == (0, True)
    assert {path.suffix.lstrip(".") for path in paths} == set(kinds)
    assert [path.name for path in paths if not re.fullmatch(r"\d\d_[a-z0-9_]+\.\w+", path.name)] == []
    assert [path.name for path in paths if not path.read_bytes().startswith(HEADS[path.suffix[1:]])] == []
    assert f"{len(paths)} of {', '.join(kinds)}" in out
    assert not any("earlier" in path.name for path in paths)
    links = re.findall(r'<a href="(figures/[^"]*)"', (tmp_path / "compare" / "index.html").read_text())
    assert sorted(links) == [f"figures/{path.name}" for path in paths]


def test_another_format_is_refused(tmp_path):
    code, _, err = command(two(tmp_path), "figures=pfd")
    assert (code, err.count("\n")) == (2, 1)
    assert all(part in err for part in ("figures=pfd", "pdf, svg, png", "figures=pdf"))


@pytest.mark.filterwarnings("error:constrained_layout")
def test_long_names_leave_room_for_the_axes(tmp_path):
    for i in range(3):
        write_run(tmp_path / str(i), config(i % 2, extra={"_target_": "a.B", "name": f"{i // 2}{'x' * 300}"}), 3.0 + i)
    study = report([tmp_path], None, 0.95, {}).studies[0]
    for figure in (figure for figures in figures_of(study).values() for figure in figures):
        made = drawn(figure)
        made.canvas.draw()
        assert made.axes[0].get_position().width > 0.2, figure.title


def test_files_of_figures_are_no_runs_that_were_left_out(tmp_path):
    folder = two(tmp_path)
    (folder / "empty").mkdir()
    for name in ("compare/table.csv", "compare/index.html", "compare/figures/trained/01.svg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert [skip.path for skip in read_runs([folder])[1]] == [folder / "empty"]
    shutil.move(folder / "b", folder / "compare" / "figures" / "b")
    assert len(read_runs([folder])[0]) == 2


@pytest.mark.parametrize(
    ("value", "text"), [(138.2, "140"), (1382.0, "1,400"), (0.0123, "0.012"), (3.0, "3"), (1e-7, "1e-07"), (1e99, "1e+99")]
)
def test_two_digits_need_no_exponent(value, text):
    assert two_digits(value) == text
