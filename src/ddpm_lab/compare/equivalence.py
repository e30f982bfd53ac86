"""Whether two choices are the same for practical purposes."""

import math
from typing import NamedTuple

from scipy.special import stdtr, stdtrit

from ddpm_lab.compare.statistics import Interval


class Equivalence(NamedTuple):
    """Result of two one-sided tests."""

    p: float
    low: float
    high: float
    """Ends of the interval of level 2 · level − 1, which lies within ±margin where the choices are equivalent."""
    holds: bool
    """p ≤ 1 − level; before any correction for several comparisons."""


def tost(difference: Interval, margin: float, level: float) -> Equivalence | None:
    """Two one-sided t-tests (Schuirmann 1987) of |difference| ≥ margin; p is the larger of the two.

    None without a standard error. Raises ValueError for a margin that is not positive and finite.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"margin={margin}: positive and finite")
    value, se, dof = difference.value, difference.se, difference.dof
    if se is None or dof is None:
        return None
    beyond = abs(value) - margin
    p = float(stdtr(dof, beyond / se)) if se > 0 else float(beyond >= 0)
    half = se * float(stdtrit(dof, level))
    return Equivalence(p, value - half, value + half, p <= 1 - level)
