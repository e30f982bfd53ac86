"""index.html: one file with everything in it, that opens from the disk without a network."""

import base64
import importlib.resources
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ddpm_lab.compare.choices import Choice
from ddpm_lab.compare.curves import learning, rate_distortion, terms
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.figures import Figure, of_differences, of_means, pareto
from ddpm_lab.compare.folders import said
from ddpm_lab.compare.measures import Measure, shown, spanned
from ddpm_lab.compare.report import TRAINED, Report
from ddpm_lab.compare.schedules import schedules
from ddpm_lab.compare.sentences import AVERAGED, agreement, cautions, effect_digits, sentences
from ddpm_lab.compare.table import Cell, Study, cells, head
from ddpm_lab.metrics.record import line

PICTURES = 24
"""Choices whose samples are shown: each adds its picture to the file."""
VERDICTS = ("better", "ahead", "worse", "behind", "open", "same", "none", "refused")


@dataclass
class Picture:
    label: str
    seed: int
    uri: str
    width: int
    height: int
    name: str


@dataclass
class Section:
    """Of the page, for one study."""

    study: Study
    told: list[tuple[str, str]]
    cautions: list[str]
    head: list[str]
    rows: list[tuple[Choice, list[Cell]]]
    details: tuple[list[str], list[tuple[Choice, list[Cell]]]] | None
    effects: tuple[list[str], list[tuple[str, list[Cell]]]] | None
    matrix: tuple[list[str], list[tuple[str, list[tuple[str, list[Cell] | None]]]]] | None
    intervals: list[Figure]
    plots: list[Figure]
    pictures: list[Picture]
    same_noise: bool
    differing: list[tuple[str, str, list[str]]]
    measured: list[tuple[str, str]]


def page_of(report: Report, folders: Sequence[str | Path]) -> str:
    """What cannot be read or plotted of the runs is added to their problems."""
    sections = [_section(study, report) for study in report.studies]
    environment = Environment(
        loader=PackageLoader("ddpm_lab.compare", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        report=report, sections=sections, folders=folders, averaged=AVERAGED, environment=_environment(report),
        figure_json=_figure_json,
        plotly=Markup(_plotly()), script=Markup(_own("page.js")), css=Markup(_own("page.css")),
    )  # fmt: skip


def write_page(page: str, path: Path) -> None:
    """Beside the target, then renamed."""
    partial = path.with_suffix(".tmp")
    partial.write_text(page, encoding="utf-8", errors="backslashreplace")  # a file's name may be no text
    partial.replace(path)


def _own(name: str) -> str:
    return importlib.resources.files("ddpm_lab.compare").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    """plotly.js as its package brings it. The package itself, which takes a second to import, is not needed for it."""
    return importlib.resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def _figure_json(figure: Figure) -> Markup:
    """Inside a script element, where only `<` could end it."""
    return Markup(
        json.dumps({"data": figure.data, "layout": figure.layout}, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    )


def _section(study: Study, report: Report) -> Section:
    trained = study.title == TRAINED
    told = sorted(sentences(study.judged, study.level), key=lambda pair: VERDICTS.index(pair[0]))
    intervals = [
        f for column in study.main if column.estimates for f in (of_means(study, column), of_differences(study, column)) if f
    ]
    plots = [pareto(study), terms(study) if trained else None, None if trained else rate_distortion(study)]
    plots += [*learning(study), *schedules(study, report.not_plotted)] if trained else []
    others = [column for column in study.judged.columns if column not in study.main]
    return Section(
        study, told, cautions(study.compared, study.judged), head(study, study.main),
        [(choice, cells(study, choice, study.main)) for choice in study.compared.choices],
        _details(study, others) if others else None, _effects(study) if study.effects else None, _matrix(study), intervals,
        [plot for plot in plots if plot is not None],
        _pictures(study), _same_noise(study), _differing(study), _measured(study),
    )  # fmt: skip


def _details(study: Study, columns: Sequence[Any]) -> tuple[list[str], list[tuple[Choice, list[Cell]]]]:
    costs = len(head(study, [])) - 1
    names = head(study, columns)
    return names[: len(names) - costs], [(c, cells(study, c, columns)[: len(names) - costs]) for c in study.compared.choices]


def _effects(study: Study) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """A row for each value of each axis; of every measure the mean over settings, and what the settings say of it."""
    measures = list(dict.fromkeys(effect.measure for effect in study.effects))
    digits = {measure: effect_digits([e for e in study.effects if e.measure == measure]) for measure in measures}
    rows: dict[str, dict[Measure, Effect]] = {}
    for effect in study.effects:
        rows.setdefault(f"{effect.axis}: {effect.value} instead of {effect.against}", {})[effect.measure] = effect

    def two(measure: Measure, effect: Effect | None) -> list[Cell]:
        if effect is None:
            return [Cell("–"), Cell("–")]
        found, places = effect.estimate, digits[measure]
        span = "" if found.low is None else f" {spanned(found.low, found.high, places, True)}"
        ends = [shown(end, places, True) for end in (min(effect.settings), max(effect.settings))]
        over = f"over {len(effect.seeds)} seed{'s' * (len(effect.seeds) > 1)}; by setting from {ends[0]} to {ends[1]}"
        n = len(effect.settings)
        agreed = f"{agreement(effect)}{f' {n}' * agreement(effect).endswith('all')}"
        told = f"{effect.lower} of {n} lower: disagree" if effect.disagree else agreed if n > 1 else "1"
        return [Cell(f"{shown(found.value, places, True)}{span}", found.value, note=over), Cell(told, n)]

    head = [name for measure in measures for name in (measure.label, "settings")]
    return head, [(name, [c for m in measures for c in two(m, found.get(m))]) for name, found in rows.items()]


def _matrix(study: Study) -> tuple[list[str], list[tuple[str, list[tuple[str, list[Cell] | None]]]]] | None:
    """Where exactly two axes vary, in the form of DDPM's Table 2: one in blocks, the other in rows; None where none was run."""
    if len(study.compared.free) != 2:
        return None
    first, second = study.compared.free
    choices = {(c.values.get(first, "–"), c.values.get(second, "–")): c for c in study.compared.choices}
    outer, inner = (list(dict.fromkeys(pair[i] for pair in choices)) for i in (0, 1))

    def row(a: str, b: str) -> list[Cell] | None:
        found = choices.get((a, b))
        return None if found is None else [cell for col in study.main for cell in cells(study, found, [col])[1:2]]

    names = [first, second, *(head(study, [column])[1] for column in study.main)]
    return names, [(a, [(b, row(a, b)) for b in inner]) for a in outer]


def _pictures(study: Study) -> list[Picture]:
    """Of the lowest seed that all have, or else of each choice's own lowest."""
    shared = set.intersection(*({s for s, arm in c.arms.items() if arm.picture} for c in study.compared.choices))
    found = []
    for choice in study.compared.choices[:PICTURES]:
        seed = min(shared or {s for s, arm in choice.arms.items() if arm.picture}, default=None)
        path = None if seed is None else choice.arms[seed].picture
        if seed is not None and path is not None and (size := _size(content := _bytes(path))):
            uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            found.append(Picture(choice.label, seed, uri, *size, path.name))
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _same_noise(study: Study) -> bool:
    """Whether the pictures began at the same noise: drawn from one seed, whatever the runs' own."""
    arms = [arm for choice in study.compared.choices for arm in choice.arms.values()]
    if study.title == TRAINED:
        seeds = {str(said(arm.run.config, "callbacks", "samples", "seed")) for arm in arms}
    else:
        seeds = {str(n.record.get("seed")) for arm in arms for n in arm.numbers.values() if n.record.get("sampler") is not None}
    return len(seeds) == 1


def _size(png: bytes) -> tuple[int, int] | None:
    """Width and height, from the header of a whole file."""
    whole = png.startswith(b"\x89PNG") and png.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", png[16:24]) if whole else None


def _differing(study: Study) -> list[tuple[str, str, list[str]]]:
    """(key, what it follows, its value in each choice)."""
    choices = study.compared.choices
    return [(axis.key, axis.follows or "", [c.values.get(axis.key, "–") for c in choices]) for axis in study.compared.axes]


def _measured(study: Study) -> list[tuple[str, str]]:
    """How each judged number came about, by the record of its first."""
    found = []
    for column in study.main:
        number = next((n for numbers in column.numbers.values() for n in numbers.values()), None)
        if number is not None:
            found.append((column.measure.label, line(number.record)))
    return found


def _environment(report: Report) -> list[tuple[str, list[tuple[str, int]]]]:
    """What the runs ran on: each value with how many runs had it."""
    counted: dict[str, dict[str, int]] = {}
    for run in report.runs:
        summary = run.summary
        versions = summary.get("versions") if isinstance(summary.get("versions"), dict) else {}
        own = {key: summary.get(key) for key in ("device", "torch_threads", "platform", "python", "git_revision")} | dict(
            versions or {}
        )
        for key, value in own.items():
            if value is not None:
                counts = counted.setdefault(key.replace("_", " "), {})
                counts[str(value)] = counts.get(str(value), 0) + 1
    return [(key, list(counts.items())) for key, counts in counted.items()]
