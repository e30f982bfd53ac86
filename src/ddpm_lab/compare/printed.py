"""Tables with the data by which cells are sorted, marked and coloured; the report on the console, as CSV, Markdown, LaTeX."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_lab.compare import words
from ddpm_lab.compare.choices import ComparedChoice, ComparedRun
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.judge import Column, Verdict
from ddpm_lab.compare.report import ComparisonReport, Study
from ddpm_lab.files import write_text

COPIED = "†"
COSTS = {
    "train_seconds": "training, s",
    "images_per_s": "images/s",
    "parameters": "parameters",
    "peak_memory_mib": "memory, MiB",
    "network_calls": "network calls a sample",
}
TEX = {c: f"\\{c}" for c in "_%&#${}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "∞": r"$\infty$",
    "–": "--",
    "·": r"$\cdot$",
    "é": r"\'e",
    COPIED: r"$^\dagger$",
}


class Cell(NamedTuple):
    text: str = words.NONE
    sort: float | None = None
    """The number, where there is one."""
    note: str = ""
    best: bool = False
    copied: bool = False
    """Equal to the cell of another row by construction."""
    verdict: Verdict | None = None


class Table(NamedTuple):
    heads: list[str]
    """Of the labels of rows, then of their cells."""
    rows: list[tuple[str, list[Cell]]]
    """By the label of a choice, or of an effect."""


def choice_table(study: Study, columns: Sequence[Column], costs: bool = True) -> Table:
    """The number of seeds; each measure, with the difference to the baseline where it is judged; costs."""
    keys, heads = cost_keys(study) if costs else [], ["choice", "seeds"]
    for column in columns:
        heads += [head(column), *(["difference"] * column.measure.judged)]
    rows = []
    for choice in study.compared.choices:
        cells = [Cell(str(len(choice.runs)), len(choice.runs))]
        for column in columns:
            cells += [mean_cell(choice, column), *([_difference_cell(study, choice, column)] * column.measure.judged)]
        rows.append((choice.label, cells + [_cost_cell(choice, key) for key in keys]))
    return Table(heads + [COSTS[key] for key in keys], rows)


def head(column: Column) -> str:
    """An arrow says which direction is better."""
    return column.measure.label + {-1: " ↓", 0: "", 1: " ↑"}[column.measure.better]


def mean_cell(choice: ComparedChoice, column: Column) -> Cell:
    estimate = column.estimates.get(choice)
    if estimate is None:
        refused = column.refused.get(choice)
        return Cell(words.VERDICTS[Verdict.REFUSED], note="; ".join(map(str, refused))) if refused else Cell()
    copy = column.copies.get(choice)
    one_seed = "one seed: no interval" if estimate.low is None else ""
    note = f"equals {copy.original.label} by construction" if copy else one_seed
    text = words.with_interval(estimate.value, estimate, words.digits_of(column))
    return Cell(text, estimate.value, note, choice in column.winners, copy is not None)


def _difference_cell(study: Study, choice: ComparedChoice, column: Column) -> Cell:
    if choice is study.baseline and choice in column.estimates:
        return Cell("baseline", 0.0)
    comparison = column.comparisons.get(choice)
    if comparison is None or comparison.over_seeds is None:
        return Cell()
    value, verdict = comparison.over_seeds.value, comparison.verdict
    if comparison.copy is not None:
        return Cell(words.VERDICTS[verdict], value, words.by_construction(comparison.copy, comparison.measure), verdict=verdict)
    deciding = None if comparison.identical else comparison.deciding
    over = " (unpaired)" if comparison.apart else " (images)" if deciding and not comparison.replicated else ""
    note = words.VERDICTS[verdict] + ("" if comparison.p is None else f", p = {comparison.p:.2g} by Holm")
    return Cell(f"{words.with_interval(value, deciding, words.digits_of(column), True)}{over}", value, note, verdict=verdict)


def cost_keys(study: Study) -> list[str]:
    """Those that some run has."""
    return [key for key in COSTS if any(costs_of(choice, key) for choice in study.compared.choices)]


def costs_of(choice: ComparedChoice, key: str) -> list[float]:
    return [value for run in choice.runs.values() if (value := _cost(run, key)) is not None]


def _cost(run: ComparedRun, key: str) -> float | None:
    """From the summary; the network calls of a sample from the records of scores."""
    value = run.run.summary.get(key)
    if key == "network_calls":
        records = [n.record for n in run.numbers.values() if n.record.get("reference") and n.record.get("sampler")]
        value = records[0].get("calls", records[0].get("steps")) if records else None
    return float(value) if isinstance(value, int | float) else None


def _cost_cell(choice: ComparedChoice, key: str) -> Cell:
    if not (values := costs_of(choice, key)):
        return Cell()
    mean = sum(values) / len(values)
    note = f"{min(values):,.6g} to {max(values):,.6g} over {len(values)} runs"
    return Cell(words.decimal(mean, 0 if mean >= 10 or all(map(float.is_integer, values)) else 2), mean, note)


def effect_table(study: Study) -> Table:
    """A row for each value of each axis; of each measure the mean over settings, and in which direction they point."""
    heads, rows = ["axis"], {_effect_name(effect): list[Cell]() for effect in study.effects}
    for measure in dict.fromkeys(effect.measure for effect in study.effects):
        described = {_effect_name(effect): effect for effect in study.effects if effect.measure == measure}
        estimates = [effect.estimate for effect in described.values()]
        digits = words.decimals_of_differences([estimate.value for estimate in estimates], words.half_widths(estimates))
        heads += [measure.label, "settings"]
        for name, cells in rows.items():
            cells += _effect_cells(described.get(name), digits)
    return Table(heads, list(rows.items()))


def _effect_name(effect: Effect) -> str:
    return f"{effect.axis}: {effect.value} instead of {effect.against}"


def _effect_cells(effect: Effect | None, digits: int) -> tuple[Cell, Cell]:
    """The mean over settings, and in which direction the settings point."""
    if effect is None:
        return Cell(), Cell()
    value, n = effect.estimate.value, len(effect.settings)
    if effect.copy is not None:
        why = words.by_construction(effect.copy, effect.measure)
        return Cell(words.VERDICTS[Verdict.CONSTRUCTION], value, why), Cell(str(n), n)
    low, high = (words.decimal(end, digits, True) for end in (min(effect.settings), max(effect.settings)))
    note = f"over {len(effect.seeds)} seed{'s' * (len(effect.seeds) > 1)}; by setting from {low} to {high}"
    one_way = f"{words.agreement(effect)} ({n})" if n > 1 else "1"
    settings = f"{effect.lower} of {n} lower: disagree" if effect.disagree else one_way
    return Cell(words.with_interval(value, effect.estimate, digits, True), value, note), Cell(settings, n)


def console(report: ComparisonReport) -> list[str]:
    """Tables, then what is supported."""
    lines: list[str] = []
    for study in report.studies:
        heads, *rows = ["  ".join(cells) for cells in _padded(_marked(choice_table(study, study.main)))]
        table = [heads.rstrip(), "─" * len(heads), *map(str.rstrip, rows)]
        lines += ["", f"{study.stage.value} ({_legend(study)})", "", *table, ""]
        lines += [f"  {statement.text}" for statement in words.statements(study)]
        if study.effects:
            lines += [f"  {words.AVERAGED}", *(f"    {words.effect_sentence(effect)}" for effect in study.effects)]
        lines += [f"  note: {text}" for text in words.cautions(study)]
    return lines[1:] + [""] * bool(report.problems) + [f"note: {text}" for text in report.problems]


def _legend(study: Study, best: str = "* best mean") -> str:
    paired = "paired by seed" + " where they share one" * any(comparison.apart for comparison in study.comparisons)
    over = f"means with {100 * study.level:g}% intervals over seeds; differences to {study.baseline.label}, {paired}; {best}"
    return over + f"; {COPIED} equal to another row by construction" * any(column.copies for column in study.main)


def _marked(table: Table) -> list[list[str]]:
    """Text alone: a star at the best means."""
    rows = [[label, *(f"{c.text}{'*' * c.best}{COPIED * c.copied}" for c in cells)] for label, cells in table.rows]
    return [table.heads, *rows]


def _padded(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """All cells of a column equally wide."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[cell.ljust(width) for cell, width in zip(cells, widths, strict=True)] for cells in rows]


def _markdown(table: Table) -> list[str]:
    rows = _padded([[cell.replace("|", "\\|").replace("*", "\\*") for cell in cells] for cells in _marked(table)])
    first, *others = [f"| {' | '.join(cells)} |" for cells in rows]
    return [first, f"|{'|'.join('-' * (len(cell) + 2) for cell in rows[0])}|", *others]


def _tex(table: Table, caption: str) -> list[str]:
    """A booktabs table with the best means in bold. Labels are in braces: after a line break, TeX reads [ as an option."""

    def escaped(text: str) -> str:
        return "".join(TEX.get(c, c) for c in text)

    def marked(cell: Cell) -> str:
        text = escaped(cell.text + COPIED * cell.copied)
        return rf"\textbf{{{text}}}" if cell.best else text

    return [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table.heads) - 1)}}}",
        r"\toprule",
        " & ".join(map(escaped, table.heads)) + r" \\",
        r"\midrule",
        *(" & ".join([f"{{{escaped(label)}}}", *map(marked, cells)]) + r" \\" for label, cells in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _record(study: Study, choice: ComparedChoice) -> dict[str, Any]:
    """A choice with every number unrounded."""
    fields: dict[str, Any] = {"measured": study.stage.value, "choice": choice.label, **choice.values}
    fields |= {"seeds": len(choice.runs), "baseline": choice is study.baseline}
    for column in study.columns:
        fields |= {f"{column.measure.key}{suffix}": value for suffix, value in _numbers(choice, column).items()}
    costs = {key: costs_of(choice, key) for key in cost_keys(study)}
    return fields | {key: sum(values) / len(values) if values else None for key, values in costs.items()}


def _numbers(choice: ComparedChoice, column: Column) -> dict[str, Any]:
    """By what is put behind the key of the measure."""
    estimate, against = column.estimates.get(choice), column.comparisons.get(choice)
    if estimate is None:
        refused = column.refused.get(choice)
        return {"_not_comparable": "; ".join(map(str, refused))} if refused else {}
    fields: dict[str, Any] = {"": estimate.value, "_low": estimate.low, "_high": estimate.high, "_n": estimate.n}
    if choice in column.copies:
        fields["_equal_by_construction_to"] = column.copies[choice].original.label
    if against is None:
        return fields
    for name, e in (("_difference", against.over_seeds), ("_images", against.over_images)):
        if e is not None:
            fields |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
    if against.apart:
        fields["_difference_unpaired"] = True
    return fields | {"_p_holm": against.p, "_verdict": against.verdict.value}


def _no_formula(value: Any) -> Any:
    """What a spreadsheet does not calculate: behind an apostrophe text is text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_tables(report: ComparisonReport, folder: Path) -> None:
    """table.csv, table.md and table.tex."""
    records = [_record(study, choice) for study in report.studies for choice in study.compared.choices]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for record in records for name in record)))
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in record.items()} for record in records)
    write_text(folder / "table.csv", text.getvalue())
    md, latex = [], ["% needs \\usepackage{booktabs}"]
    for study in report.studies:
        table, legend = choice_table(study, study.main), _legend(study)
        md += [f"## {study.stage.value}", "", f"{legend[0].upper()}{legend[1:]}.", "", *_markdown(table), ""]
        md += [f"- {statement.text}" for statement in words.statements(study)]
        if study.effects:
            md += ["", words.AVERAGED, "", *(f"- {words.effect_sentence(effect)}" for effect in study.effects)]
        md.append("")
        latex += [*_tex(table, f"{study.stage.value}: {_legend(study, 'best mean in bold')}"), ""]
    write_text(folder / "table.md", "\n".join(md).replace("<", "&lt;"))  # no HTML of a label
    write_text(folder / "table.tex", "\n".join(latex))
