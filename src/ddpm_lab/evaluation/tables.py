"""The table over choices: numbers whose records allow a comparison stand together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpm_lab import domains
from ddpm_lab.evaluation.cost import LABEL
from ddpm_lab.evaluation.evaluate import BOUND, DISTANCE, SECONDS, Evaluated
from ddpm_lab.metrics.record import incomparable
from ddpm_lab.models.measurement import SPLITS

SPACING = (
    "The spacing decides few-step numbers as much as the variance does: linspace starts its chain at t = 1, as the published "
    "tables do, while trailing decodes straight from t = T/n."
)


def settings(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each configuration, where it differs from those with the same sampler, steps, variance, guidance and weights, as
    "seed=1". They come as values by dotted key. Another class of metrics gives numbers other keys, so it stands in none."""
    guidance = ("names.guidance", "guidance._target_", "guidance.scale", "guidance.interval")
    named = ("names.sampler", "sampler.steps", "names.variance", "weights", *guidance)
    names = [tuple(config.get(key) for key in named) for config in configs]

    def setting(i: int) -> str:
        peers = [config for config, name in zip(configs, names, strict=True) if name == names[i]]
        keys = [key for key in dict.fromkeys(key for peer in peers for key in peer) if key not in ("ckpt", "folder")]
        different = {key: configs[i].get(key) for key in keys if any(peer.get(key) != configs[i].get(key) for peer in peers)}
        different = {key: value for key, value in different.items() if f"names.{key.partition('.')[0]}" not in different}
        features = {
            peer.get("names.metrics") for peer in peers if peer.get("metrics._target_") == configs[i].get("metrics._target_")
        }
        if len(features) == 1:
            different.pop("names.metrics", None)
        if "checkpoint" in different:
            different["checkpoint"] = Path(str(different["checkpoint"])).stem
        return " ".join(f"{key.removeprefix('names.')}={domains.shown(value)}" for key, value in different.items())

    return [setting(i) for i in range(len(configs))]


def tables(arms: Sequence[Evaluated]) -> list[list[str]]:
    """The lines of each table, as markdown that reads as text too: bounds, Fréchet distances, seconds."""
    made = []
    for score in (BOUND, DISTANCE, SECONDS):
        groups = side_by_side(comparable(arms, score), score)
        for group in groups:
            notes = [SPACING] if few_steps(group, score) else []
            of_numbers = (estimates, any_of, several_calls, products)
            notes += [line for line in (note(group, score) for note in of_numbers) if line]
            if group is not groups[0]:
                differences = incomparable(groups[0][0].scores[score].record, group[0].scores[score].record)
                notes.append(f"(not comparable with the first of these tables: {'; '.join(map(str, differences))})")
            made.append([title(group, score), "", *aligned(cells(group, score)), *(["", *notes] if notes else [])])
    return made


def feature_space(arm: Evaluated, score: str) -> str:
    """That in which samples are judged; empty of other scores than distances."""
    return str(arm.scores[score].record.get("extractor")) if score == DISTANCE else ""


def side_by_side(groups: list[list[Evaluated]], score: str) -> list[list[Evaluated]]:
    """As one group, where all are distances of the same choices, each group in another feature space."""
    choices = [[(arm.choice.names_of_samples, arm.setting, arm.steps) for arm in group] for group in groups]
    spaces = {feature_space(group[0], score) for group in groups}
    one = len(spaces) == len(groups) and all(of_group == choices[0] for of_group in choices)
    return [[arm for group in groups for arm in group]] if one and groups else groups


def comparable(arms: Sequence[Evaluated], score: str) -> list[list[Evaluated]]:
    """The choices that have the score, in groups whose records allow to compare it."""
    groups: list[list[Evaluated]] = []
    for arm in (arm for arm in arms if score in arm.scores):
        record = arm.scores[score].record
        group = next((group for group in groups if not incomparable(group[0].scores[score].record, record)), None)
        if group is None:
            groups.append(group := [])
        group.append(arm)
    return groups


def few_steps(group: Sequence[Evaluated], score: str) -> bool:
    """Whether some chain, on which the score depends, is shorter than the full one."""
    records = [arm.scores[score].record for arm in group if score != SECONDS]
    return any(record.get("spacing") is not None and record["steps"] != record.get("T") for record in records)


def estimates(group: Sequence[Evaluated], score: str) -> str:
    """The network calls for each datum of those bounds that are estimated; empty where none is."""
    records = [(arm.setting, arm.scores[score].record) for arm in group if score == BOUND]
    partial = [(setting, r) for setting, r in records if r.get("terms") and r["steps"] != 1]  # of one step all is measured
    counts = {f"{r['steps']} steps {setting}".strip() + f": {r['calls']}": None for setting, r in partial}
    return f"Estimates, not whole bounds; network calls a datum: {', '.join(counts)}." if counts else ""


def any_of(group: Sequence[Evaluated], score: str) -> str:
    """What "any" stands for, where a sampler does not use the variances that were chosen; empty elsewhere."""
    unused: dict[str, dict[str, None]] = {}
    for arm in group if score == DISTANCE else ():
        if arm.choice.names_of_samples.get("variance") == "any":
            unused.setdefault(arm.choice.names.get("sampler", ""), {})[arm.choice.names["variance"]] = None
    each = [f"{sampler} does not use {', '.join(variances)}" for sampler, variances in unused.items()]
    return f"any: {'; '.join(each)}. What does not differ by construction was drawn and scored once." if each else ""


def products(group: Sequence[Evaluated], score: str) -> str:
    """The vector–Jacobian products of a sample; empty where there are none."""
    records = [(arm.choice.names, arm.scores[score].record) for arm in group if score == SECONDS]
    counts = {
        f"{names['variance']} in {r['steps']} steps of {names['sampler']}: {r['products']}": None
        for names, r in records
        if r["products"]
    }
    return f"Vector–Jacobian products a sample: {', '.join(counts)}." if counts else ""


def several_calls(group: Sequence[Evaluated], score: str) -> str:
    """The network calls of samples of which a step has other than one; empty where there are none."""
    records = [(arm.choice.names.get("sampler"), arm.scores[score].record) for arm in group if score == DISTANCE]
    counts = {
        f"{name} in {r['steps']} steps: {r['calls']}": None for name, r in records if r.get("calls") not in (None, r["steps"])
    }
    return f"Network calls a sample: {', '.join(counts)}." if counts else ""


def title(group: Sequence[Evaluated], score: str) -> str:
    """With the spacing of chains that are not full. Of choices that differ in their sets of samples it names none."""
    fewest_sets = sorted(group, key=lambda arm: int(arm.scores[score].record.get("sets") or 1))
    result, labels = fewest_sets[0].scores[score], dict[str, str]()
    for arm in fewest_sets:
        labels.setdefault(feature_space(arm, score), arm.scores[score].label)
    if score == SECONDS:
        where = {name: result.record[name] for name in ("device", "cpu", "threads", "batch", "processes")}
        sets = f"{result.record['sets']} sets of " if "sets" in result.record else ""
        return (
            f"{LABEL} ({sets}{result.record['n']:,} samples; {', '.join(f'{name} {value}' for name, value in where.items())})"
        )
    spacings = {arm.scores[score].record.get("spacing") for arm in group if few_steps([arm], score)}
    spacing = f", {' and '.join(sorted(map(str, spacings)))} spacing" if spacings else ""
    if score == DISTANCE or "sampler" not in group[0].choice.names:
        return f"{'; '.join(labels.values())}{spacing}"
    data = f"{result.record['n']} {SPLITS[str(result.record['split'])]} data"
    return f"bits/dim, bound on the sampler's chain ({data}{spacing})"


def cells(arms: Sequence[Evaluated], score: str) -> list[list[str]]:
    """Head first: the variance (for samples sampler and guidance) and the weights down, steps across, in each feature space
    where there are several. Parts that the model lacks, weights that do not differ, and settings where there are none have no
    column."""
    with_setting, spaces = any(arm.setting for arm in arms), dict.fromkeys(feature_space(arm, score) for arm in arms)
    columns = [(space, n) for space in spaces for n in sorted({arm.steps for arm in arms})]
    groups = ("variance", "weights") if score == BOUND else ("sampler", "variance", "guidance", "weights")
    groups = [group for group in groups if group in arms[0].choice.names]
    rows: dict[tuple[str, ...], dict[tuple[str, int], str]] = {}
    for arm in sorted(arms, key=lambda arm: arm.choice.names.get("sampler", "")):
        result, names = arm.scores[score], arm.choice.names if score == BOUND else arm.choice.names_of_samples
        row = (*(names.get(group, "") for group in groups), *([arm.setting] if with_setting else []))
        rows.setdefault(row, {})[feature_space(arm, score), arm.steps] = result.shown
    heads = [f"{space} {n}" if len(spaces) > 1 else str(n) for space, n in columns]
    head = [*groups, *(["setting"] if with_setting else []), *heads]
    return [head, *([*row, *(values.get(column, "") for column in columns)] for row, values in rows.items())]


def aligned(cells: list[list[str]]) -> list[str]:
    """The lines of a table in markdown."""
    width = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) + " |" for row in cells]
    return [rows[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *rows[1:]]
