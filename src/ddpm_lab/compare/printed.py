"""The report on the console, and as CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_lab.compare.cells import Cell, cost_keys, costs_of, heads, row
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.report import ComparisonReport
from ddpm_lab.compare.study import Study
from ddpm_lab.compare.words import AVERAGED, cautions, effect_sentence, statements
from ddpm_lab.files import write_text

COPIED = "†"
Row = tuple[str, list[Cell]]
"""The label of a choice, and its cells."""


def table_rows(study: Study) -> tuple[list[str], list[Row]]:
    """The heads of all columns, and a row for each choice."""
    names = ["choice", *heads(study, study.main)]
    return names, [(choice.label, row(study, choice, study.main)) for choice in study.compared.choices]


def _plain(names: list[str], rows: Sequence[Row]) -> list[list[str]]:
    marked = [[label, *(f"{cell.text}{'*' * cell.best}{COPIED * cell.copied}" for cell in cells)] for label, cells in rows]
    return [names, *marked]


def console(report: ComparisonReport) -> list[str]:
    """Tables, then what is supported."""
    lines: list[str] = []
    for study in report.studies:
        lines += ["", f"{study.stage.value} ({_legend(study)})", "", *_aligned(_plain(*table_rows(study))), ""]
        lines += [f"  {statement.text}" for statement in statements(study)]
        lines += [f"  {AVERAGED}"] * bool(study.effects) + [f"    {effect_sentence(effect)}" for effect in study.effects]
        lines += [f"  note: {text}" for text in cautions(study)]
    return lines[1:] + [""] * bool(report.problems) + [f"note: {text}" for text in report.problems]


def _legend(study: Study, best: str = "* best mean") -> str:
    paired = "paired by seed" + " where they share one" * any(comparison.apart for comparison in study.judged.comparisons)
    over = f"means with {100 * study.level:g}% intervals over seeds; differences to {study.baseline.label}, {paired}; {best}"
    return over + f"; {COPIED} equal to another row by construction" * any(column.copies for column in study.main)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    width = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(cells, width, strict=True)).rstrip() for cells in table]
    return [lines[0], "─" * (sum(width) + 2 * len(width) - 2), *lines[1:]]


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in cells] for cells in table]
    width = [max(len(cells[i]) for cells in escaped) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(cells, width, strict=True)) + " |" for cells in escaped]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *lines[1:]]


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


def _tex(names: list[str], rows: Sequence[Row], caption: str) -> list[str]:
    """A booktabs table with the best means in bold. Labels are in braces: after a line break, TeX reads [ as an option."""

    def escaped(text: str) -> str:
        return "".join(TEX.get(c, c) for c in text)

    def marked(cell: Cell) -> str:
        text = escaped(cell.text + COPIED * cell.copied)
        return rf"\textbf{{{text}}}" if cell.best else text

    body = [" & ".join([f"{{{escaped(label)}}}", *map(marked, cells)]) + r" \\" for label, cells in rows]
    return [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
        r"\toprule",
        " & ".join(map(escaped, names)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _records(study: Study) -> list[dict[str, Any]]:
    """One row per choice, with every number unrounded."""
    records = []
    for choice in study.compared.choices:
        fields: dict[str, Any] = {"measured": study.stage.value, "choice": choice.label, **choice.values}
        fields |= {"seeds": len(choice.runs), "baseline": choice is study.baseline}
        for column in study.judged.columns:
            fields |= _numbers(study, choice, column)
        for cost in cost_keys(study.compared):
            values = costs_of(choice, cost)
            fields[cost] = sum(values) / len(values) if values else None
        records.append(fields)
    return records


def _numbers(study: Study, choice: ComparedChoice, column: Column) -> dict[str, Any]:
    key, estimate = column.measure.key, column.estimates.get(choice)
    if estimate is None:
        refused = column.refused.get(choice)
        return {f"{key}_not_comparable": "; ".join(map(str, refused))} if refused else {}
    fields: dict[str, Any] = {
        key: estimate.value,
        f"{key}_low": estimate.low,
        f"{key}_high": estimate.high,
        f"{key}_n": estimate.n,
    }
    if choice in column.copies:
        fields[f"{key}_equal_by_construction_to"] = column.copies[choice].original.label
    against = study.judged.of(choice, key)
    if against is None:
        return fields
    for name, e in (("difference", against.over_seeds), ("images", against.over_images)):
        if e is not None:
            fields |= {f"{key}_{name}": e.value, f"{key}_{name}_low": e.low, f"{key}_{name}_high": e.high}
    if against.apart:
        fields[f"{key}_difference_unpaired"] = True
    return fields | {f"{key}_p_holm": against.p, f"{key}_verdict": against.verdict.value}


def write_tables(report: ComparisonReport, folder: Path) -> None:
    """table.csv, table.md and table.tex."""
    records = [record for study in report.studies for record in _records(study)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for record in records for name in record)))
    writer.writeheader()
    writer.writerows(records)
    write_text(folder / "table.csv", text.getvalue())
    md, latex = [], ["% needs \\usepackage{booktabs}"]
    for study in report.studies:
        (names, table), legend = table_rows(study), _legend(study)
        md += [f"## {study.stage.value}", "", f"{legend[0].upper()}{legend[1:]}.", "", *_markdown(_plain(names, table)), ""]
        md += [f"- {statement.text}" for statement in statements(study)]
        md += ["", AVERAGED, ""] * bool(study.effects) + [f"- {effect_sentence(effect)}" for effect in study.effects] + [""]
        latex += [*_tex(names, table, f"{study.stage.value}: {_legend(study, 'best mean in bold')}"), ""]
    write_text(folder / "table.md", "\n".join(md))
    write_text(folder / "table.tex", "\n".join(latex))
