"""A measured number, and how sure it is."""

from typing import NamedTuple


class Score(NamedTuple):
    """`se`: standard error of the value, None where there is no saying; `std`: over the splits or subsets that papers print
    behind ±, which is not a standard error, None where a number has none."""

    value: float
    se: float | None
    std: float | None = None
