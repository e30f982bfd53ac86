"""What a run folder holds: numbers with their records, curves, terms of the bound, evaluations."""

import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_lab.errors import UserError
from ddpm_lab.files import read_json
from ddpm_lab.metrics.record import Plain, Record

LARGEST = 1e100


@contextmanager
def leaving_out(path: Path, problems: list[str], malformed: str = "") -> Iterator[None]:
    """What cannot be read is left out, and said once in `problems`; that a file is missing is not said. `malformed`: what is
    said where the content has another form than expected."""
    try:
        yield
    except FileNotFoundError:
        pass
    except Exception as error:  # zipfile, zlib, struct, csv and numpy each raise their own for a truncated file
        why = f"not readable ({type(error).__name__}), so left out"
        if isinstance(error, UserError):
            why = f"{error}, so left out"
        elif malformed and not isinstance(error, OSError):
            why = malformed
        problems += [f"{path}: {why}"] * (f"{path}: {why}" not in problems)


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
        with leaving_out(self.path, self.problems), self.path.open("rb") as opened, np.load(opened) as file:
            return dict(file)  # numpy does not close a file that it cannot read
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
    points: tuple[tuple[float, float], ...]


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
        return columns(self.path / "metrics.csv", "step", self.problems)

    @property
    def describes_itself(self) -> bool:
        return (self.path / "curves.json").exists()

    @cached_property
    def described(self) -> list[DescribedCurve]:
        """curves.json; empty where it is missing or malformed."""
        path = self.path / "curves.json"
        with leaving_out(path, self.problems, "is not as train.py writes it, so its curves are not plotted"):
            return [_described(entry) for entry in read_json(path)]
        return []

    def picture(self) -> Path | None:
        """The last picture of samples."""
        return max((self.path / "samples").glob("step_*.png"), default=None)


def nested(content: Any, *keys: str) -> Any:
    """The value under the keys, or None."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def columns(path: Path, by: str, problems: list[str]) -> dict[str, dict[int, float]]:
    """The finite numbers of a CSV file, by column and by the whole number in the column `by`, as far as it can be read."""
    found: dict[str, dict[int, float]] = {}
    with leaving_out(path, problems), path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            place = row.pop(by, "") or ""
            if place.isdecimal() and len(place) < 16:
                for name, text in row.items():
                    if name and (value := finite(text)) is not None:
                        found.setdefault(name, {})[int(place)] = value
    return found


def _described(entry: Any) -> DescribedCurve:
    x, y = (map(finite, entry[axis]["values"]) for axis in "xy")
    points = tuple((a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None)  # log-SNR may be infinite
    return DescribedCurve(str(entry["title"]), str(entry["alt"]), str(entry["x"]["label"]), str(entry["y"]["label"]), points)


def finite(value: object) -> float | None:
    """As a finite number whose square is finite too, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < LARGEST else None
