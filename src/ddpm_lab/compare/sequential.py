"""An interval that may be looked at after every seed."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ddpm_lab.compare.statistics import Interval


def anytime(values: ArrayLike, level: float, g: float = 1.0) -> Interval:
    """Interval and p of a normal mean that hold at every look, whatever decides when seeds are added or no more.

    With effect size μ/σ ~ N(0, g) and the right Haar measure on σ, the Bayes factor against μ = 0 of n values is
    E_n = (1 + ng)^{−1/2} [(1 + t²/ν) / (1 + t²/(ν (1 + ng)))]^{n/2}, t Student's statistic, ν = n − 1 (Hendriksen, de Heide &
    Grünwald 2021; Wang & Ramdas 2023). It is an e-process: it ever exceeds 1/α with probability at most α (Ville 1939).
    p = min(1, 1/E_n). The interval has all μ with E_n(μ) < 1/α. Where that is every μ, as for g = 1 and 95% below five values,
    its ends are None; p > α then. g = 1: effects of the size of their standard deviation, Cohen's "large".
    """
    x = np.asarray(values, dtype=np.float64)
    mean, n = float(x.mean()), len(x)
    if n < 2:
        return Interval(mean, None, None, None, n)
    c, squares, of_mean = 1 + n * g, float(((x - mean) ** 2).sum()), n * mean**2
    ratio = (squares + of_mean) / (squares + of_mean / c) if squares + of_mean > 0 else 1.0
    p = math.exp(min(0.0, (math.log(c) - n * math.log(ratio)) / 2))
    k = math.exp((math.log(c) - 2 * math.log(1 - level)) / n)
    if k >= c:
        return Interval(mean, None, None, p, n)
    half = math.sqrt(squares * c * (k - 1) / (c - k) / n)
    return Interval(mean, mean - half, mean + half, p, n)


def least_p(n: int, g: float = 1.0) -> float:
    """What p of `anytime` is never below with n values: its limit as |t| → ∞."""
    return (1 + n * g) ** -((n - 1) / 2)
