"""Whether the numbers of a run lie in the bands where they are expected: `python evaluate.py ckpt=RUN check=NAME`."""

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ddpm_lab.errors import UserError
from ddpm_lab.files import is_as_written

BAND = re.compile(r"(?P<number>\S+?)(?: at (?P<images>[0-9]+) images)?: (?P<low>[-.e0-9]+) to (?P<high>[-.e0-9]+)")
WINDOW = 0.9
"""A number of training at n images is the mean of the rows of metrics.csv between this share of n and n: one row is noisy."""


class Band(NamedTuple):
    """Where a number is expected: one of the evaluation by its key, or one of metrics.csv after so many training images."""

    number: str
    images: int | None
    low: float
    high: float

    @property
    def name(self) -> str:
        return self.number + (f" at {self.images:,} images" if self.images else "")


class Judged(NamedTuple):
    """A band, and the number; None where it was not measured, which is a failure."""

    band: Band
    value: float | None

    @property
    def holds(self) -> bool:
        return self.value is not None and self.band.low <= self.value <= self.band.high

    @property
    def line(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:.4f}"
        verdict = "holds" if self.holds else "FAILS"
        return f"  {verdict}  {self.band.name}: {value}, expected {self.band.low:g} to {self.band.high:g}"


def read(text: str) -> Band:
    """From "fid: 5 to 8" or "train/loss at 500000 images: 0.03 to 0.04". Raises UserError."""
    refused = UserError(
        f"expected={text}: allowed is NUMBER: LOW to HIGH, or NUMBER at N images: LOW to HIGH, where LOW is at most HIGH"
    )
    if (match := BAND.fullmatch(text)) is None:
        raise refused
    number, images, *bounds = match.groups()
    try:
        low, high = map(float, bounds)
    except ValueError as error:
        raise refused from error
    if low > high:
        raise refused
    return Band(number, int(images) if images else None, low, high)


def columns(folder: Path) -> list[str]:
    """Those of the run's metrics.csv; none where there is no such file."""
    path = folder / "metrics.csv"
    return next(csv.reader(path.read_text(errors="replace").splitlines()), []) if path.exists() else []


def judge(bands: Sequence[Band], numbers: Mapping[str, float | None], folder: Path) -> list[Judged]:
    """`numbers`: the evaluation's by their keys, None for one that is not finite. `folder`: that of the run, whose metrics.csv
    counts only if it is as written."""
    path = folder / "metrics.csv"
    known = path.exists() and is_as_written(path)
    rows = list(csv.DictReader(path.read_text(errors="replace").splitlines())) if known else []
    return [
        Judged(band, numbers.get(band.number) if band.images is None else _trained(rows, band.number, band.images))
        for band in bands
    ]


def _trained(rows: Iterable[Mapping[str, str]], number: str, images: int) -> float | None:
    """The mean of a column up to so many images; None where the run has not seen them."""
    columns = ("train/images_seen", number)
    try:
        points = [[float(row[name]) for name in columns] for row in rows if all(row.get(name) for name in columns)]
    except ValueError:  # no number
        return None
    window = [value for seen, value in points if WINDOW * images <= seen <= images]
    reached = any(seen >= images for seen, _ in points)
    return math.fsum(window) / len(window) if window and reached else None


def summary(judged: Sequence[Judged]) -> str:
    """How many bands fail, and which."""
    failed = [one.band.name for one in judged if not one.holds]
    return f"{len(failed)} of {len(judged)} bands fail: {', '.join(failed)}" if failed else f"all {len(judged)} bands hold"
