"""README.md of an exported network: what it is, how it is used, what was measured of it, where it comes from."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ddpm_lab.files import read_json

COLUMNS = ("n", "split", "seed", "weights", "step", "sampler", "steps", "eta", "variance", "extractor")
"""Of a record, those that stand beside a number."""
USE = {
    "diffusers": """\
```python
from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained("PATH OF THIS FOLDER")
images = pipe(batch_size=16, {arguments}).images
```""",
    "safetensors": """\
```python
import ddpm_lab

run = ddpm_lab.load("model.safetensors")
images = run.sample(16)
```

`python convert.py from=model.safetensors` makes a run folder of it.""",
    "openai": "`model.pt` is a state dict of their `UNetModel`.",
}


@dataclass
class Number:
    """A measured value with its record."""

    key: str
    value: float | None
    error: float | None
    record: Mapping[str, Any]


@dataclass
class Card:
    to: str
    use: Mapping[str, str]
    """The pipeline of diffusers and its arguments."""
    config: Mapping[str, Any]
    """Of the run, without what is not known of one that came in."""
    weights: str
    step: int
    checkpoint_sha256: str
    command: str | None
    """Which trained it, where that is known."""
    notes: Sequence[str]
    numbers: Sequence[Number]
    picture: Path | None


def text(card: Card) -> str:
    """In Markdown."""
    config = card.config
    run = config["run"]
    parts = [
        f"# {run['experiment']}{f': {name}' if (name := run.get('name')) else ''}",
        f"A denoising diffusion model with {card.weights} weights{_trained(card)}, written by ddpm-lab "
        f"{importlib.metadata.version('ddpm-lab')}.",
        *(["![samples](samples.png)"] if card.picture is not None else []),
        "## Use",
        USE[card.to].format(**card.use),
        *(["\n".join(f"- {note}" for note in card.notes)] if card.notes else []),
        *(["## Measured", _table(card.numbers)] if card.numbers else []),
        "## Origin",
        _origin(card),
        "The configuration:",
        f"```yaml\n{yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)}```",
    ]
    return "\n\n".join(parts) + "\n"


def _trained(card: Card) -> str:
    """An import whose file names no step has step 0."""
    by = " that other code trained" if "imported" in card.config else ""
    return by + (f" after {card.step:,} steps" if card.step or not by else "")


def _origin(card: Card) -> str:
    lines = [f"sha256 of the checkpoint: `{card.checkpoint_sha256}`"]
    if (imported := card.config.get("imported")) is not None:
        lines += [f"imported from `{imported['from']}`, layout {imported['layout']}, {imported['weights']} weights"]
        lines += [f"sha256 of `{name}` there: `{value}`" for name, value in imported["sha256"].items()]
        lines += [f"assumed: {said}" for said in imported["assumed"]]
    elif card.command is not None:
        lines.append(f"trained by `{card.command}`")
    return "\n".join(f"- {line}" for line in lines)


def _table(numbers: Sequence[Number]) -> str:
    columns = [name for name in COLUMNS if any(number.record.get(name) is not None for number in numbers)]
    rows = [["measured", "value", *columns], ["---"] * (len(columns) + 2)]
    for number in numbers:
        value = "–" if number.value is None else f"{number.value:.4f}"
        value += "" if number.error is None else f" ± {number.error:.4f}"
        fields = [number.record.get(name) for name in columns]
        rows.append([number.key, value, *("" if field is None else str(field) for field in fields)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def numbers_of(folder: Path) -> list[Number]:
    """Of a run folder: those of its final table, then of its evaluations by name. Files that cannot be read are left out."""
    numbers = []
    for path in (folder / "summary.json", *sorted(folder.glob("eval/*/evaluation.json"))):
        try:
            content = read_json(path)
            found = {key: dict(metric) for key, metric in content.get("metrics", {}).items()}
            numbers += [Number(key, one.pop("value"), one.pop("standard_error", None), one) for key, one in found.items()]
            results = [result for arm in content.get("arms", []) for result in arm["results"] if result["level"] == 0]
            numbers += [Number(one["key"], one["value"], one["standard_error"], one["record"]) for one in results]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none there, or damaged
            continue
    return numbers


def picture_of(folder: Path) -> Path | None:
    """The newest picture of samples in a run folder: of its last validation, or of an evaluation."""
    pictures = [*folder.glob("samples/step_*.png"), *folder.glob("eval/*/samples_*.png"), *folder.glob("drawn/*/grid.png")]
    return max(pictures, key=lambda path: (path.stat().st_mtime, path.name), default=None)
