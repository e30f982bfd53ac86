"""Tables with the data by which their cells are sorted, marked and coloured."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ddpm_lab.compare import words
from ddpm_lab.compare.cautions import counted
from ddpm_lab.compare.choices import ComparedChoice, ComparedRun
from ddpm_lab.compare.comparison import Verdict
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.equal_cost import VARIANCE, EqualCost, compared_distance
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import SECONDS
from ddpm_lab.compare.report import Study
from ddpm_lab.compare.statistics import Interval

COSTS = {
    "train_seconds": "training, s",
    "images_per_s": "images/s",
    "parameters": "parameters",
    "peak_memory_mib": "memory, MiB",
    "network_calls": "network calls or sweeps a sample",
    SECONDS: "sampling, s per 1,000",
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
    same: tuple[str, ...] = ()
    """Columns that were left out, as they are the same in all rows."""


def choice_table(study: Study, columns: Sequence[Column], costs: bool = True, only: Sequence[str] = ()) -> Table:
    """The number of seeds; each measure, with the difference to the baseline where it is judged; costs. What is not judged is
    left out where it is the same for all choices. `only`: the columns, by `column_heads`."""
    choices = study.compared.choices
    heads = column_heads(study, columns, costs)
    by_key: dict[str, list[Cell]] = {"seeds": [Cell(str(len(choice.runs)), len(choice.runs)) for choice in choices]}
    for column in columns:
        key = column.measure.key
        by_key[key] = [mean_cell(choice, column) for choice in choices]
        by_key[f"{key}_difference"] = [_difference_cell(study, choice, column) for choice in choices]
    by_key |= {key: [_cost_cell(choice, key) for choice in choices] for key in heads if key in COSTS}
    left = [key for key in heads if len({cell.text for cell in by_key[key]}) == 1 < len(choices)]
    left = [key for key in left if not only and key not in _judged(columns)]
    shown = [key for key in only or heads if key in heads and key not in left]
    rows = [(choice.label, [by_key[key][i] for key in shown]) for i, choice in enumerate(choices)]
    same = tuple(f"{heads[key]}: {by_key[key][0].text}" for key in left)
    return Table(["choice", *(heads[key] for key in shown)], rows, same)


def _judged(columns: Sequence[Column]) -> set[str]:
    keys = [column.measure.key for column in columns if column.measure.judged]
    return {*keys, *(f"{key}_difference" for key in keys)}


def column_heads(study: Study, columns: Sequence[Column], costs: bool = True) -> dict[str, str]:
    """The heads of a table of choices by the names of columns in table.csv."""
    heads = {"seeds": "seeds"}
    for column in columns:
        key = column.measure.key
        heads |= {key: head(column)} | ({f"{key}_difference": "difference"} if column.measure.judged else {})
    return heads | ({key: COSTS[key] for key in cost_keys(study)} if costs else {})


def head(column: Column) -> str:
    """An arrow says which direction is better."""
    return column.measure.label + {-1: " ↓", 0: "", 1: " ↑"}[column.measure.better]


def mean_cell(choice: ComparedChoice, column: Column) -> Cell:
    estimate = column.estimates.get(choice)
    if estimate is None:
        return _apart_cell(choice, column)
    copy = column.copies.get(choice)
    one_seed = "one seed: no interval" if estimate.low is None else ""
    note = f"equals {copy.original.label} by construction" if copy else one_seed
    text = words.with_interval(estimate.value, nonnegative(column, estimate), words.digits_of(column))
    return Cell(text, estimate.value, note, choice in column.winners, copy is not None)


def nonnegative(column: Column, estimate: Interval) -> Interval:
    """A distance as it is shown: Student's interval may go below 0, which none does."""
    ends = estimate.low is not None and column.measure.distance
    return estimate._replace(low=max(0.0, estimate.low or 0.0)) if ends else estimate


def _apart_cell(choice: ComparedChoice, column: Column) -> Cell:
    """A number that may not be compared with those of the column, and why; a dash where there is none."""
    if not (refused := column.refused.get(choice)):
        return Cell()
    text, why = words.VERDICTS[Verdict.REFUSED], "; ".join(map(str, refused))
    if (apart := column.apart.get(choice)) is None:
        return Cell(text, note=why)
    return Cell(f"{words.with_interval(apart.value, apart, words.digits_of(column))} ({text})", note=why)


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
    """From the summary; of a sample from the records of scores, and from the seconds that were measured."""
    value = run.run.summary.get(key)
    if key == SECONDS:
        value = run.numbers[key].value if key in run.numbers else None
    if key == "network_calls":
        records = [n.record for n in run.numbers.values() if n.record.get("reference") and n.record.get("sampler")]
        value = records[0].get("calls", records[0].get("steps")) if records else None
    return float(value) if isinstance(value, int | float) else None


def _cost_cell(choice: ComparedChoice, key: str) -> Cell:
    if not (values := costs_of(choice, key)):
        return Cell()
    mean = sum(values) / len(values)
    note = f"{min(values):,.6g} to {max(values):,.6g} over {counted(len(values), 'run')}"
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


def equal_cost_caption(study: Study) -> str:
    """Of a study with comparisons at equal seconds: what `equal_cost_table` shows, by the name of the distance."""
    distance = compared_distance(study.columns)
    assert distance is not None, "what was compared"
    return (
        f"{distance.measure.label} as a multiple of that of another variance at equal seconds, under the "
        "same sampler (outside: the other was not measured at such seconds, so they are not comparable at equal cost)"
    )


def equal_cost_table(study: Study) -> Table:
    """A row for each choice, a column for each variance: the distance of the one as a multiple of that of the other at
    the same seconds, under the same sampler."""
    rows: dict[ComparedChoice, dict[str, EqualCost]] = {}
    for each in study.equal_cost:
        rows.setdefault(each.choice, {})[each.other.variance] = each
    others = list(dict.fromkeys(each.choice.first.flat[VARIANCE] for each in study.equal_cost))
    made = []
    for choice, by_variance in rows.items():
        seconds = next(iter(by_variance.values())).seconds
        cells = [_equal_cost_cell(by_variance[other]) if other in by_variance else Cell() for other in map(str, others)]
        made.append((choice.label, [Cell(f"{seconds:,.3g}", seconds), *cells]))
    return Table(["choice", "s per 1,000", *(f"against {other}" for other in others)], made)


def _equal_cost_cell(compared: EqualCost) -> Cell:
    log, verdict = compared.log_ratio, compared.verdict
    if log is None:
        low, high = (f"{end:,.3g}" for end in compared.span)
        return Cell(f"outside {low} to {high} s", None, words.OUTSIDE, verdict=verdict)
    low, high = (None if end is None else math.exp(end) for end in (log.low, log.high))
    ratio = log._replace(value=math.exp(log.value), low=low, high=high)
    said = f", {words.VERDICTS[verdict]}" * (verdict in (Verdict.BETTER, Verdict.WORSE))
    note = words.VERDICTS[verdict] + ("" if compared.p is None else f", p = {compared.p:.2g} by Holm")
    return Cell(words.with_interval(ratio.value, ratio, 2) + said, ratio.value, note, verdict=verdict)
