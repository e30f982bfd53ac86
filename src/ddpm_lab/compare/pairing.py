"""The bound of two choices over the same images: what one costs above the other, image by image."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ddpm_lab.compare.folders import Number
from ddpm_lab.compare.statistics import Estimate, Floats, bootstrap, normal_interval

Content = Mapping[str, np.ndarray]
SAME = ("index", "stride", "data_sha256", "split")
"""What tells that two were measured on the same images at the same offsets; vlb_terms.npz needs no split."""
KEYS = {"per_datum_bpd", "per_datum_prior_bpd", *SAME[:3]}


def per_datum(found: Content, value: float) -> Floats | None:
    """What each datum adds to its stratum's mean, so that the means of the strata add up to the bound. Data of one offset
    share their times; L_T, a mean over all data, is added by the share of the stratum. Where every datum was measured at all
    times, or is an estimate of its whole bound, the stride is 1, and all are one stratum. None where the arrays are not as
    described, or of another bound than `value`."""
    if not found.keys() >= KEYS or not _sound(found):
        return None
    stratum = found["index"] % int(found["stride"])
    share = np.bincount(stratum) / len(stratum)
    values = found["per_datum_bpd"] + found["per_datum_prior_bpd"] * share[stratum]
    total = sum(values[stratum == offset].mean() for offset in np.unique(stratum))
    return values if np.isclose(total, value, rtol=1e-6) else None


def _sound(found: Content) -> bool:
    index, stride, lists = found["index"], found["stride"], [found["per_datum_bpd"], found["per_datum_prior_bpd"]]
    whole = index.ndim == 1 and len(index) > 0 and index.dtype.kind in "iu" and bool(index.min() >= 0)
    numbers = all(x.shape == index.shape and x.dtype.kind == "f" and np.isfinite(x).all() for x in lists)
    return whole and numbers and stride.ndim == 0 and stride.dtype.kind in "iu" and bool(stride > 0)


def over_images(own: Sequence[Number], other: Sequence[Number], level: float) -> Estimate | None:
    """Of mean − mean, each over the seeds that are given: how far the interval goes for other images, the trained networks
    given. None where they were not measured on the same images at the same offsets."""
    files = [n.per_datum.read() if n.per_datum else {} for n in own]
    files += [n.per_datum.content if n.per_datum else {} for n in other]
    found = [per_datum(file, number.value) for file, number in zip(files, [*own, *other], strict=True)]
    values = [each for each in found if each is not None]
    if not own or not other or len(values) < len(files) or not _alike(files):
        return None
    differences = np.mean(values[: len(own)], axis=0) - np.mean(values[len(own) :], axis=0)
    try:
        return bootstrap(differences, files[0]["index"] % int(files[0]["stride"]), level)
    except ValueError:  # fewer than two images share an offset
        return None


def _alike(found: Sequence[Content]) -> bool:
    return all(np.array_equal(one.get(key, ""), found[0].get(key, "")) for one in found[1:] for key in SAME)


def unpaired(a: Number, b: Number, level: float) -> Estimate | None:
    """a − b from the standard errors of both, as if they were independent: too wide where both saw the same images."""
    n = [number.record.get("n") for number in (a, b)]
    if a.se is None or b.se is None or not all(isinstance(size, int) and size > 1 for size in n):
        return None
    return normal_interval(a.value - b.value, math.hypot(a.se, b.se), min(int(size) for size in n if size is not None), level)
