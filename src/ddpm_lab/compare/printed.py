"""The report on the console, as CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_lab.compare import words
from ddpm_lab.compare.answer_words import answer_lines, marked_as_best
from ddpm_lab.compare.cautions import counted
from ddpm_lab.compare.chance_words import chance_fields, chance_lines, further_fields, needed_lines, rule
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.comparison import Verdict
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.report import ComparisonReport, Study
from ddpm_lab.compare.tables import (
    Cell,
    Table,
    choice_table,
    column_heads,
    cost_keys,
    costs_of,
    equal_cost_caption,
    equal_cost_table,
)
from ddpm_lab.errors import UserError
from ddpm_lab.files import write_text

COPIED = "†"
ANSWERED = "Which is best, and what cannot be told from it?"
MANY = 8
"""Choices up to which each comparison with the baseline is printed without being asked for."""
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


def console(report: ComparisonReport, width: int | None = None, every: bool = False) -> list[str]:
    """The answer, then tables and comparisons. `width`: of the terminal, in characters. `every`: each comparison with the
    baseline, also where there are more than MANY choices."""
    lines = [ANSWERED, *(f"  {line}" for line in answer_lines(report))]
    for study in report.studies:
        table = choice_table(study, study.main)
        lines += ["", f"{study.stage.value} ({_legend(study)})", "", *_lines(table, width), *_same(table), ""]
        lines += [f"  {text}" for text in _compared(study, every)]
        if study.equal_cost:
            lines += ["", f"{equal_cost_caption(study)}:", "", *_lines(equal_cost_table(study), width), ""]
        if study.effects:
            lines += [f"  {words.AVERAGED}", *(f"    {words.effect_sentence(effect)}" for effect in study.effects)]
        lines += [f"  {line}" for line in (*chance_lines(study), *needed_lines(study))]
        lines += [f"  note: {text}" for text in words.cautions(study)]
    return lines + [""] * bool(report.problems) + [f"note: {text}" for text in report.problems]


def _compared(study: Study, every: bool) -> list[str]:
    """Of many choices what is not comparable, and where the comparisons are."""
    statements = words.statements(study)
    if every or len(study.compared.choices) <= MANY:
        return [statement.text for statement in statements]
    n = len(study.comparisons)
    refused = [statement.text for statement in statements if statement.verdict is Verdict.REFUSED]
    return [*refused, f"{counted(n, 'comparison')} with {study.baseline.label}: on the page, and here with all=true"]


def _same(table: Table) -> list[str]:
    return [f"the same in all: {'; '.join(table.same)}"] if table.same else []


def _lines(table: Table, width: int | None) -> list[str]:
    """Columns that do not fit beside the others go below them, in a block of their own with the labels."""
    labels, *columns = zip(*_marked(table), strict=True)
    if width is not None:
        labels = (labels[0], *shortened(labels[1:], max(12, width // 3)))
    blocks: list[list[Sequence[str]]] = [[labels]]
    for column in columns:
        wide = sum(max(map(len, each)) + 2 for each in (*blocks[-1], column)) - 2
        if width is not None and wide > width and len(blocks[-1]) > 1:
            blocks.append([labels])
        blocks[-1].append(column)
    lines = []
    for block in blocks:
        heads, *rows = ["  ".join(cells) for cells in _padded(list(zip(*block, strict=True)))]
        lines += ["", heads.rstrip(), "─" * len(heads), *map(str.rstrip, rows)]
    return lines[1:]


def shortened(labels: Sequence[str], width: int) -> Sequence[str]:
    """At most `width` characters of each, the end, the start or the middle left out; whole where two would be the same."""
    half = (width - 1) // 2

    def ways(label: str) -> tuple[str, ...]:
        if len(label) <= width:
            return (label,) * 3
        return f"{label[: width - 1]}…", f"…{label[1 - width :]}", f"{label[: width - 1 - half]}…{label[-half:]}"

    tried = zip(*map(ways, labels), strict=True)
    return next((short for short in tried if len(set(short)) == len(labels)), labels)


def _legend(study: Study, best: str = "* {}") -> str:
    """`best`: how the best means are marked."""
    parts = [f"means with {100 * study.level:g}% intervals over seeds, {rule(study)}"]
    if study.comparisons:
        apart = " where they share two" * any(comparison.apart for comparison in study.comparisons)
        parts.append(f"differences to {study.baseline.label}, paired by seed{apart}")
    if any(column.winners for column in study.main):
        parts.append(best.format(marked_as_best(study)))
    return "; ".join(parts + [f"{COPIED} equal to another row by construction"] * any(column.copies for column in study.main))


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
    for chance in study.chance:
        fields |= {f"{chance.measure.key}{suffix}": value for suffix, value in chance_fields(chance).items()}
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
    return fields | {"_p_holm": against.p, "_verdict": against.verdict.value} | further_fields(against)


def _no_formula(value: Any) -> Any:
    """What a spreadsheet does not calculate: behind an apostrophe text is text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") and not _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_columns(report: ComparisonReport, asked: Sequence[str]) -> None:
    """Raises UserError for names of columns that no table of choices has."""
    allowed = dict.fromkeys(key for study in report.studies for key in column_heads(study, study.main))
    if wrong := [name for name in asked if name not in allowed]:
        raise UserError(f"columns={','.join(wrong)}: allowed is {', '.join(allowed)}")


def write_tables(report: ComparisonReport, folder: Path, columns: Sequence[str] = ()) -> None:
    """table.csv, table.md and table.tex; of this one the `columns` that are asked for, in their order."""
    records = [_record(study, choice) for study in report.studies for choice in study.compared.choices]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for record in records for name in record)))
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in record.items()} for record in records)
    write_text(folder / "table.csv", text.getvalue())
    md, latex = [f"## {ANSWERED}", "", *(f"- {line}" for line in answer_lines(report)), ""], ["% needs \\usepackage{booktabs}"]
    for study in report.studies:
        table, legend = choice_table(study, study.main), _legend(study)
        md += [
            f"## {study.stage.value}",
            "",
            f"{legend[0].upper()}{legend[1:]}.",
            "",
            *_markdown(table),
            *(f"\n{line}." for line in _same(table)),
            "",
        ]
        md += [f"- {statement.text}" for statement in words.statements(study)]
        if study.equal_cost:
            md += ["", f"{equal_cost_caption(study)}:", "", *_markdown(equal_cost_table(study))]
        if study.effects:
            md += ["", words.AVERAGED, "", *(f"- {words.effect_sentence(effect)}" for effect in study.effects)]
        md.append("")
        chosen = choice_table(study, study.main, only=columns)
        caption = "; ".join([_legend(study, "{} in bold"), *_same(chosen)])
        latex += [*_tex(chosen, f"{study.stage.value}: {caption}"), ""]
        latex += [*_tex(equal_cost_table(study), equal_cost_caption(study)), ""] if study.equal_cost else []
    write_text(folder / "table.md", "\n".join(md).replace("<", "&lt;"))  # no HTML of a label
    write_text(folder / "table.tex", "\n".join(latex))
