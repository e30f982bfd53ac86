"""The difference of two bounds over the same images, image by image."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ddpm_lab.compare.number import Number
from ddpm_lab.compare.statistics import Floats, Interval, bootstrap, student, t_interval

Content = Mapping[str, np.ndarray]
SAME = ("index", "stride", "data_sha256", "split")
"""Arrays that agree where two bounds were measured on the same images at the same offsets; vlb_terms.npz has no split."""
SHARED = "shared_se"
"""Standard error of a summand that was estimated once for all images, as log Z is; absent from some bounds without one."""
REQUIRED = {"per_datum_bpd", "per_datum_prior_bpd", *SAME[:3]}


def per_datum(arrays: Content, value: float) -> Floats | None:
    """Contribution of each datum to the mean of its stratum, in bits/dim; the means of the strata add up to the bound.

    Data of one offset share their times and form a stratum. L_T is a mean over all data, so a stratum has its share of it. At
    stride 1 (every datum measured at all times, or estimated) there is one stratum. None where the arrays are malformed or
    belong to another bound than `value`.
    """
    if not arrays.keys() >= REQUIRED or not _sound(arrays):
        return None
    stratum = arrays["index"] % int(arrays["stride"])
    share = np.bincount(stratum) / len(stratum)
    values = arrays["per_datum_bpd"] + arrays["per_datum_prior_bpd"] * share[stratum]
    total = sum(values[stratum == offset].mean() for offset in np.unique(stratum))
    return values if np.isclose(total, value, rtol=1e-6) else None


def _sound(arrays: Content) -> bool:
    index, stride, lists = arrays["index"], arrays["stride"], [arrays["per_datum_bpd"], arrays["per_datum_prior_bpd"]]
    whole = index.ndim == 1 and len(index) > 0 and index.dtype.kind in "iu" and bool(index.min() >= 0)
    numbers = all(x.shape == index.shape and x.dtype.kind == "f" and np.isfinite(x).all() for x in lists)
    shared = arrays.get(SHARED, np.zeros(()))
    known = shared.ndim == 0 and shared.dtype.kind == "f" and bool(np.isfinite(shared) and shared >= 0)
    return whole and numbers and known and stride.ndim == 0 and stride.dtype.kind in "iu" and bool(stride > 0)


def over_images(numbers: Sequence[Number], others: Sequence[Number], level: float) -> Interval | None:
    """Of the difference of means over the given seeds: the interval over images, given the trained networks, widened by the
    errors of what all images of a run share. None where the two were not measured on the same images at the same offsets."""
    files = [n.per_datum.read() if n.per_datum else {} for n in numbers]
    files += [n.per_datum.content if n.per_datum else {} for n in others]
    contributions = [per_datum(file, number.value) for file, number in zip(files, [*numbers, *others], strict=True)]
    values = [each for each in contributions if each is not None]
    if not numbers or not others or len(values) < len(files) or not _alike(files):
        return None
    differences = np.mean(values[: len(numbers)], axis=0) - np.mean(values[len(numbers) :], axis=0)
    sides = files[: len(numbers)], files[len(numbers) :]
    shared = math.hypot(*(float(file.get(SHARED, 0.0)) / len(side) for side in sides for file in side))
    try:
        return bootstrap(differences, files[0]["index"] % int(files[0]["stride"]), level, shared)
    except ValueError:  # fewer than two images share an offset
        return None


def _alike(files: Sequence[Content]) -> bool:
    return all(np.array_equal(one.get(key, ""), files[0].get(key, "")) for one in files[1:] for key in SAME)


def over_sets(a: Number, b: Number, level: float) -> Interval | None:
    """a − b over the sets of samples of both, paired by sampling seed, given the two networks. None where there is one set."""
    return t_interval(np.subtract(a.sets, b.sets), level) if len(a.sets) == len(b.sets) > 1 else None


def unpaired(a: Number, b: Number, level: float) -> Interval | None:
    """a − b from both standard errors, as if independent: too wide where both were measured on the same images."""
    sizes = [size for size in (a.record.get("n"), b.record.get("n")) if isinstance(size, int) and size > 1]
    if a.se is None or b.se is None or len(sizes) < 2:
        return None
    return student(a.value - b.value, math.hypot(a.se, b.se), min(sizes) - 1, level, min(sizes))
