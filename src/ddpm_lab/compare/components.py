"""How much of the chance in a number is of training, how much of the noise that samples start from, how much of the rest."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtri, fdtri, stdtrit

from ddpm_lab.compare.statistics import Floats, Interval, student


class Component(NamedTuple):
    """A variance with its interval, in squared units of the number. Nothing is truncated: all three may be negative."""

    variance: float
    low: float
    high: float


class Square(NamedTuple):
    """A mean square, pooled over arms, with its degrees of freedom."""

    mean: float
    dof: float


class Components(NamedTuple):
    """Of y_jk = μ + A_j + G_k + E_jk: A of a training seed, G of a generation seed, E of the images that the one makes of the
    other.

    With one set, `training` is σ_A² + σ_E², which nothing tells apart. With one seed, `generation` is σ_G² + σ_E². What cannot
    be told is None.
    """

    training: Component | None
    generation: Component | None
    residual: Component | None
    mean: float
    seeds: int
    sets: int
    squares: dict[str, Square]
    """Mean squares of seeds, sets and residual, those that exist."""


def components(y: ArrayLike, level: float = 0.95) -> Components:
    """Of numbers of shape (arms, seeds, sets), or (seeds, sets) of one arm; seeds and sets are crossed within an arm.

    Estimates of the analysis of variance, unbiased and untruncated, from mean squares pooled over arms. Intervals: χ² for a
    mean square alone, Tukey and Williams's for the difference of two (Tukey 1951; Williams 1962). Of y = a − b, these are the
    components of a paired difference.
    """
    y = np.asarray(y, dtype=np.float64)
    y = y[None] if y.ndim == 2 else y
    _, seeds, sets = y.shape
    mean, of_seed, of_set = (y.mean(axis, keepdims=True) for axis in ((1, 2), 2, 1))
    deviations = {
        "seeds": (of_seed - mean) * sets**0.5,
        "sets": (of_set - mean) * seeds**0.5,
        "rest": y - of_seed - of_set + mean,
    }
    dofs = {"seeds": seeds - 1, "sets": sets - 1, "rest": (seeds - 1) * (sets - 1)}
    squares = {name: _pooled(deviations[name], dof) for name, dof in dofs.items() if dof > 0}
    a, g, e = (squares.get(name) for name in dofs)
    return Components(
        None if a is None else _difference(a, e, sets, level),
        None if g is None else _difference(g, e, seeds, level),
        None if e is None else _difference(e, None, 1, level),
        float(y.mean()),
        seeds,
        sets,
        squares,
    )


def _pooled(deviations: Floats, dof: int) -> Square:
    """Mean over arms of the mean squares, each of `dof`. Arms that share their seeds are not independent, so the degrees of
    freedom are arms · dof · ε (Box 1954), ε estimated from the covariance of arms (Greenhouse & Geisser 1959), which errs to
    few."""
    flat = deviations.reshape(len(deviations), -1)
    covariance = flat @ flat.T / dof
    total = float(np.trace(covariance))
    return Square(total / len(flat), dof / float(((covariance / total) ** 2).sum()) if total > 0 else dof * len(flat))


def _difference(one: Square, other: Square | None, times: int, level: float) -> Component:
    """(one − other) / times."""
    tails = (1 - level) / 2, (1 + level) / 2

    def end(tail: float) -> float:
        subtracted = 0.0 if other is None else float(fdtri(one.dof, other.dof, 1 - tail)) * other.mean
        return one.dof * (one.mean - subtracted) / float(chdtri(one.dof, tail)) / times

    return Component((one.mean - (0.0 if other is None else other.mean)) / times, *(end(tail) for tail in tails))


class Floor(NamedTuple):
    """Least absolute difference of two single unpaired runs that is not chance."""

    difference: float
    percent: float | None
    """Of the absolute mean; None where that is 0."""
    dof: float


def floor(parts: Components, level: float, sets: int = 1) -> Floor | None:
    """Chance alone exceeds it with probability 1 − level: t · √(2 (σ_A² + σ_E² / sets)), each run with `sets` sets of the same
    generation seeds, so that G cancels.

    Degrees of freedom by Satterthwaite (1946). None where the variance cannot be told, or its estimate is negative.
    """
    a, e = parts.squares.get("seeds"), parts.squares.get("rest")
    if a is None or (e is None and sets != 1):
        return None
    of_set = [] if e is None else [(2 / sets - 2 / parts.sets, e)]
    variance, dof = _sum((2 / parts.sets, a), *of_set)
    if variance < 0:
        return None
    difference = float(stdtrit(dof, (1 + level) / 2)) * variance**0.5
    return Floor(difference, 100 * difference / abs(parts.mean) if parts.mean else None, dof)


def over_both(parts: Components, level: float) -> Interval:
    """Interval for the mean over all training and all generation seeds, of one arm or one paired difference.

    An interval over training seeds alone holds for the generation seeds that were measured. Here the variance of the mean is
    σ_A²/seeds + σ_G²/sets + σ_E²/(seeds · sets), by Satterthwaite (1946). Of negative σ_A² or σ_G², 0 is taken, with the
    degrees of freedom of the fewer seeds. No ends where there is one seed or one set.
    """
    n, (a, g, e) = parts.seeds * parts.sets, (parts.squares.get(name) for name in ("seeds", "sets", "rest"))
    if a is None or g is None or e is None:
        return Interval(parts.mean, None, None, None, n)
    positive = [square for square in (a, g) if square.mean > e.mean]
    variance, dof = _sum(*((1 / n, square) for square in positive), ((1 - len(positive)) / n, e))
    return student(parts.mean, variance**0.5, dof if len(positive) == 2 else min(a.dof, g.dof), level, n)


def _sum(*terms: tuple[float, Square]) -> tuple[float, float]:
    """Of weighted mean squares, with Satterthwaite's degrees of freedom. Squares of their shares alone do not overflow."""
    largest = max(abs(w * square.mean) for w, square in terms) or 1.0
    value, spread = (sum((w * square.mean / largest) ** k / square.dof ** (k - 1) for w, square in terms) for k in (1, 2))
    return largest * value, value**2 / spread if spread > 0 else terms[0][1].dof
