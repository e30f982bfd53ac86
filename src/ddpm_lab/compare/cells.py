"""The cells of tables: text, and beside it the data by which cells are sorted, marked and coloured."""

from collections.abc import Sequence
from typing import NamedTuple

from ddpm_lab.compare.choices import ComparedChoice, ComparedChoices, ComparedRun
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.judge import Column, Verdict, winners
from ddpm_lab.compare.numerals import NONE, decimal, interval
from ddpm_lab.compare.study import Study, digits_of
from ddpm_lab.compare.words import VERDICTS, agreement, by_construction

COSTS = {
    "train_seconds": "training, s",
    "images_per_s": "images/s",
    "parameters": "parameters",
    "peak_memory_mib": "memory, MiB",
    "network_calls": "network calls a sample",
}


class Cell(NamedTuple):
    text: str
    sort: float | None = None
    """The number, where there is one."""
    note: str = ""
    best: bool = False
    copied: bool = False
    """Equal to the cell of another row by construction."""
    verdict: Verdict | None = None


def heads(study: Study, columns: Sequence[Column], costs: bool = True) -> list[str]:
    """Of the cells of a row."""
    names = ["seeds"]
    for column in columns:
        arrow = {-1: " ↓", 0: "", 1: " ↑"}[column.measure.better]
        names += [f"{column.measure.label}{arrow}", *(["difference"] * column.measure.judged)]
    return names + [COSTS[key] for key in cost_keys(study.compared) if costs]


def row(study: Study, choice: ComparedChoice, columns: Sequence[Column], costs: bool = True) -> list[Cell]:
    """The number of seeds; each measure, with the difference to the baseline where it is judged; costs."""
    cells = [Cell(str(len(choice.runs)), len(choice.runs))]
    for column in columns:
        cells += [mean_cell(study, choice, column), *([_difference(study, choice, column)] * column.measure.judged)]
    return cells + [_cost_cell(choice, key) for key in cost_keys(study.compared) if costs]


def mean_cell(study: Study, choice: ComparedChoice, column: Column) -> Cell:
    estimate, digits = column.estimates.get(choice), digits_of(column)
    if estimate is None:
        refused = column.refused.get(choice)
        return Cell(VERDICTS[Verdict.REFUSED], note="; ".join(map(str, refused))) if refused else Cell(NONE)
    copy, best = column.copies.get(choice), choice in winners(column, study.compared.choices)
    span = "" if estimate.low is None else f" {interval(estimate.low, estimate.high, digits)}"
    note = f"equals {copy.original.label} by construction" if copy else "" if span else "one seed: no interval"
    return Cell(decimal(estimate.value, digits) + span, estimate.value, note, best, copy is not None)


def _difference(study: Study, choice: ComparedChoice, column: Column) -> Cell:
    if choice is study.baseline and choice in column.estimates:
        return Cell("baseline", 0.0)
    comparison = study.judged.of(choice, column.measure.key)
    if comparison is None or comparison.over_seeds is None:
        return Cell(NONE)
    value, deciding, verdict, digits = comparison.over_seeds.value, comparison.deciding, comparison.verdict, digits_of(column)
    if comparison.copy is not None:
        return Cell(VERDICTS[verdict], value, by_construction(comparison.copy, comparison.measure), verdict=verdict)
    span = f" {interval(deciding.low, deciding.high, digits, True)}" if deciding and not comparison.identical else ""
    over = " (unpaired)" if comparison.apart else "" if comparison.replicated or not span else " (images)"
    note = VERDICTS[verdict] + ("" if comparison.p is None else f", p = {comparison.p:.2g} by Holm")
    return Cell(f"{decimal(value, digits, True)}{span}{over}", value, note, verdict=verdict)


def cost_keys(compared: ComparedChoices) -> list[str]:
    """Those that some run has."""
    return [key for key in COSTS if any(costs_of(choice, key) for choice in compared.choices)]


def costs_of(choice: ComparedChoice, key: str) -> list[float]:
    return [value for run in choice.runs.values() if (value := _cost(run, key)) is not None]


def _cost(run: ComparedRun, key: str) -> float | None:
    """From the summary; the network calls of a sample from the records of scores."""
    value = run.run.summary.get(key)
    if key == "network_calls":
        records = [n.record for n in run.numbers.values() if n.record.get("reference") and n.record.get("sampler")]
        value = records[0].get("steps") if records else None
    return float(value) if isinstance(value, int | float) else None


def _cost_cell(choice: ComparedChoice, key: str) -> Cell:
    if not (values := costs_of(choice, key)):
        return Cell(NONE)
    mean = sum(values) / len(values)
    note = f"{min(values):,.6g} to {max(values):,.6g} over {len(values)} runs"
    return Cell(decimal(mean, 0 if mean >= 10 or all(map(float.is_integer, values)) else 2), mean, note)


def effect_cells(effect: Effect | None, digits: int) -> tuple[Cell, Cell]:
    """The mean over settings, and in which direction the settings point."""
    if effect is None:
        return Cell(NONE), Cell(NONE)
    estimate, n = effect.estimate, len(effect.settings)
    if effect.copy is not None:
        mean = Cell(VERDICTS[Verdict.CONSTRUCTION], estimate.value, by_construction(effect.copy, effect.measure))
        return mean, Cell(str(n), n)
    span = "" if estimate.low is None else f" {interval(estimate.low, estimate.high, digits, True)}"
    low, high = (decimal(end, digits, True) for end in (min(effect.settings), max(effect.settings)))
    note = f"over {len(effect.seeds)} seed{'s' * (len(effect.seeds) > 1)}; by setting from {low} to {high}"
    one_way = f"{agreement(effect)} ({n})" if n > 1 else "1"
    settings = f"{effect.lower} of {n} lower: disagree" if effect.disagree else one_way
    return Cell(f"{decimal(estimate.value, digits, True)}{span}", estimate.value, note), Cell(settings, n)
