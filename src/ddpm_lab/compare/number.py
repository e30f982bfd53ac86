"""A measured number as a file has it: its value, the record of how it was measured, and what else is known of it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_lab.errors import UserError
from ddpm_lab.files import check_as_written
from ddpm_lab.metrics.record import Record


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


SMALL = 100_000
"""Bytes of a file that is kept in memory."""


@dataclass
class Arrays:
    """An .npz file, read on demand."""

    path: Path
    problems: list[str]

    @cached_property
    def content(self) -> dict[str, np.ndarray]:
        return self._read()

    def read(self) -> dict[str, np.ndarray]:
        """Kept only if small. Empty where the file is missing or cannot be read."""
        small = self.path.is_file() and self.path.stat().st_size <= SMALL
        return self.content if small or "content" in self.__dict__ else self._read()

    def _read(self) -> dict[str, np.ndarray]:
        with leaving_out(self.path, self.problems), self.path.open("rb") as opened:  # numpy closes none that it cannot read
            check_as_written(self.path)
            return dict(np.load(opened))
        return {}


class Number(NamedTuple):
    """A measured value with its record."""

    value: float
    se: float | None
    record: Record
    per_datum: Arrays | None = None
    """The bits/dim of each datum, of a bound."""
    sets: tuple[float, ...] = ()
    """Its values on several sets of samples, of the sampling seeds `record["seed"]`, + 1, …; empty where there is one set."""

    @property
    def by_set(self) -> dict[int, float]:
        """By sampling seed; of one set `value`. Empty where the seed is not known."""
        first = self.record.get("seed")
        return dict(enumerate(self.sets or (self.value,), first)) if type(first) is int else {}


def nested(content: Any, *keys: str) -> Any:
    """The value under the keys, or None."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def finite(value: object) -> float | None:
    """As a finite number whose square is finite too, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < 1e100 else None


def number_of(entry: Mapping[str, Any], per_datum: Arrays | None, name: str, problems: list[str]) -> Number | None:
    """An entry of evaluation.json. None where its value is not finite; one whose sets of samples are not all known is left out,
    and `problems` say so of `name`."""
    if (value := finite(entry["value"])) is None and not entry.get("sets"):
        return None
    record, sets = dict(entry["record"]), tuple(finite(each) for each in entry.get("sets") or ())
    known = tuple(each for each in sets if each is not None)
    wrong = ""
    if len(known) < len(sets):
        wrong = f"{len(sets) - len(known)} of {len(sets)} sets of samples have no finite number"
    elif sets and (value is None or record.get("sets") != len(sets) or type(record.get("seed")) is not int):
        wrong = "its sets of samples are not as its record has them (value, sets, seed)"
    if wrong or value is None:
        problems.append(f"{name}: {wrong}, so left out")
        return None
    return Number(value, finite(entry.get("standard_error")), record, per_datum, known)
