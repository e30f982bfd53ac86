"""What the user asks of differences besides which choice is better: sizes by measure, and how seeds are added."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ddpm_lab.compare.measures import BITS_PER_DIM, SCORES, Measure
from ddpm_lab.errors import UserError

BOUNDS = "bits/dim"
"""Names every number in bits/dim."""
PART = re.compile(r"(?:(?P<name>[^:]+):)?(?P<number>(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)(?P<percent>%?)")


class Size(NamedTuple):
    """Of a difference on the measures of a name, in their unit, or in percent of the baseline's mean."""

    name: str
    value: float
    percent: bool

    @property
    def text(self) -> str:
        return f"{self.name}:{self.value:g}{'%' * self.percent}"


class Questions(NamedTuple):
    same_within: tuple[Size, ...] = ()
    """Differences below it are nothing in practice."""
    resolve: tuple[Size, ...] = ()
    """Differences that further seeds should tell from 0; those observed where it is empty."""
    power: float = 0.8
    """Probability with which they should."""
    any_look: bool = False
    """Whether seeds are added until a difference shows: intervals over seeds hold at every look then."""


def sizes(key: str, text: str) -> tuple[Size, ...]:
    """From 0.01 (of bits/dim), or NAME:0.5 and NAME:2%, one after the other with commas between. Raises UserError."""
    found: dict[str, Size] = {}
    for part in map(str.strip, re.split(r"(?<=[\d.%]),", text)):
        read = PART.fullmatch(part)
        size = read and Size((read["name"] or BOUNDS).strip(), float(read["number"]), bool(read["percent"]))
        twice = size is not None and size.name.casefold() in found
        if not size or not 0 < size.value < 1e100 or twice or (size.percent and not (read and read["name"])):
            allowed = "a number (of bits/dim), NAME:NUMBER or NAME:NUMBER%, with commas between, above 0, each name once"
            hint = "; decimals have a point, as in 0.01" * bool(re.search(r"(?<![.\d])\d+,\d", text))
            raise UserError(f"{key}={text}: {part or 'nothing'} is not understood; allowed is {allowed}{hint}")
        found[size.name.casefold()] = size
    return tuple(found.values())


def names(measure: Measure) -> list[str]:
    """By which a user may mean it, in either case: its key, its label, the score alone."""
    plain = measure.key.partition("@")[0]
    scores = [name for name in SCORES if plain == name or plain.endswith(f"_{name}")]
    return [measure.key, *([BOUNDS] if measure.key in BITS_PER_DIM else scores), measure.label]


def size_on(asked: Sequence[Size], measure: Measure, mean: float) -> float | None:
    """In the unit of the measure; the more special name counts. None where none was asked, or it is 0 percent of nothing."""
    by_name = {size.name.casefold(): size for size in asked}
    size = next((by_name[name] for name in map(str.casefold, names(measure)) if name in by_name), None)
    if size is None:
        return None
    return (abs(mean) * size.value / 100 if size.percent else size.value) or None


def check_names(questions: Questions, measures: Iterable[Measure]) -> None:
    """Raises UserError for a name that no judged measure has."""
    allowed = list(dict.fromkeys(name for measure in measures if measure.judged for name in names(measure)))
    for key, asked in (("same_within", questions.same_within), ("resolve", questions.resolve)):
        if wrong := [size for size in asked if size.name.casefold() not in map(str.casefold, allowed)]:
            raise UserError(f"{key}={wrong[0].text}: no such number is judged here; allowed is {', '.join(allowed) or 'none'}")
