"""index.html: one file that holds everything and opens from the disk without a network."""

import base64
import importlib.resources
import io
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ddpm_lab.compare import lines
from ddpm_lab.compare.answer_words import answer_lines, marked_as_best
from ddpm_lab.compare.cautions import counted
from ddpm_lab.compare.chance_words import chance_lines, needed_lines, rule
from ddpm_lab.compare.choices import MISSING, ComparedChoice
from ddpm_lab.compare.comparison import Verdict
from ddpm_lab.compare.figures import Figure, chance_figure, differences_figure, file_name, means_figure, pareto
from ddpm_lab.compare.palette import DARK, LIGHT, NEUTRAL
from ddpm_lab.compare.printed import MANY
from ddpm_lab.compare.report import ComparisonReport, Stage, Study
from ddpm_lab.compare.run_folder import leaving_out, nested
from ddpm_lab.compare.tables import choice_table, effect_table, equal_cost_caption, equal_cost_table, head, mean_cell
from ddpm_lab.compare.words import AVERAGED, cautions, statements
from ddpm_lab.files import read_json
from ddpm_lab.metrics.record import line

MOST_PICTURES = 24
"""Choices whose samples are shown: each adds its picture to the file."""
PICTURE_BYTES = 450_000
"""Of all pictures of a study in the file. Those of more bytes are made smaller."""
PLOTLY = "plotly/plotly-basic.min.js"
"""plotly.js-basic-dist-min of npm, a quarter of the whole script: only scatter plots are drawn. Its head says the version."""


def page_of(
    report: ComparisonReport, folders: Sequence[str | Path], command: Sequence[str] = (), kinds: Sequence[str] = ()
) -> str:
    """Reads pictures and curves: what cannot be read is added to the problems of the runs. `command`: the words that made the
    page. `kinds`: formats of the figures that are beside the page as files."""
    loader = PackageLoader("ddpm_lab.compare", ".")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.globals |= {function.__name__: function for function in CALLED}
    template = pages.get_template("page.html")
    return template.render(
        report=report,
        sections=[_section(report, study, kinds) for study in report.studies],  # first: the problems are complete then
        folders=folders,
        answers=answer_lines(report),
        families=[f"{s.stage.value.lower()}: {counted(n, 'pair')}" for s in report.studies if (n := _pairs(s))],
        command=shlex.join(command),
        few=MANY,
        averaged=AVERAGED[:-1],
        plotly=_resource(PLOTLY),
        script=_resource("page.js"),
        css=_resource("page.css") + _palette(),
    )


def _pairs(study: Study) -> int:
    """Of choices, over all judged measures."""
    return study.answers[0].family if study.answers else 0


def _resource(name: str) -> Markup:
    return Markup(importlib.resources.files("ddpm_lab.compare").joinpath(name).read_text(encoding="utf-8"))


def _palette() -> Markup:
    """The colours of choices as variables of the style sheet."""
    light, dark = (
        " ".join([f"--neutral: {neutral};", *(f"--c{i}: {colour};" for i, colour in enumerate(colours))])
        for neutral, colours in zip(NEUTRAL, (LIGHT, DARK), strict=True)
    )
    return Markup(
        f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root:not(.printing) {{ {dark} }} }}\n"
    )


def figure_json(figure: Figure) -> Markup:
    """What page.js reads, inside a script element, which only `<` could end."""
    drawn = {name: value for name, value in vars(figure).items() if name not in ("title", "alt", "wide")}
    text = json.dumps(drawn, ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _section(report: ComparisonReport, study: Study, kinds: Sequence[str]) -> dict[str, Any]:
    """A study with its figures and the files of each, pictures, and sentences in the order of verdicts."""
    place, drawn = count(1), {}
    for title, figures in figures_of(study).items():
        paths = [f"{figures_folder(report, study)}/{file_name(next(place), figure)}" for figure in figures]
        files = [{kind: f"{path}.{kind}" for kind in kinds} for path in paths]
        drawn[title] = list(zip(figures, files, strict=True))
    return {
        "study": study,
        "statements": sorted(statements(study), key=lambda statement: list(Verdict).index(statement.verdict)),
        "figures": drawn,
        "pictures": _pictures(study),
    }


def figures_folder(report: ComparisonReport, study: Study) -> str:
    """Where the figures of a study are beside the page, as files."""
    return f"figures/{study.stage.name.lower()}" if len(report.studies) > 1 else "figures"


def figures_of(study: Study) -> dict[str, list[Figure]]:
    """The figures of a study, by heading."""
    curves = [*lines.over_lengths(study), lines.rate_distortion(study)]
    if study.stage is Stage.TRAINED:
        curves = [lines.terms(study), *lines.learning(study), *lines.described(study)]
    columns = [column for column in study.main if column.estimates]
    intervals = [draw(study, column) for column in columns for draw in (means_figure, differences_figure)]
    chance = [chance_figure(each) for each in study.chance]
    plots = [pareto(study), lines.distance_over_seconds(study), *curves]
    return {"Intervals": list(filter(None, intervals)), "Chance": chance, "Plots": list(filter(None, plots))}


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
    shown, contents = [], []
    for choice, by_seed in list(found.items())[:MOST_PICTURES]:
        seed = min(shared or by_seed, default=None)
        if seed is not None and (png := _png(by_seed[seed])):
            shown.append({"label": choice.label, "seed": seed, "name": by_seed[seed].name})
            contents.append(png)
    return [{**each, "uri": uri} for each, uri in zip(shown, _uris(contents), strict=True) if uri]


def _uris(pngs: Sequence[bytes]) -> list[str]:
    """Of more than PICTURE_BYTES together JPEG, with fewer pixels on a side until they fit; empty for what cannot be read."""
    side, kind, contents = 512, "png", list(pngs)
    while sum(map(len, contents)) > PICTURE_BYTES and side >= 64:
        contents, kind = [_smaller(png, side) for png in pngs], "jpeg"
        side //= 2
    return [f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if content else "" for content in contents]


def _smaller(png: bytes, side: int) -> bytes:
    """As JPEG, with at most `side` pixels on a side. Empty where it cannot be read."""
    from PIL import Image

    made = io.BytesIO()
    try:
        with Image.open(io.BytesIO(png)) as picture:
            small = picture.convert("RGB")
    except Exception:  # PIL raises many kinds for a damaged file
        return b""
    small.thumbnail((side, side))
    small.save(made, "JPEG", quality=80)
    return made.getvalue()


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


def train_commands(report: ComparisonReport) -> dict[str, list[str]]:
    """By the folder of a sweep, the command of each of its runs that is compared, as its sweep.json lists them."""
    made: dict[str, list[str]] = {}
    listed: dict[Path, dict[str, list[str]]] = {}
    for run in report.runs:
        sweep = run.path.resolve().parent
        if sweep not in listed:
            listed[sweep] = {}
            with leaving_out(sweep / "sweep.json", [], "is not as train.py writes it"):
                arms = read_json(sweep / "sweep.json")["arms"]
                listed[sweep] = {str(entry["number"]): [str(word) for word in entry["overrides"]] for entry in arms}
        if (words := listed[sweep].get(run.path.name)) is not None:
            made.setdefault(str(run.path.parent), []).append(shlex.join(["python", "train.py", *words]))
    return made


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


CALLED = (
    *(cautions, chance_lines, choice_table, counted, effect_table, environment, equal_cost_caption, equal_cost_table),
    *(figure_json, head, line, marked_as_best, matrix, mean_cell, needed_lines, rule, same_noise, train_commands),
)
"""Functions that page.html calls."""
