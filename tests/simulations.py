"""`make soak`: what compare.py says of synthetic sweeps, whose truth is known. Minutes; a test runs some hundreds.

python tests/simulations.py [SWEEPS] [SEED]. A sweep has 2-8 choices, 2-10 training seeds and 1-3 generation seeds. Half of the
choices differ from the baseline, by up to some standard deviations. Choices of one training seed have a part of their chance in
common, and all of what a generation seed does to every network.
"""

import sys
import time
from typing import NamedTuple

import numpy as np

from ddpm_lab.compare.components import components, floor, over_both
from ddpm_lab.compare.equivalence import tost
from ddpm_lab.compare.needed import pairing, seeds_needed
from ddpm_lab.compare.sequential import anytime
from ddpm_lab.compare.statistics import Floats, Interval, holm, t_interval

LEVEL, POWER = 0.95, 0.8
PARTS = ("training", "generation", "residual")
OFTEN, SELDOM = (0.935, 1.0), (0.0, 0.055)
ALLOWED = {
    "a false 'beats' in a sweep": SELDOM,
    "a false 'beats' over both kinds of seed, where it does": SELDOM,
    "truth within the interval of a difference": (0.935, 0.965),
    "two equal runs differ by more than the floor": SELDOM,
    **{f"truth within the interval of the {part} variance": OFTEN for part in PARTS},
    "truth within the interval of what pairing saves": OFTEN,
    "the same, of choices that differ by the margin": SELDOM,
    "found with the seeds that were said to be needed": (POWER - 0.02, 1.0),
    "found without an effect, looking after each seed": SELDOM,
    **{f"bias of the {part} variance, in standard errors": (-3.0, 3.0) for part in PARTS},
}
"""From where to where a share, or a bias, may lie."""
Outcomes = dict[str, list[float]]


class Sweep(NamedTuple):
    effects: Floats
    """Of each choice; the first is the baseline, with 0."""
    variances: Floats
    """Of training, generation and the rest."""
    common: float
    """Correlation of choices, of training and of the rest."""
    y: Floats
    """Numbers, of shape (choices, training seeds, generation seeds)."""

    @property
    def difference(self) -> Floats:
        """Of the second choice and the baseline, by training seed."""
        return (self.y[1] - self.y[0]).mean(1)


def drawn(rng: np.random.Generator, most: tuple[int, int, int] = (8, 10, 3), of_all: float = 1.0) -> Sweep:
    """`most`: choices, training seeds, generation seeds. `of_all`: correlation of choices in what a generation seed does."""
    arms, seeds, sets = (int(rng.integers(least, largest + 1)) for least, largest in zip((2, 2, 1), most, strict=True))
    variances, common = rng.uniform(0.01, 1, 3), float(rng.choice([0, 0.5, 0.9]))
    y = np.full((arms, seeds, sets), 10.0)
    shapes = (seeds, 1), (1, sets), (seeds, sets)
    for variance, part, shape in zip(variances, (common, of_all, common), shapes, strict=True):
        y += variance**0.5 * (part**0.5 * rng.normal(size=shape) + (1 - part) ** 0.5 * rng.normal(size=(arms, *shape)))
    effects = rng.normal(0, 2, arms) * (rng.random(arms) < 0.5)
    effects[0] = 0
    return Sweep(effects, variances, common, y + effects[:, None, None])


def claims(numbers: Floats) -> Floats:
    """Of numbers (choices, seeds): 1 for each choice but the first that is said to be higher than the first, −1 if lower, else
    0. The judge's rule: Student's test of differences by seed, corrected by Holm."""
    return corrected([t_interval(of_choice - numbers[0], LEVEL) for of_choice in numbers[1:]])


def corrected(intervals: list[Interval]) -> Floats:
    holds = [p <= 1 - LEVEL for p in holm([1.0 if each.p is None else each.p for each in intervals])]
    return np.sign([each.value for each in intervals]) * holds


def false(said: Floats, sweep: Sweep) -> bool:
    """Whether a claim is not true."""
    return bool((said != 0)[np.sign(sweep.effects[1:]) != said].any())


def of_verdicts(sweep: Sweep, rng: np.random.Generator) -> dict[str, float]:
    """Also where each choice makes something else of a generation seed: over training seeds alone, and over both."""
    other = drawn(rng, of_all=0)
    both = corrected([over_both(components(of_choice - other.y[0]), LEVEL) for of_choice in other.y[1:]])
    return {
        "a false 'beats' in a sweep": false(claims(sweep.y.mean(2)), sweep),
        "(a false 'beats', where each choice makes something else of a generation seed)": false(claims(other.y.mean(2)), other),
        "a false 'beats' over both kinds of seed, where it does": false(both, other),
    }


def of_differences(sweep: Sweep, rng: np.random.Generator) -> dict[str, float]:
    truth, interval = sweep.effects[1], t_interval(sweep.difference, LEVEL)
    margin = (interval.se or 0) * 10 ** rng.uniform(-0.5, 1.5)
    at_margin = t_interval(sweep.difference - truth + margin, LEVEL)
    equivalence = tost(at_margin, margin, LEVEL)
    saved, common = pairing(*sweep.y[:2, :, 0]), sweep.common * (sweep.variances[0] + sweep.variances[2])
    true = 1 / (1 - common / (sweep.variances[0] + sweep.variances[2]))
    return {
        "truth within the interval of a difference": interval.low <= truth <= interval.high,
        "the same, of choices that differ by the margin": equivalence.holds,
        "truth within the interval of what pairing saves": saved.low <= true <= saved.high,
    }


def of_components(sweep: Sweep, rng: np.random.Generator) -> dict[str, float]:
    """Also a floor, and two new runs of one choice, each with as many sets as before or one."""
    parts, made = components(sweep.y, LEVEL), {}
    sets = int(rng.choice([1, sweep.y.shape[2]]))
    if (least := floor(parts, LEVEL, sets)) is not None:
        training, _, residual = sweep.variances
        variance = 2 * (training + residual / sets)
        made["two equal runs differ by more than the floor"] = abs(rng.normal(0, variance**0.5)) > least.difference
    if parts.residual is not None:
        for part, true, found in zip(PARTS, sweep.variances, parts[:3], strict=True):
            made[f"truth within the interval of the {part} variance"] = found.low <= true <= found.high
            made[f"bias of the {part} variance, in standard errors"] = (found.variance - true) / sweep.variances.sum()
    return made


def of_more_seeds(rng: np.random.Generator) -> dict[str, float]:
    """A pilot of 5-10 seeds, and the ordinary test on all that are needed, with the effect to resolve and with none; then looks
    after each of 3-20 seeds."""
    n0, effect = int(rng.integers(5, 11)), rng.uniform(0.3, 1)
    pilot = rng.normal(size=n0)
    n = seeds_needed(float(pilot.std(ddof=1)), n0, effect, LEVEL, POWER).n
    x, looked = np.append(pilot, rng.normal(size=n - n0)), rng.normal(size=20)
    return {
        "found with the seeds that were said to be needed": t_interval(x + effect, LEVEL).excludes_zero,
        "(found with those seeds, without an effect)": t_interval(x, LEVEL).excludes_zero,
        "found without an effect, looking after each seed": any(anytime(looked[:n], LEVEL).excludes_zero for n in range(3, 21)),
        "(the same by the ordinary test)": any(t_interval(looked[:n], LEVEL).excludes_zero for n in range(3, 21)),
    }


class Result(NamedTuple):
    name: str
    value: float
    count: int
    low: float
    high: float


def simulated(sweeps: int, seed: int) -> list[Result]:
    """Names in parentheses are shown and not held to anything."""
    rng, outcomes = np.random.default_rng(seed), dict[str, list[float]]()
    for _ in range(sweeps):
        sweep = drawn(rng)
        for name, value in (
            of_verdicts(sweep, rng) | of_differences(sweep, rng) | of_components(sweep, rng) | of_more_seeds(rng)
        ).items():
            outcomes.setdefault(name, []).append(float(value))
    results = []
    for name, values in outcomes.items():
        mean = float(np.mean(values))
        value = mean / (float(np.std(values)) / len(values) ** 0.5) if name.startswith("bias") else mean
        results.append(Result(name, value, len(values), *ALLOWED.get(name, (-np.inf, np.inf))))
    return results


def main() -> None:
    sweeps, seed = (int(word) for word in [*sys.argv[1:], *("10000", "0")[len(sys.argv) - 1 :]])
    began, results = time.monotonic(), simulated(sweeps, seed)
    for name, value, count, low, high in results:
        inside = "" if low <= value <= high else f"  not within {low} and {high}"
        print(f"{name:<80} {value:8.4f} of {count:6}{inside}")
    print(f"{sweeps} sweeps, seed {seed}, {time.monotonic() - began:.0f} s")
    sys.exit(not all(result.low <= result.value <= result.high for result in results))


if __name__ == "__main__":
    main()
