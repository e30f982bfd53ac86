"""index.html: one file that holds everything and opens from the disk without a network."""

import base64
import importlib.resources
import json
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ddpm_lab.compare.cells import Cell, effect_cells, heads, mean_cell, row
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.curves import described, learning, rate_distortion, terms
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.figures import Figure, differences_figure, means_figure, pareto
from ddpm_lab.compare.judge import Verdict
from ddpm_lab.compare.measures import Measure
from ddpm_lab.compare.numerals import NONE
from ddpm_lab.compare.printed import table_rows
from ddpm_lab.compare.report import ComparisonReport
from ddpm_lab.compare.run_folder import nested
from ddpm_lab.compare.study import Stage, Study, effect_digits
from ddpm_lab.compare.words import AVERAGED, cautions, statements
from ddpm_lab.metrics.record import line as record_line

MOST_PICTURES = 24
"""Choices whose samples are shown: each adds its picture to the file."""
PLOTLY = "package_data/plotly.min.js"
"""The script as its package brings it. The package itself, which takes a second to import, is not needed."""


def page_of(report: ComparisonReport, folders: Sequence[str | Path]) -> str:
    """Reads pictures and curves: what cannot be read is added to the problems of the runs."""
    sections = [_section(study) for study in report.studies]
    loader = PackageLoader("ddpm_lab.compare", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        report=report,
        sections=sections,
        folders=folders,
        averaged=AVERAGED[:-1],
        environment=_environment(report),
        figure_json=_figure_json,
        plotly=_resource("plotly", PLOTLY),
        script=_resource("ddpm_lab.compare", "page.js"),
        css=_resource("ddpm_lab.compare", "page.css"),
    )


def _resource(package: str, name: str) -> Markup:
    return Markup(importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def _figure_json(figure: Figure) -> Markup:
    """Inside a script element, which only `<` could end."""
    text = json.dumps({"data": figure.data, "layout": figure.layout}, ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _section(study: Study) -> dict[str, Any]:
    """What the template shows of a study."""
    order, (names, table) = list(Verdict), table_rows(study)
    others = [column for column in study.judged.columns if column not in study.main]
    intervals = [
        figure(study, column) for column in study.main if column.estimates for figure in (means_figure, differences_figure)
    ]
    if study.stage is Stage.TRAINED:
        plots = [pareto(study), terms(study), *learning(study), *described(study)]
    else:
        plots = [pareto(study), rate_distortion(study)]
    return {
        "study": study,
        "statements": sorted(statements(study), key=lambda statement: order.index(statement.verdict)),
        "cautions": cautions(study),
        "heads": names,
        "rows": table,
        "other_heads": ["choice", *heads(study, others, costs=False)],
        "other_rows": [(c.label, row(study, c, others, costs=False)) for c in study.compared.choices],
        "others": bool(others),
        "copied": any(column.copies for column in study.main),
        "effects": _effects(study),
        "matrix": _matrix(study),
        "intervals": [figure for figure in intervals if figure],
        "plots": [figure for figure in plots if figure],
        "pictures": _pictures(study),
        "same_noise": _same_noise(study),
        "measured": _measured(study),
    }


def _effects(study: Study) -> dict[str, Any]:
    """A row for each value of each axis; of each measure the mean over settings, and in which direction they point."""
    measures = list(dict.fromkeys(effect.measure for effect in study.effects))
    digits = {measure: effect_digits([e for e in study.effects if e.measure == measure]) for measure in measures}
    by_value: dict[str, dict[Measure, Effect]] = {}
    for effect in study.effects:
        by_value.setdefault(f"{effect.axis}: {effect.value} instead of {effect.against}", {})[effect.measure] = effect
    return {
        "heads": ["axis", *(name for measure in measures for name in (measure.label, "settings"))],
        "rows": [(name, [c for m in measures for c in effect_cells(by.get(m), digits[m])]) for name, by in by_value.items()],
    }


def _matrix(study: Study) -> dict[str, Any] | None:
    """Where exactly two axes vary, in the form of DDPM's Table 2: one in blocks, the other in rows."""
    if len(study.compared.free) != 2:
        return None
    outer, inner = study.compared.free
    choices = {(c.values.get(outer, NONE), c.values.get(inner, NONE)): c for c in study.compared.choices}

    def cells(a: str, b: str) -> list[Cell]:
        choice = choices.get((a, b))
        return [Cell(NONE) if choice is None else mean_cell(study, choice, c) for c in study.main]

    inner_values = list(dict.fromkeys(b for _, b in choices))
    blocks = [(a, [(b, cells(a, b)) for b in inner_values]) for a in dict.fromkeys(a for a, _ in choices)]
    names = [heads(study, [column], costs=False)[1] for column in study.main]
    return {"outer": outer, "inner": inner, "heads": names, "blocks": blocks}


def _pictures(study: Study) -> list[dict[str, Any]]:
    """Of the lowest seed that all choices have, or else of each choice's own lowest."""
    seeds = {choice: {seed for seed, run in choice.runs.items() if run.picture} for choice in study.compared.choices}
    shared = set.intersection(*seeds.values())
    pictures = [_picture(c, min(shared or seeds[c], default=None)) for c in study.compared.choices[:MOST_PICTURES]]
    return [picture for picture in pictures if picture is not None]


def _picture(choice: ComparedChoice, seed: int | None) -> dict[str, Any] | None:
    """None where there is no whole PNG file. Width and height are read from its header."""
    path = None if seed is None else choice.runs[seed].picture
    try:
        png = b"" if path is None else path.read_bytes()
    except OSError:
        return None
    if seed is None or path is None or not (png.startswith(b"\x89PNG") and png.endswith(b"IEND\xaeB`\x82")):
        return None
    width, height = struct.unpack(">II", png[16:24])
    uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"label": choice.label, "seed": seed, "uri": uri, "width": width, "height": height, "name": path.name}


def _same_noise(study: Study) -> bool:
    """Whether the pictures were drawn from one seed, whatever the seeds of the runs."""
    runs = [run for choice in study.compared.choices for run in choice.runs.values()]
    if study.stage is Stage.TRAINED:
        return len({str(nested(run.run.config, "callbacks", "samples", "seed")) for run in runs}) == 1
    records = [number.record for run in runs for number in run.numbers.values()]
    return len({str(record.get("seed")) for record in records if record.get("sampler") is not None}) == 1


def _measured(study: Study) -> list[tuple[str, str]]:
    """How each judged number was measured, by the record of its first."""
    firsts = ((column.measure.label, next(iter(column.numbers.values()), {})) for column in study.main)
    return [(label, record_line(next(iter(numbers.values())).record)) for label, numbers in firsts if numbers]


def _environment(report: ComparisonReport) -> dict[str, Counter[str]]:
    """What the runs ran on: of each value how many runs had it."""
    counts: dict[str, Counter[str]] = {}
    for run in report.runs:
        versions = nested(run.summary, "versions")
        fields = {key: run.summary.get(key) for key in ("device", "torch_threads", "platform", "python", "git_revision")}
        for key, value in (fields | (versions if isinstance(versions, dict) else {})).items():
            if value is not None:
                counts.setdefault(key.replace("_", " "), Counter())[str(value)] += 1
    return counts
