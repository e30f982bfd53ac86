"""What is seen: contrasts, looks of choices, scales and ends of intervals, tables that fit a terminal."""

import importlib.resources
import re
from pathlib import Path

import numpy as np
import pytest

from compare.synthetic import config, sweep, write_run
from compare.test_command import command, said, two
from ddpm_lab.compare.figures import means_figure, pareto
from ddpm_lab.compare.page import _palette
from ddpm_lab.compare.palette import PLACES, looks
from ddpm_lab.compare.printed import MANY, _lines, console, shortened
from ddpm_lab.compare.report import Study, report
from ddpm_lab.compare.tables import choice_table

CSS = (importlib.resources.files("ddpm_lab.compare") / "page.css").read_text()


def scheme(css: str, dark: bool) -> dict[str, str]:
    """The variables of the light scheme, and over them those of the dark one."""
    light, _, rest = css.partition("@media screen and (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", light))
    return found | (dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", rest)) if dark else {})


def contrast(a: str, b: str) -> float:
    """WCAG 2.2: of relative luminances."""

    def luminance(colour: str) -> float:
        c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    low, high = sorted(map(luminance, (a, b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_has_a_contrast_of_four_and_a_half_and_lines_of_three(dark):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    colours = scheme(CSS, dark)
    for text in ("ink", "soft", "good", "bad", "link"):
        for background in ("paper", "wash"):
            assert contrast(colours[text], colours[background]) >= 4.5, (text, background)
    drawn = scheme(str(_palette()), dark)
    assert len(drawn) == 11
    for name, colour in drawn.items():
        assert contrast(colour, colours["paper"]) >= 3, name


def test_forty_choices_look_different():
    made = [looks(place) for place in range(PLACES)]
    assert PLACES == 40
    for further in ("dash", "symbol"):
        assert len({(each["colour"], each[further]) for each in made}) == PLACES


def study_of(folder: Path, distances: list[list[float]]) -> Study:
    """A choice for each list, by seed."""
    for i, values in enumerate(distances):
        for seed, value in enumerate(values):
            write_run(folder / f"{i}-{seed}", config(seed, optim__lr=float(i + 1)), 3.0, value)
    return report([folder], None, 0.95, {}).studies[0]


def test_no_interval_of_a_distance_goes_below_zero(tmp_path):
    study = study_of(tmp_path, [[1.0, 2.9, 1.0], [1.5, 2.5, 2.0]])
    column = next(column for column in study.main if column.measure.distance)
    assert min(e.low for e in column.estimates.values()) < 0  # of table.csv
    figure, table = means_figure(study, column), choice_table(study, [column])
    assert min(entry["mean"]["low"] for entry in figure.data) == 0
    assert not any("[−" in dict(zip(table.heads[1:], cells, strict=True))[table.heads[1]].text for _, cells in table.rows)


@pytest.mark.parametrize(("far", "scale"), [(60.0, "log"), (2.5, None)])
def test_distances_that_differ_much_are_on_a_log_scale(far, scale, tmp_path):
    """Intervals end above zero there."""
    study = study_of(tmp_path, [[1.0, 2.5, 2.0], [far, far, far - 1]])
    column = next(column for column in study.main if column.measure.distance)
    for shown, ends in ((means_figure(study, column), "mean"), (pareto(study), "x")):
        assert shown.x.get("type") == scale
        assert (min(entry[ends]["low"] for entry in shown.data) > 0) == (scale == "log")


def test_shortened_labels_stay_apart():
    labels = [f"{a} · {b} · lr={c}" for a in ("linear", "cosine") for b in ("simple", "hybrid") for c in (0.0001, 0.0003)]
    for width in range(3, 40):
        made = shortened(labels, width)
        assert len(set(made)) == len(labels)
        assert list(made) == labels or max(map(len, made)) <= width
    assert max(map(len, shortened(labels, 24))) == 24 < max(map(len, labels))
    assert shortened(["a" * 9 + x + "a" * 9 for x in "bc"], 5) == ["a" * 9 + x + "a" * 9 for x in "bc"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_table_fits_the_terminal_and_keeps_every_cell(width, tmp_path):
    study = report([sweep(tmp_path)], None, 0.95, {}).studies[0]
    table = choice_table(study, study.main)
    narrow, whole = _lines(table, width), _lines(table, None)
    blocks = [block.splitlines() for block in "\n".join(narrow).split("\n\n")]
    columns = [len(re.split("  +", block[0])) - 1 for block in blocks]
    assert sum(columns) == len(table.heads) - 1
    assert (len(blocks) > 1) == (max(map(len, whole)) > width)
    assert all(max(map(len, block)) <= width for block, n in zip(blocks, columns, strict=True) if n > 1)
    assert all(cell.text in "\n".join(narrow) for _, cells in table.rows for cell in cells)


def test_what_is_the_same_in_all_rows_is_in_the_caption(tmp_path):
    for i, size in enumerate((1, 2)):
        run = write_run(tmp_path / str(i), config(1, optim__lr=size), 3.0 + i)
        text = (run / "summary.json").read_text()
        (run / "summary.json").write_text(text.replace('"parameters": 44969', f'"parameters": {size}'))
    study = report([tmp_path], None, 0.95, {}).studies[0]
    table = choice_table(study, study.main)
    assert "parameters" in table.heads
    assert not {"seeds", "images/s"} & set(table.heads)
    assert {text.partition(":")[0] for text in table.same} >= {"seeds", "images/s"}
    assert "images/s: 800" in "\n".join(console(report([tmp_path], None, 0.95, {})))


def test_columns_of_latex_are_chosen_by_their_names(tmp_path):
    said(two(tmp_path), "columns=parameters,bound_bpd")
    head = next(line for line in (tmp_path / "compare" / "table.tex").read_text().splitlines() if line.startswith("choice"))
    assert [cell.strip(" \\") for cell in head.split("&")] == ["choice", "parameters", "bits/dim $\\downarrow$"]
    code, _, err = command(tmp_path, "columns=parameters,bpd")
    assert (code, err.count("\n")) == (2, 1)
    assert all(part in err for part in ("columns=bpd", "bound_bpd", "parameters", "bound_bpd_difference"))


def test_comparisons_of_many_choices_are_printed_on_demand(tmp_path):
    for i in range(MANY + 1):
        write_run(tmp_path / str(i), config(1, optim__lr=float(i + 1)), 3.0 + i)
    sentence = "lr=2.0 is behind lr=1.0 on bits/dim"
    assert sentence not in said(tmp_path)
    assert sentence in said(tmp_path, "all=true")
    assert sentence in (tmp_path / "compare" / "table.md").read_text()
    (tmp_path / "8" / "config.yaml").unlink()
    assert sentence in said(tmp_path)
    assert command(tmp_path, "all=yes")[0] == 2
