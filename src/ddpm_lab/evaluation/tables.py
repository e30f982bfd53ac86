"""The table over choices: numbers whose records allow a comparison stand together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_lab import domains
from ddpm_lab.evaluation.evaluate import BOUND, DISTANCE, Evaluated
from ddpm_lab.evaluation.report import shown
from ddpm_lab.metrics.record import Record, incomparable
from ddpm_lab.models.measurement import SPLITS

SPACING = (
    "The spacing decides few-step numbers as much as the variance does: linspace starts its chain at t = 1, as the published "
    "tables do, while trailing decodes straight from t = T/n."
)


class Table(NamedTuple):
    """A title, cells with the head first, and notes below."""

    title: str
    cells: list[list[str]]
    notes: list[str]


def settings(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each configuration, where it differs from those with the same sampler, steps and variance, as "seed=1". They come
    as values by dotted key."""
    names = [tuple(config.get(key) for key in ("names.sampler", "sampler.steps", "names.variance")) for config in configs]

    def setting(i: int) -> str:
        peers = [config for config, name in zip(configs, names, strict=True) if name == names[i]]
        keys = [key for key in dict.fromkeys(key for peer in peers for key in peer) if key not in ("ckpt", "folder")]
        different = {key: configs[i].get(key) for key in keys if any(peer.get(key) != configs[i].get(key) for peer in peers)}
        different = {key: value for key, value in different.items() if f"names.{key.partition('.')[0]}" not in different}
        if "checkpoint" in different:
            different["checkpoint"] = Path(str(different["checkpoint"])).stem
        return " ".join(f"{key.removeprefix('names.')}={domains.shown(value)}" for key, value in different.items())

    return [setting(i) for i in range(len(configs))]


def tables(arms: Sequence[Evaluated]) -> list[Table]:
    """Bounds, then Fréchet distances."""
    made = []
    for score in (BOUND, DISTANCE):
        groups = comparable(arms, score)
        for group in groups:
            notes = [SPACING] if few_steps(group, score) else []
            notes += [] if group is groups[0] else [f"({apart(group, groups[0], score)})"]
            made.append(Table(title(group, score), cells(group, score), notes))
    return made


def comparable(arms: Sequence[Evaluated], score: str) -> list[list[Evaluated]]:
    """The choices that have the score, in groups whose records allow to compare it."""
    groups: list[tuple[Record, list[Evaluated]]] = []
    for arm in arms:
        if score not in arm.scores:
            continue
        record = arm.scores[score].record
        group = next((group for other, group in groups if not incomparable(other, record)), None)
        if group is None:
            groups.append((record, group := []))
        group.append(arm)
    return [group for _, group in groups]


def apart(group: Sequence[Evaluated], first: Sequence[Evaluated], score: str) -> str:
    """Why a group has a table of its own."""
    differences = incomparable(first[0].scores[score].record, group[0].scores[score].record)
    return "not comparable with the first of these tables: " + "; ".join(map(str, differences))


def few_steps(group: Sequence[Evaluated], score: str) -> bool:
    """Whether some chain is shorter than the full one."""
    records = [arm.scores[score].record for arm in group]
    return any(record.get("spacing") is not None and record["steps"] != record.get("T") for record in records)


def title(group: Sequence[Evaluated], score: str) -> str:
    """With the spacing of chains that are not full."""
    result = group[0].scores[score]
    spacings = {arm.scores[score].record.get("spacing") for arm in group if few_steps([arm], score)}
    spacing = f", {' and '.join(sorted(map(str, spacings)))} spacing" if spacings else ""
    if score == DISTANCE or "sampler" not in group[0].choice.names:
        return f"{result.label}{spacing}"
    data = f"{result.record['n']} {SPLITS[str(result.record['split'])]} data"
    return f"bits/dim, bound on the sampler's chain ({data}{spacing})"


def cells(arms: Sequence[Evaluated], score: str) -> list[list[str]]:
    """The variance (and for samples the sampler) down, steps across. Parts that the model lacks, and settings where there are
    none, have no column."""
    steps, with_setting = sorted({arm.steps for arm in arms}), any(arm.setting for arm in arms)
    groups = [
        group for group in (("variance",) if score == BOUND else ("sampler", "variance")) if group in arms[0].choice.names
    ]
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    for arm in sorted(arms, key=lambda arm: arm.choice.names.get("sampler", "")):
        result, names = arm.scores[score], arm.choice.names if score == BOUND else arm.choice.names_of_samples
        row = (*(names.get(group, "") for group in groups), *([arm.setting] if with_setting else []))
        rows.setdefault(row, {})[arm.steps] = shown(result.value, result.se)
    head = [*groups, *(["setting"] if with_setting else []), *map(str, steps)]
    return [head, *([*row, *(values.get(n, "") for n in steps)] for row, values in rows.items())]


def markdown(table: Table) -> list[str]:
    """Aligned, so that it reads as text too."""
    width = [max(len(row[i]) for row in table.cells) for i in range(len(table.cells[0]))]
    rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) + " |" for row in table.cells]
    rule = "|" + "|".join("-" * (w + 2) for w in width) + "|"
    notes = ["", *table.notes] if table.notes else []
    return [table.title, "", rows[0], rule, *rows[1:], *notes]
