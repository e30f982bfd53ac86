"""What a run folder holds: numbers with their records, curves, terms of the bound, evaluations."""

import csv
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_lab.files import read_json
from ddpm_lab.metrics.record import Plain, Record

LARGEST = 1e100


@dataclass
class Arrays:
    """An .npz file, read on demand."""

    path: Path
    problems: list[str]

    @cached_property
    def content(self) -> dict[str, np.ndarray]:
        return self.read()

    def read(self) -> dict[str, np.ndarray]:
        """Not kept. Empty where the file is missing or cannot be read."""
        try:
            with self.path.open("rb") as opened, np.load(opened) as file:  # numpy does not close a file that it cannot read
                return dict(file)
        except FileNotFoundError:
            return {}
        except Exception as error:  # zipfile, zlib, struct and numpy each raise their own for a truncated file
            problem = _unreadable(self.path, error)
            self.problems += [problem] * (problem not in self.problems)
            return {}


class Number(NamedTuple):
    """A measured value with its record."""

    value: float
    se: float | None
    record: Record
    per_datum: Arrays | None = None
    """The bits/dim of each datum, of a bound."""


@dataclass
class EvaluatedArm:
    """The numbers of a trained run under one choice of sampler and variance."""

    choice: dict[str, Plain]
    numbers: dict[str, Number]
    folder: Path
    picture: Path | None


class DescribedCurve(NamedTuple):
    """One entry of curves.json: what the model says of itself, as ᾱ over t/T."""

    title: str
    alt: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass
class RunFolder:
    """A run that has ended or was evaluated."""

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    numbers: dict[str, Number]
    evaluated: list[EvaluatedArm] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def network(self) -> Path:
        """The folder of the run that trained the weights: of arms that share their training, another arm of the sweep."""
        trained_in = self.summary.get("trained_in")
        if not isinstance(trained_in, str):
            return self.path.resolve()
        sibling = self.path.parent / Path(trained_in).name  # also where the sweep was moved
        return (sibling if sibling.is_dir() else Path(trained_in)).resolve()

    @cached_property
    def vlb_terms(self) -> Arrays:
        return Arrays(self.path / "vlb_terms.npz", self.problems)

    @cached_property
    def history(self) -> dict[str, dict[int, float]]:
        """metrics.csv by column and step, as far as it can be read."""
        columns: dict[str, dict[int, float]] = {}
        try:
            with (self.path / "metrics.csv").open(newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.DictReader(file):
                    step = row.pop("step", "") or ""
                    if step.isdecimal() and len(step) < 16:
                        values = {name: value for name, text in row.items() if (value := finite(text)) is not None}
                        for name in filter(None, values):
                            columns.setdefault(name, {})[int(step)] = values[name]
        except FileNotFoundError:
            pass
        except (OSError, csv.Error) as error:
            self.problems.append(_unreadable(self.path / "metrics.csv", error))
        return columns

    @property
    def describes_itself(self) -> bool:
        return (self.path / "curves.json").exists()

    @cached_property
    def described(self) -> list[DescribedCurve]:
        """curves.json; empty where it is missing or malformed."""
        path = self.path / "curves.json"
        try:
            return [_described(entry) for entry in read_json(path)] if path.exists() else []
        except OSError as error:
            self.problems.append(_unreadable(path, error))
        except (ValueError, TypeError, KeyError, RecursionError):
            self.problems.append(f"{path}: is not as train.py writes it, so its curves are not plotted")
        return []

    def picture(self) -> Path | None:
        """The last picture of samples."""
        return max((self.path / "samples").glob("step_*.png"), default=None)


def nested(content: Any, *keys: str) -> Any:
    """The value under the keys, or None."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _described(entry: Any) -> DescribedCurve:
    values = (map(finite, entry[axis]["values"]) for axis in "xy")
    points = [(a, b) for a, b in zip(*values, strict=True) if a is not None and b is not None]  # log-SNR may be infinite
    x, y = tuple(a for a, _ in points), tuple(b for _, b in points)
    return DescribedCurve(str(entry["title"]), str(entry["alt"]), str(entry["x"]["label"]), str(entry["y"]["label"]), x, y)


def finite(value: object) -> float | None:
    """As a finite number whose square is finite too, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < LARGEST else None


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path}: not readable ({type(error).__name__}), so left out"
