"""The choices between which runs differ, and the runs of each choice: they differ by their seed alone."""

import html
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddpm_lab.compare.measures import common_key
from ddpm_lab.compare.number import Number
from ddpm_lab.compare.run_folder import RunFolder
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.record import Plain
from ddpm_lab.plain import visible, with_later

Flat = dict[str, Plain]
"""A configuration by dotted keys; a group itself stands for its `_target_`."""
OptionNames = Mapping[tuple[str, str], str]
"""(group, _target_) to the option as the user types it."""

NOT_COMPARED = (
    *("seed", "resume", "run.", "logger", "metrics.", "data.root"),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "other_world_size", "fast_dev_run")),
    *(f"trainer.{key}" for key in ("log_every", "validate_every", "channels_last", "data_on_device")),
    *(f"callbacks.{name}." for name in ("samples", "vlb_terms", "loss_quartiles", "throughput", "checkpoints")),
    *(f"callbacks.{name}." for name in ("frechet", "frechet_curve")),
)
"""Prefixes of keys that change neither training nor sampling: names, places, and how it is measured, which records state."""
GROUPS = (
    *("imported", "data", "model", "schedule", "prediction", "loss", "uncertainty", "variance", "timesteps", "time"),
    *("sampler", "guidance", "net", "optim", "ema", "trainer"),
)
"""The order of axes."""
EARLIER = {
    "model": {"_target_": "ddpm_lab.models.diffusion.Diffusion"},
    "guidance": {"_target_": "ddpm_lab.core.guidance.Unguided"},
    "time": {"_target_": "ddpm_lab.core.time.Discrete"},
    "imported": "no",
    "uncertainty": "no",
}
"""What configurations without such a group had: they are older than it."""
UNKNOWN = ("loss", "uncertainty", "timesteps", "time", "optim", "ema", "trainer", "callbacks")
"""Groups of which nothing is known where other code trained the network."""
EVALUATED = "evaluated."
"""Prefix of the keys that an evaluation chose."""
MISSING = "–"
"""Stands for the value of an axis that a choice lacks."""
SEPARATOR = " · "
"""Between the values in the label of a choice. Lists of choices have commas."""
SHOWN_WITHOUT_KEY = (f"{EVALUATED}sampler", f"{EVALUATED}setting")


class Target(str):
    """The value of a `_target_`."""


@dataclass
class ComparedRun:
    """One run under one choice: as trained, or as evaluated."""

    run: RunFolder
    flat: Flat
    numbers: dict[str, Number]
    picture: Path | None = None
    evaluation: Path | None = None
    """Its folder."""


@dataclass(eq=False)
class ComparedChoice:
    """Runs that differ by their seed alone."""

    values: dict[str, str]
    """By axis, in words."""
    label: str
    runs: dict[int, ComparedRun]
    """By seed."""
    words: dict[str, str] = field(default_factory=dict)
    """By free axis, the part of the label."""

    @property
    def first(self) -> ComparedRun:
        return next(iter(self.runs.values()))

    @property
    def plotted(self) -> str:
        """The label for plotly, which interprets some HTML in text."""
        return html.escape(self.label, quote=False)


@dataclass
class ComparedChoices:
    axes: dict[str, str | None]
    """Each key or group whose value differs, with another axis that determines it (as the loss its variance), if any: the two
    effects cannot be separated."""
    choices: list[ComparedChoice]
    notes: list[str] = field(default_factory=list)
    options: OptionNames = field(default_factory=dict)

    @property
    def free(self) -> list[str]:
        """The axes that no other determines."""
        return [axis for axis, follows in self.axes.items() if follows is None]


def compared_runs(runs: Sequence[RunFolder]) -> tuple[list[ComparedRun], list[ComparedRun]]:
    """As trained; and as evaluated, without sampler and guidance of training, which an evaluation does not use."""
    trained, evaluated = [], []
    for run in runs:
        flat = flat_config(run.config)
        if run.numbers:
            last_samples = max((run.path / "samples").glob("step_*.png"), default=None)
            trained.append(ComparedRun(run, flat, run.numbers, last_samples))
        of_network = {key: value for key, value in flat.items() if key.partition(".")[0] not in ("sampler", "guidance")}
        for arm in run.evaluated:
            chosen = {f"{EVALUATED}{key}": value for key, value in arm.choice.items()}
            evaluated.append(ComparedRun(run, of_network | chosen, arm.numbers, arm.picture, arm.folder))
    return trained, evaluated


def flat_config(config: Mapping[str, Any]) -> Flat:
    """By dotted keys, without NOT_COMPARED. Lists are values; of a path to data only its last part counts."""
    data = config.get("data")
    if isinstance(data, Mapping):
        config = {**config, "data": with_later(data)}
    if isinstance(imported := config.get("imported"), Mapping):
        sums = imported.get("sha256")
        first = next(iter(sums.values()), "") if isinstance(sums, Mapping) else ""
        config = {**config, **{group: MISSING for group in UNKNOWN if group in config}}
        order = f", qkv={imported['qkv']}" if "qkv" in imported else ""
        config["imported"] = f"{imported.get('layout')}, {str(first)[:6]}, {imported.get('weights')}{order}"
    return dict(_flattened({**EARLIER, **config}))


def _flattened(config: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Plain]]:
    for key, value in config.items():
        key = visible(str(key))
        name = f"{group}.{key}" if group else key
        if f"{name}.".startswith(NOT_COMPARED):
            continue
        if isinstance(value, Mapping):
            yield from _flattened(value, name)
        elif key == "_target_":
            yield group, Target(value)
        elif name == "data.path":
            yield name, Path(str(value)).name
        else:
            yield name, json.dumps(value, default=str) if isinstance(value, list) else value


def grouped(runs: Sequence[ComparedRun], options: OptionNames) -> ComparedChoices:
    """Runs grouped into choices, in the order in which choices first occur."""
    groups, notes = _replicates(runs)
    flats = [next(iter(seeds.values())).flat for seeds in groups]
    keys = _differing(flats)
    words = {key: _words(key, [flat[key] for flat in flats if key in flat], options) for key in keys}
    values = [{key: words[key][as_yaml(flat[key])] for key in keys if key in flat} for flat in flats]
    axes = _axes(keys, values)
    free = [axis for axis, follows in axes.items() if follows is None]
    targets = {key for key in keys if any(isinstance(flat.get(key), Target) for flat in flats)}
    parts = [_parts(each, free, targets.union(SHOWN_WITHOUT_KEY)) for each in values]
    labels = [SEPARATOR.join(each.values()) or "the only choice" for each in parts]
    labels = [label if label not in labels[:i] else f"{label} ({i + 1})" for i, label in enumerate(labels)]
    choices = [ComparedChoice(*each) for each in zip(values, labels, groups, parts, strict=True)]
    return ComparedChoices(axes, choices, notes, options)


def _replicates(runs: Sequence[ComparedRun]) -> tuple[list[dict[int, ComparedRun]], list[str]]:
    """Runs by seed, for each configuration; and notes on those of which a later one counts."""
    groups: dict[str, dict[int, ComparedRun]] = {}
    notes: dict[str, None] = {}
    for run in runs:
        seeds = groups.setdefault(json.dumps({key: as_yaml(value) for key, value in run.flat.items()}, sort_keys=True), {})
        seed = run.run.config["seed"]
        if (before := seeds.get(seed)) is not None and before.run is run.run:
            run, again = _with_earlier(before, run)
            if again:
                notes[f"{before.run.path}, seed {seed}: {', '.join(again)} measured again; the later one counts"] = None
        elif before is not None:
            notes[f"{before.run.path}, seed {seed}: trained again in {run.run.path}; the later one counts"] = None
        seeds[seed] = run
    return [dict(sorted(seeds.items())) for seeds in groups.values()], list(notes)


def _with_earlier(before: ComparedRun, run: ComparedRun) -> tuple[ComparedRun, list[str]]:
    """`run` with the numbers of an earlier evaluation of the same choice that it did not measure; and the keys of those that
    were measured twice, with another result."""
    later = {common_key(key, number): number for key, number in run.numbers.items()}
    twice = {key: later[common] for key, number in before.numbers.items() if (common := common_key(key, number)) in later}
    again = [key for key, number in twice.items() if number[:3] != before.numbers[key][:3]]
    earlier = {key: number for key, number in before.numbers.items() if key not in twice}
    has_bound = any(key.startswith("bound") for key in run.numbers)
    place = run.evaluation if has_bound or before.evaluation is None else before.evaluation
    return replace(run, numbers=earlier | run.numbers, picture=run.picture or before.picture, evaluation=place), again


def differing_keys(a: Flat, b: Flat) -> list[str]:
    """Keys with different values, or that only one of them has."""
    return [key for key in {**a, **b} if key not in a or key not in b or as_yaml(a[key]) != as_yaml(b[key])]


def _differing(flats: Sequence[Flat]) -> list[str]:
    """Keys whose values differ, in the order of axes. One that some configurations lack differs too, unless it is below a group
    whose option differs, or goes with the model, which has no such group."""
    values: dict[str, list[Plain]] = {}
    for key, value in (pair for flat in flats for pair in flat.items()):
        values.setdefault(key, []).append(value)
    several = {key for key, each in values.items() if len(set(map(as_yaml, each))) > 1}
    below = tuple(f"{key}." for key in several)
    lacking = {key for key, each in values.items() if len(each) < len(flats) and not key.startswith(below)}
    differing = {key for key in several | lacking if not _goes_with_model(key, flats)}

    def rank(key: str) -> tuple[int, bool, bool]:
        group = key.partition(".")[0]
        place = GROUPS.index(group) if group in GROUPS else len(GROUPS)
        return place, not isinstance(values[key][0], Target), key not in several

    return sorted((key for key in values if key in differing), key=rank)


def _goes_with_model(key: str, flats: Sequence[Flat]) -> bool:
    """Whether each of several models has one value of the key, or lacks it; and the key is a setting of the model, or some lack
    it."""
    own = {(as_yaml(flat.get("model")), as_yaml(flat[key]) if key in flat else None) for flat in flats}
    one_each = len(own) == len({model for model, _ in own}) > 1
    return one_each and (key.startswith("model.") or any(value is None for _, value in own))


def as_yaml(value: Plain) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else visible(str(value))


def _words(key: str, values: Sequence[Plain], options: OptionNames) -> dict[str, str]:
    """The name of each value: of a target its option, or its last part where no other target ends in it."""
    names = {as_yaml(value): as_yaml(value) for value in values}
    short = {target: options.get((key, target), target.rpartition(".")[2]) for target in values if isinstance(target, Target)}
    return names | {target: word for target, word in short.items() if list(short.values()).count(word) == 1}


def _axes(keys: Sequence[str], values: Sequence[dict[str, str]]) -> dict[str, str | None]:
    """An axis follows an earlier one, or a later finer one, if each value of that one occurs with one value of it alone. The
    model follows none: its name is in every label."""

    def determines(a: str, b: str) -> bool:
        pairs = {(each.get(a), each.get(b)) for each in values}
        return len(pairs) == len({first for first, _ in pairs})

    def follows(key: str) -> str | None:
        earlier, later = keys[: keys.index(key)], keys[keys.index(key) + 1 :]
        others = [*earlier, *(other for other in later if not determines(key, other))]
        return next((other for other in others if determines(other, key)), None)

    return {key: None if key == "model" else follows(key) for key in keys}


def _parts(values: dict[str, str], free: Sequence[str], unnamed: set[str]) -> dict[str, str]:
    """Of a label, by free axis: the value, after the last part of the key, or the whole key where others share that part."""
    last = [key.rpartition(".")[2] for key in free]
    names = {key: name if last.count(name) == 1 else key for key, name in zip(free, last, strict=True)}
    return {key: values[key] if key in unnamed else f"{name}={values[key]}" for key, name in names.items() if key in values}


def baseline_of(compared: ComparedChoices, first: ComparedChoice, asked: str | None, required: bool) -> ComparedChoice:
    """`first`, or the choice that `asked` names by its label, its values or one of its run folders. Where it names none
    or several, raises UserError if `required`; else the first counts, and a note says so."""
    matching = [first] if asked is None else _matches(compared.choices, asked)
    if len(matching) == 1:
        return matching[0]
    among = matching or compared.choices
    if required:
        many = f"{len(matching)} choices have that" if matching else "no choice has that"
        raise UserError(f"baseline={asked}: {many}; name one of: {'; '.join(choice.label for choice in among)}")
    many = f"{len(matching)} evaluated choices have that" if matching else "no evaluated choice has that"
    place = "the first of them" if matching else "the first"
    compared.notes.append(f"baseline={asked}: {many}; here it is {place}: {among[0].label}")
    return among[0]


def _matches(choices: Sequence[ComparedChoice], asked: str) -> list[ComparedChoice]:
    """Those that `asked` may mean."""
    folder = Path(os.path.expanduser(asked)).resolve()
    words = [word.strip() for word in re.split("[,·]", asked)]
    matching = [choice for choice in choices if any(run.run.path.resolve() == folder for run in choice.runs.values())]
    matching = matching or [choice for choice in choices if asked in (choice.label, choice.label.replace(SEPARATOR, ", "))]
    return matching or [choice for choice in choices if all(_has(choice, word) for word in words)]


def _has(choice: ComparedChoice, word: str) -> bool:
    key, equals, value = word.partition("=")
    if not equals:
        return word in (*choice.values.values(), *choice.words.values())
    return any(value == each and (axis == key or axis.endswith(f".{key}")) for axis, each in choice.values.items())
