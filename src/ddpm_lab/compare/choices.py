"""The choices between which runs differ, and the runs of each choice: they differ by their seed alone."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpm_lab.compare.run_folder import Number, RunFolder
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.record import Plain

Flat = dict[str, Plain]
OptionNames = Mapping[tuple[str, str], str]
"""(group, _target_) to the option as the user types it."""

NOT_COMPARED = (
    "seed",
    "resume",
    "run.",
    "logger",
    "metrics.",
    "data.root",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "other_world_size", "fast_dev_run")),
    *(f"trainer.{key}" for key in ("log_every", "validate_every", "channels_last")),
    *(f"callbacks.{name}." for name in ("samples", "vlb_terms", "loss_quartiles", "throughput", "checkpoints")),
    *(f"callbacks.{name}." for name in ("frechet", "frechet_curve")),
)
"""Prefixes of keys that change neither training nor sampling: names, places, and how it is measured, which records state."""
GROUPS = (
    "data",
    "model",
    "schedule",
    "prediction",
    "loss",
    "variance",
    "timesteps",
    "sampler",
    "net",
    "optim",
    "ema",
    "trainer",
)
"""The order of axes."""
TARGET = "._target_"
FIRST_MODEL = {"model": {"_target_": "ddpm_lab.models.diffusion.Diffusion"}}
"""What configurations without a model had: they are older than the group."""
EVALUATED = "evaluated."
"""Prefix of the keys that an evaluation chose."""
SHOWN_WITHOUT_KEY = (f"{EVALUATED}sampler", f"{EVALUATED}setting")


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
class Axis:
    """A key whose value differs, or a group whose option differs."""

    key: str
    follows: str | None = None
    """Another axis that determines this one (as the loss its variance), so that the two effects cannot be separated."""


@dataclass
class ComparedChoices:
    axes: list[Axis]
    choices: list[ComparedChoice]
    notes: list[str]
    options: OptionNames = field(default_factory=dict)

    @property
    def free(self) -> list[str]:
        """The axes that no other determines."""
        return [axis.key for axis in self.axes if axis.follows is None]


def as_trained(runs: Sequence[RunFolder]) -> list[ComparedRun]:
    return [ComparedRun(run, flat_config(run.config), run.numbers, run.picture()) for run in runs if run.numbers]


def as_evaluated(runs: Sequence[RunFolder]) -> list[ComparedRun]:
    """Without the sampler of training, which an evaluation does not use."""
    compared = []
    for run in runs:
        trained = {key: value for key, value in flat_config(run.config).items() if not key.startswith("sampler.")}
        for arm in run.evaluated:
            flat = trained | {f"{EVALUATED}{key}": value for key, value in arm.choice.items()}
            compared.append(ComparedRun(run, flat, arm.numbers, arm.picture, arm.folder))
    return compared


def flat_config(config: Mapping[str, Any]) -> Flat:
    """By dotted keys, without NOT_COMPARED. Lists are values; of a path to data only its last part counts."""
    return _flattened({**FIRST_MODEL, **config})


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Flat:
    flat: Flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if any(name == ignored.rstrip(".") or name.startswith(ignored) for ignored in NOT_COMPARED):
            continue
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{name}.")
        elif name == "data.path":
            flat[name] = Path(str(value)).name
        else:
            flat[name] = json.dumps(value, default=str) if isinstance(value, list) else value
    return flat


def grouped(runs: Sequence[ComparedRun], options: OptionNames) -> ComparedChoices:
    """Runs grouped into choices, in the order in which choices first occur."""
    groups: dict[str, dict[int, ComparedRun]] = {}
    notes = []
    for run in runs:
        seeds = groups.setdefault(json.dumps({key: as_yaml(value) for key, value in run.flat.items()}, sort_keys=True), {})
        seed = run.run.seed
        if (before := seeds.get(seed)) is not None:
            again = "measured again" if before.run is run.run else f"trained again in {run.run.path}"
            notes.append(f"{before.run.path}, seed {seed}: {again}; the later one counts")
        seeds[seed] = run
    flats = [next(iter(seeds.values())).flat for seeds in groups.values()]
    keys = _differing(flats)
    words = {key: _words(key, [flat[key] for flat in flats if key in flat], options) for key in keys}
    values = [{key.removesuffix(TARGET): words[key][as_yaml(flat[key])] for key in keys if key in flat} for flat in flats]
    axes = _axes([key.removesuffix(TARGET) for key in keys], values)
    unnamed = {key.removesuffix(TARGET) for key in keys if key.endswith(TARGET)} | set(SHOWN_WITHOUT_KEY)
    parts = [_parts(each, axes, unnamed) for each in values]
    labels = [", ".join(each.values()) or "the only choice" for each in parts]
    labels = [label if label not in labels[:i] else f"{label} ({i + 1})" for i, label in enumerate(labels)]
    seeds = [dict(sorted(runs.items())) for runs in groups.values()]
    choices = [ComparedChoice(*each) for each in zip(values, labels, seeds, parts, strict=True)]
    return ComparedChoices(axes, choices, list(dict.fromkeys(notes)), options)


def differing_keys(a: Flat, b: Flat) -> list[str]:
    """Keys with different values, or that only one of them has."""
    return [key for key in {**a, **b} if key not in a or key not in b or as_yaml(a[key]) != as_yaml(b[key])]


def _differing(flats: Sequence[Flat]) -> list[str]:
    """Keys whose values differ where present. Where the option of a group differs, its other keys may be missing."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    differing = [key for key in keys if len({as_yaml(flat[key]) for flat in flats if key in flat}) > 1]
    of_options = tuple(f"{key.removesuffix(TARGET)}." for key in differing if key.endswith(TARGET))
    optional = [
        key
        for key in keys
        if key not in differing and any(key not in flat for flat in flats) and not key.startswith(of_options)
    ]
    return sorted([*differing, *optional], key=lambda key: (_rank(key), not key.endswith(TARGET)))


def _rank(key: str) -> int:
    group = key.partition(".")[0]
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


def as_yaml(value: Plain) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _words(key: str, values: Sequence[Plain], options: OptionNames) -> dict[str, str]:
    """The name of each value: of a target its option, or its last part where no other target ends in it."""
    texts = list(dict.fromkeys(map(as_yaml, values)))
    if not key.endswith(TARGET):
        return {text: text for text in texts}
    short = [options.get((key.removesuffix(TARGET), text), text.rpartition(".")[2]) for text in texts]
    return {text: word if short.count(word) == 1 else text for text, word in zip(texts, short, strict=True)}


def _axes(keys: Sequence[str], values: Sequence[dict[str, str]]) -> list[Axis]:
    """An axis follows an earlier one, or a later finer one, if each value of that one occurs with one value of it alone."""

    def determines(a: str, b: str) -> bool:
        pairs = {(each.get(a), each.get(b)) for each in values}
        return len(pairs) == len({first for first, _ in pairs})

    axes: list[Axis] = []
    for i, key in enumerate(keys):
        others = (
            other
            for j, other in enumerate(keys)
            if determines(other, key) and (j < i or (j > i and not determines(key, other)))
        )
        axes.append(Axis(key, next(others, None)))
    return axes


def _parts(values: dict[str, str], axes: Sequence[Axis], unnamed: set[str]) -> dict[str, str]:
    """Of a label, by free axis: the value, after the last part of the key, or the whole key where others share that part."""
    free = [axis.key for axis in axes if axis.follows is None]
    last = [key.rpartition(".")[2] for key in free]
    names = {key: name if last.count(name) == 1 else key for key, name in zip(free, last, strict=True)}
    return {key: values[key] if key in unnamed else f"{name}={values[key]}" for key, name in names.items() if key in values}


def baseline_of(choices: Sequence[ComparedChoice], asked: str | None) -> ComparedChoice:
    """The first choice, or the one that `asked` names by its label, its values or one of its run folders."""
    if asked is None:
        return choices[0]
    matching = matches(choices, asked)
    if len(matching) != 1:
        many = f"{len(matching)} choices have that" if matching else "no choice has that"
        labels = "; ".join(choice.label for choice in matching or choices)
        raise UserError(f"baseline={asked}: {many}; name one of: {labels}")
    return matching[0]


def matches(choices: Sequence[ComparedChoice], asked: str) -> list[ComparedChoice]:
    """Those that `asked` may mean."""
    folder = Path(os.path.expanduser(asked)).resolve()
    words = [word.strip() for word in asked.split(",")]
    matching = [choice for choice in choices if any(run.run.path.resolve() == folder for run in choice.runs.values())]
    matching = matching or [choice for choice in choices if choice.label == asked]
    return matching or [choice for choice in choices if all(_has(choice, word) for word in words)]


def _has(choice: ComparedChoice, word: str) -> bool:
    key, equals, value = word.partition("=")
    if not equals:
        return word in (*choice.values.values(), *choice.words.values())
    return any(value == each and (axis == key or axis.endswith(f".{key}")) for axis, each in choice.values.items())
