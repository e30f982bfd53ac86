"""The comparison as a table: for the console, CSV, Markdown and LaTeX."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm_lab.compare.choices import Arm, Choice, Compared
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.judge import Column, Judged, winners
from ddpm_lab.compare.measures import decimals, shown, spanned
from ddpm_lab.compare.sentences import verdict

COSTS = {
    "train_seconds": ("training, s", 0), "images_per_s": ("images/s", 0), "parameters": ("parameters", 0),
    "peak_memory_mib": ("memory, MiB", 0), "network_calls": ("network calls a sample", 0),
}  # fmt: skip


@dataclass
class Study:
    """Choices of one kind (as trained, or as evaluated) with all that is said of them."""

    title: str
    compared: Compared
    baseline: Choice
    judged: Judged
    level: float
    effects: list[Effect] = field(default_factory=list)

    @property
    def main(self) -> list[Column]:
        """What the table shows: judged numbers, or all where none is."""
        columns = self.judged.columns
        return [column for column in columns if column.measure.judged] or columns


@dataclass
class Cell:
    """`text` for readers; `sort` for the page's sorting."""

    text: str
    sort: float | str | None = None
    best: bool = False
    note: str = ""


def digits_of(column: Column) -> int:
    estimates = column.estimates.values()
    spans = [(e.high - e.low) / 2 for e in estimates if e.low is not None and e.high is not None]
    errors = [n.se for numbers in column.numbers.values() for n in numbers.values() if n.se]
    return min(decimals([e.value for e in estimates], spans or errors), decimals([e.value for e in estimates], []) + 1)


def cells(study: Study, choice: Choice, columns: Sequence[Column]) -> list[Cell]:
    """Seeds, then per measure the mean with its interval and the difference to the baseline, then costs."""
    row = [Cell(str(len(choice.arms)), len(choice.arms))]
    for column in columns:
        row += _measured(study, choice, column)
    return row + [cost(choice, key, digits) for key, (_, digits) in costs(study.compared).items()]


def _measured(study: Study, choice: Choice, column: Column) -> list[Cell]:
    found, digits = column.estimates.get(choice.label), digits_of(column)
    if found is None:
        why = column.refused.get(choice.label, "")
        return [Cell("not comparable" if why else "–", None, note=why)] + [Cell("–")] * column.measure.judged
    best = choice.label in winners(column, study.compared.choices)
    interval = "" if found.low is None else f" {spanned(found.low, found.high, digits)}"
    own = [Cell(shown(found.value, digits) + interval, found.value, best, "" if interval else "one seed: no interval")]
    return own + ([_against(study, choice, column, digits)] if column.measure.judged else [])


def _against(study: Study, choice: Choice, column: Column, digits: int) -> Cell:
    if choice is study.baseline:
        return Cell("baseline", 0.0)
    found = study.judged.of(choice, column.measure.key)
    if found is None or found.over_seeds is None:
        return Cell("–")
    value, deciding = found.over_seeds.value, found.deciding
    span = f" {spanned(deciding.low, deciding.high, digits, True)}" if deciding and not found.same else ""
    over = " (unpaired)" if found.apart else "" if found.replicated or not span else " (images)"
    note = verdict(found, study.level) + ("" if found.p is None else f", p = {found.p:.2g} by Holm")
    return Cell(f"{shown(value, digits, True)}{span}{over}", value, note=note)


def costs(compared: Compared) -> dict[str, tuple[str, int]]:
    """Those that some arm has."""
    arms = [arm for choice in compared.choices for arm in choice.arms.values()]
    return {key: what for key, what in COSTS.items() if any(_cost(arm, key) is not None for arm in arms)}


def cost(choice: Choice, key: str, digits: int) -> Cell:
    values = [value for arm in choice.arms.values() if (value := _cost(arm, key)) is not None]
    if not values:
        return Cell("–")
    mean = sum(values) / len(values)
    return Cell(
        shown(mean, digits if mean >= 10 or all(map(float.is_integer, values)) else 2), mean,
        note=f"{min(values):,.6g} to {max(values):,.6g} over {len(values)} runs",
    )  # fmt: skip


def _cost(arm: Arm, key: str) -> float | None:
    """As the summary has it. How often the network was called for a sample, numbers of samples say."""
    found = arm.run.summary.get(key)
    if key == "network_calls":
        found = next(
            (n.record.get("steps") for n in arm.numbers.values() if "reference" in n.record and "sampler" in n.record), None
        )
    return float(found) if isinstance(found, int | float) else None


def head(study: Study, columns: Sequence[Column]) -> list[str]:
    named = [name for column in columns for name in _heads(study, column)]
    return ["seeds", *named, *(label for label, _ in costs(study.compared).values())]


def _heads(study: Study, column: Column) -> list[str]:
    arrow = {-1: " ↓", 0: "", 1: " ↑"}[column.measure.better]
    return [f"{column.measure.label}{arrow}", *(["difference"] * column.measure.judged)]


def rows(study: Study) -> list[list[str]]:
    """As text: the head, then a row for each choice; the best mean of a column is starred."""
    body = [
        [choice.label, *(cell.text + ("*" if cell.best else "") for cell in cells(study, choice, study.main))]
        for choice in study.compared.choices
    ]
    return [["choice", *head(study, study.main)], *body]


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """For the console."""
    width = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip() for row in table]
    return [lines[0], "─" * (sum(width) + 2 * len(width) - 2), *lines[1:]]


def markdown(table: Sequence[Sequence[str]]) -> list[str]:
    width = [max(len(_piped(row[i])) for row in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(_piped(cell).ljust(w) for cell, w in zip(row, width, strict=True)) + " |" for row in table]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *lines[1:]]


def _piped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


TEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "−": "$-$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "∞": r"$\infty$",
    "–": "--", "·": r"$\cdot$",
    "é": r"\'e",
}  # fmt: skip


def tex(table: Sequence[Sequence[str]], caption: str) -> list[str]:
    """A booktabs table; starred cells are bold."""

    def escaped(text: str) -> str:
        plain = "".join(TEX.get(c, c) for c in text.removesuffix("*"))
        return rf"\textbf{{{plain}}}" if text.endswith("*") else f"{{{plain}}}" if plain.startswith("[") else plain

    body = [" & ".join(map(escaped, row)) + r" \\" for row in table]
    return [
        r"\begin{table}", r"\centering", rf"\caption{{{escaped(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(table[0]) - 1)}}}",
        r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ]  # fmt: skip


def records(study: Study) -> list[dict[str, Any]]:
    """One row per choice, with every number unrounded."""
    found = []
    for choice in study.compared.choices:
        row: dict[str, Any] = {"measured": study.title, "choice": choice.label, **choice.values, "seeds": len(choice.arms)}
        row["baseline"] = choice is study.baseline
        for column in study.judged.columns:
            row |= _numbers(study, choice, column)
        for key in costs(study.compared):
            row[key] = cost(choice, key, 0).sort
        found.append(row)
    return found


def _numbers(study: Study, choice: Choice, column: Column) -> dict[str, Any]:
    key, found = column.measure.key, column.estimates.get(choice.label)
    if found is None:
        return {f"{key}_not_comparable": column.refused[choice.label]} if choice.label in column.refused else {}
    row: dict[str, Any] = {key: found.value, f"{key}_low": found.low, f"{key}_high": found.high, f"{key}_n": found.n}
    against = study.judged.of(choice, key)
    for name, e in (("difference", against.over_seeds), ("images", against.over_images)) if against else ():
        if e is not None:
            row |= {f"{key}_{name}": e.value, f"{key}_{name}_low": e.low, f"{key}_{name}_high": e.high}
    if against and against.apart:
        row[f"{key}_difference_unpaired"] = True
    return row | ({f"{key}_p_holm": against.p, f"{key}_verdict": verdict(against, study.level)} if against else {})


def write_csv(studies: Sequence[Study], path: Path) -> None:
    found = [row for study in studies for row in records(study)]
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in found for name in row)))
        writer.writeheader()
        writer.writerows(found)
