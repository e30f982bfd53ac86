"""index.html: one file that holds everything and opens from the disk without a network."""

import base64
import importlib.resources
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ddpm_lab.compare import figures
from ddpm_lab.compare.choices import MISSING, ComparedChoice
from ddpm_lab.compare.judge import Verdict
from ddpm_lab.compare.report import ComparisonReport, Stage, Study
from ddpm_lab.compare.run_folder import nested
from ddpm_lab.compare.tables import choice_table, effect_table, equal_cost_table, head, mean_cell
from ddpm_lab.compare.words import AVERAGED, EQUAL_COST, cautions, statements
from ddpm_lab.metrics.record import line

MOST_PICTURES = 24
"""Choices whose samples are shown: each adds its picture to the file."""
PLOTLY = "package_data/plotly.min.js"
"""The script as its package brings it. The package itself, which takes a second to import, is not needed."""


def page_of(report: ComparisonReport, folders: Sequence[str | Path]) -> str:
    """Reads pictures and curves: what cannot be read is added to the problems of the runs."""
    loader = PackageLoader("ddpm_lab.compare", ".")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    called = (
        cautions,
        choice_table,
        effect_table,
        equal_cost_table,
        environment,
        figure_json,
        head,
        line,
        matrix,
        mean_cell,
        same_noise,
    )
    pages.globals |= {function.__name__: function for function in called}
    template = pages.get_template("page.html")
    return template.render(
        report=report,
        sections=[_section(study) for study in report.studies],  # first: the problems are complete then
        folders=folders,
        averaged=AVERAGED[:-1],
        equal_cost=EQUAL_COST,
        plotly=_resource("plotly", PLOTLY),
        script=_resource("ddpm_lab.compare", "page.js"),
        css=_resource("ddpm_lab.compare", "page.css"),
    )


def _resource(package: str, name: str) -> Markup:
    return Markup(importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def figure_json(figure: figures.Figure) -> Markup:
    """What page.js reads, inside a script element, which only `<` could end."""
    drawn = {name: value for name, value in vars(figure).items() if name not in ("title", "alt", "wide")}
    text = json.dumps(drawn, ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _section(study: Study) -> dict[str, Any]:
    """A study with its figures, pictures, and sentences in the order of verdicts."""
    return {
        "study": study,
        "statements": sorted(statements(study), key=lambda statement: list(Verdict).index(statement.verdict)),
        "figures": figures_of(study),
        "pictures": _pictures(study),
    }


def figures_of(study: Study) -> dict[str, list[figures.Figure]]:
    """The figures of a study, by heading."""
    curves = [figures.rate_distortion(study)]
    if study.stage is Stage.TRAINED:
        curves = [figures.terms(study), *figures.learning(study), *figures.described(study)]
    columns = [column for column in study.main if column.estimates]
    intervals = [draw(study, column) for column in columns for draw in (figures.means_figure, figures.differences_figure)]
    plots = [figures.pareto(study), figures.distance_over_seconds(study), *curves]
    return {"Intervals": list(filter(None, intervals)), "Plots": list(filter(None, plots))}


def matrix(study: Study) -> dict[str, dict[str, ComparedChoice | None]]:
    """Where exactly two axes vary, in the form of DDPM's Table 2: one in blocks, the other in rows. Empty elsewhere."""
    if len(study.compared.free) != 2:
        return {}
    choices = {tuple(c.values.get(axis, MISSING) for axis in study.compared.free): c for c in study.compared.choices}
    outer, inner = (dict.fromkeys(values) for values in zip(*choices, strict=True))
    return {a: {b: choices.get((a, b)) for b in inner} for a in outer}


def _pictures(study: Study) -> list[dict[str, Any]]:
    """Of the lowest seed that all choices have, or else of each choice's own lowest; those that are whole PNG files."""
    found = {
        choice: {seed: run.picture for seed, run in choice.runs.items() if run.picture} for choice in study.compared.choices
    }
    shared = set.intersection(*map(set, found.values()))
    shown = []
    for choice, by_seed in list(found.items())[:MOST_PICTURES]:
        seed = min(shared or by_seed, default=None)
        if seed is not None and (png := _png(by_seed[seed])):
            uri = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            shown.append({"label": choice.label, "seed": seed, "uri": uri, "name": by_seed[seed].name})
    return shown


def _png(path: Path) -> bytes:
    """Empty where there is no whole PNG file."""
    try:
        content = path.read_bytes()
    except OSError:
        return b""
    return content if content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82") else b""


def same_noise(study: Study) -> bool:
    """Whether the pictures were drawn from one seed, whatever the seeds of the runs."""
    runs = [run for choice in study.compared.choices for run in choice.runs.values()]
    if study.stage is Stage.TRAINED:
        return len({str(nested(run.run.config, "callbacks", "samples", "seed")) for run in runs}) == 1
    records = [number.record for run in runs for number in run.numbers.values()]
    return len({str(record.get("seed")) for record in records if record.get("sampler") is not None}) == 1


def environment(report: ComparisonReport) -> dict[str, Counter[str]]:
    """What the runs ran on: of each value how many runs had it."""
    counts: dict[str, Counter[str]] = {}
    for run in report.runs:
        versions = nested(run.summary, "versions")
        fields = {key: run.summary.get(key) for key in ("device", "torch_threads", "platform", "python", "git_revision")}
        for key, value in (fields | (versions if isinstance(versions, dict) else {})).items():
            if value is not None:
                counts.setdefault(key.replace("_", " "), Counter())[str(value)] += 1
    return counts
