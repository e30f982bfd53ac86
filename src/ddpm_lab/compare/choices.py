"""What differs between runs, and which of them are the same choice under other seeds."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm_lab.compare.folders import Number, RunFolder
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.record import Plain

Flat = dict[str, Plain]
Names = Mapping[tuple[str, str], str]
"""(group, _target_) to the option as the user types it."""

IGNORED = (
    "seed", "resume", "run.", "logger", "metrics.", "data.root", "trainer.accelerator", "trainer.devices", "trainer.num_nodes",
    "trainer.other_world_size", "trainer.log_every", "trainer.validate_every", "trainer.fast_dev_run",
    *(f"callbacks.{name}." for name in ("samples", "vlb_terms", "loss_quartiles", "throughput", "frechet", "checkpoints")),
)  # fmt: skip
"""Beginnings of keys that do not change what is trained or sampled: names and places, and how it is measured, of which the
records beside the numbers keep account."""
ORDER = ("data", "schedule", "prediction", "loss", "variance", "timesteps", "sampler", "net", "optim", "ema", "trainer")
TARGET = "._target_"


@dataclass
class Arm:
    """One run as it is compared: trained and measured, or evaluated under one choice."""

    run: RunFolder
    flat: Flat
    numbers: dict[str, Number]
    picture: Path | None = None
    evaluation: Path | None = None
    """Its folder."""


@dataclass
class Choice:
    """Arms that differ by their seed alone."""

    values: dict[str, str]
    """By axis, in words."""
    label: str
    arms: dict[int, Arm]
    """By seed."""

    @property
    def plotted(self) -> str:
        """The label as plotly takes it, which reads a little HTML in all text."""
        return html.escape(self.label, quote=False)


@dataclass
class Axis:
    """Something that differs. `key` is the configuration's; of a group whose option differs, the group."""

    key: str
    follows: str | None = None
    """Another axis that decides this one: a loss its variance, say. Then the two cannot be told apart."""


@dataclass
class Compared:
    axes: list[Axis]
    choices: list[Choice]
    notes: list[str]

    @property
    def free(self) -> list[str]:
        """The axes that no other decides."""
        return [axis.key for axis in self.axes if axis.follows is None]


def trained_arms(runs: Sequence[RunFolder]) -> list[Arm]:
    return [Arm(run, flattened(run.config), run.numbers, picture=run.picture()) for run in runs if run.numbers]


def evaluated_arms(runs: Sequence[RunFolder]) -> list[Arm]:
    """The sampler that a run was trained with says nothing here."""
    found = []
    for run in runs:
        trained = {key: value for key, value in flattened(run.config).items() if not key.startswith("sampler.")}
        for one in run.evaluated:
            flat = trained | {f"evaluated.{key}": value for key, value in one.choice.items()}
            found.append(Arm(run, flat, one.numbers, one.picture, one.folder))
    return found


def flattened(config: Mapping[str, Any], prefix: str = "") -> Flat:
    """By dotted keys, without what does not count. Lists are values; of a path to data its last part."""
    flat: Flat = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if any(name == ignored.rstrip(".") or name.startswith(ignored) for ignored in IGNORED):
            continue
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{name}.")
        elif name == "data.path":
            flat[name] = Path(str(value)).name
        else:
            flat[name] = json.dumps(value, default=str) if isinstance(value, list) else value
    return flat


def compared(arms: Sequence[Arm], names: Names) -> Compared:
    """Grouped into choices, in the order in which they come."""
    groups: dict[str, dict[int, Arm]] = {}
    notes = []
    for arm in arms:
        seeds = groups.setdefault(json.dumps({key: _text(value) for key, value in arm.flat.items()}, sort_keys=True), {})
        if (before := seeds.get(arm.run.seed)) is not None:
            again = "measured again" if before.run is arm.run else f"trained again in {arm.run.path}"
            notes.append(f"{before.run.path}, seed {arm.run.seed}: {again}; the later one counts")
        seeds[arm.run.seed] = arm
    flats = [next(iter(seeds.values())).flat for seeds in groups.values()]
    keys = _differing(flats)
    words = {key: _words(key, [flat[key] for flat in flats if key in flat], names) for key in keys}
    values = [{key.removesuffix(TARGET): words[key][_text(flat[key])] for key in keys if key in flat} for flat in flats]
    axes = _axes([key.removesuffix(TARGET) for key in keys], values)
    short = _short([axis.key for axis in axes if axis.follows is None])
    labels = [_label(own, axes, short, {key.removesuffix(TARGET) for key in keys if key.endswith(TARGET)}) for own in values]
    labels = [label if label not in labels[:i] else f"{label} ({i + 1})" for i, label in enumerate(labels)]
    seeds = [dict(sorted(found.items())) for found in groups.values()]
    return Compared(axes, [Choice(*parts) for parts in zip(values, labels, seeds, strict=True)], list(dict.fromkeys(notes)))


def _differing(flats: Sequence[Flat]) -> list[str]:
    """Keys whose values differ where they are there. Where the option of a group differs, its other keys may be missing."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    found = [key for key in keys if len({_text(flat[key]) for flat in flats if key in flat}) > 1]
    optional = [
        key
        for key in keys
        if key not in found
        and any(key not in flat for flat in flats)
        and not any(key.startswith(f"{other.removesuffix(TARGET)}.") for other in found if other.endswith(TARGET))
    ]
    return sorted([*found, *optional], key=lambda key: (_rank(key), not key.endswith(TARGET)))


def _rank(key: str) -> int:
    group = key.partition(".")[0]
    return ORDER.index(group) if group in ORDER else len(ORDER)


def _text(value: Plain) -> str:
    """As in a yaml file."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _words(key: str, values: Sequence[Plain], names: Names) -> dict[str, str]:
    """Of each value what it is called: of a target the option, or its last part where no other target ends in it."""
    texts = list(dict.fromkeys(map(_text, values)))
    if not key.endswith(TARGET):
        return {text: text for text in texts}
    short = [names.get((key.removesuffix(TARGET), text), text.rpartition(".")[2]) for text in texts]
    return {text: word if short.count(word) == 1 else text for text, word in zip(texts, short, strict=True)}


def _axes(keys: Sequence[str], values: Sequence[dict[str, str]]) -> list[Axis]:
    """An axis follows an earlier free one, or a later one that is finer, where each value of that one goes with one of it."""

    def decides(a: str, b: str) -> bool:
        pairs = {(own.get(a), own.get(b)) for own in values}
        return len(pairs) == len({first for first, _ in pairs})

    axes: list[Axis] = []
    for i, key in enumerate(keys):
        others = [
            other for j, other in enumerate(keys) if decides(other, key) and (j < i or (j > i and not decides(key, other)))
        ]
        axes.append(Axis(key, others[0] if others else None))
    return axes


def _short(keys: Sequence[str]) -> dict[str, str]:
    """The last part of a key, where only one has it."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _label(values: dict[str, str], axes: Sequence[Axis], short: dict[str, str], options: set[str]) -> str:
    parts = []
    for axis in axes:
        if axis.key in values and axis.follows is None:
            plain = axis.key in options or axis.key == "evaluated.sampler"
            parts.append(values[axis.key] if plain else f"{short[axis.key]}={values[axis.key]}")
    return ", ".join(parts) or "the only choice"


def chosen(choices: Sequence[Choice], asked: str | None) -> Choice:
    """The baseline: the first, or the one that `asked` names by its label, values or a run folder of it."""
    if asked is None:
        return choices[0]
    found = having(choices, asked)
    if len(found) != 1:
        many = f"{len(found)} choices have that" if found else "no choice has that"
        labels = "; ".join(choice.label for choice in found or choices)
        raise UserError(f"baseline={asked}: {many}; name one of: {labels}")
    return found[0]


def having(choices: Sequence[Choice], asked: str) -> list[Choice]:
    """Those that `asked` may mean."""
    folder = Path(os.path.expanduser(asked)).resolve()
    words = [word.strip() for word in asked.split(",")]
    found = [choice for choice in choices if any(arm.run.path.resolve() == folder for arm in choice.arms.values())]
    found = found or [choice for choice in choices if choice.label == asked]
    return found or [choice for choice in choices if all(_has(choice, word) for word in words)]


def _has(choice: Choice, word: str) -> bool:
    key, equals, value = word.partition("=")
    if not equals:
        return word in choice.values.values() or word in choice.label.split(", ")
    return any(value == own and (axis == key or axis.endswith(f".{key}")) for axis, own in choice.values.items())
