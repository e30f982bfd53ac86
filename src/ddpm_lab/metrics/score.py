"""A measured number with its uncertainty."""

from typing import NamedTuple


class Score(NamedTuple):
    """`se`: standard error of the value, None where it is not known. `std`: spread over splits or subsets, which published
    numbers give after ±; it is not a standard error. None where a number has none."""

    value: float
    se: float | None
    std: float | None = None
