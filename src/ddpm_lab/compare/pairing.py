"""The bound of two arms over the same images: what one costs above the other, image by image."""

import math
from collections.abc import Sequence

import numpy as np

from ddpm_lab.compare.choices import Choice
from ddpm_lab.compare.folders import Number, RunFolder
from ddpm_lab.compare.statistics import Estimate, Floats, bootstrap, normal_interval

KEYS = {"per_datum_bpd", "per_datum_prior_bpd", "index", "stride", "data_sha256"}
PAIRED = "bound_bpd"
"""The number of summary.json whose parts vlb_terms.npz holds."""


def per_datum(run: RunFolder) -> Floats | None:
    """What each datum adds to its stratum's mean, so that the means of the strata add up to the bound. Data of one offset
    share their times; L_T, a mean over all data, is added by the share of the stratum. None where the file does not hold it,
    or holds another bound than the summary's."""
    found = run.terms
    if not found.keys() >= KEYS or PAIRED not in run.numbers:
        return None
    stratum = found["index"] % int(found["stride"])
    share = np.bincount(stratum) / len(stratum)
    values = found["per_datum_bpd"] + found["per_datum_prior_bpd"] * share[stratum]
    total = sum(values[stratum == offset].mean() for offset in np.unique(stratum))
    return values if np.isclose(total, run.numbers[PAIRED].value, rtol=1e-6) else None


def over_images(a: Choice, b: Choice, seeds: Sequence[int], level: float) -> Estimate | None:
    """Of a − b, the mean over seeds that both have: how far the interval goes for other images, the trained networks given.
    None where they were not measured on the same images at the same offsets."""
    pairs = [(a.arms[seed].run, b.arms[seed].run) for seed in seeds]
    values = [(per_datum(one), per_datum(other)) for one, other in pairs]
    runs = [run for pair in pairs for run in pair]
    if not runs or any(one is None or other is None for one, other in values) or not _alike(runs):
        return None
    differences = np.mean([one - other for one, other in values if one is not None and other is not None], axis=0)
    first = runs[0].terms
    try:
        return bootstrap(differences, first["index"] % int(first["stride"]), level)
    except ValueError:  # fewer than two images share an offset
        return None


def _alike(runs: Sequence[RunFolder]) -> bool:
    first = runs[0].terms
    same = ("index", "stride", "data_sha256")
    return all(np.array_equal(run.terms[key], first[key]) for run in runs[1:] for key in same)


def unpaired(a: Number, b: Number, level: float) -> Estimate | None:
    """a − b from the standard errors of both, as if they were independent: too wide where both saw the same images."""
    n = [number.record.get("n") for number in (a, b)]
    if a.se is None or b.se is None or not all(isinstance(size, int) and size > 1 for size in n):
        return None
    return normal_interval(a.value - b.value, math.hypot(a.se, b.se), min(int(size) for size in n if size is not None), level)
