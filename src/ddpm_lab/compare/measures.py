"""The measured numbers: what a key of summary.json or evaluation.json means, and which direction is better."""

import re
from enum import Enum
from typing import NamedTuple

from ddpm_lab.compare.number import Number


class NumberKind(Enum):
    """What a number depends on besides the network."""

    BOUND = "bound over all steps"
    CHAIN_BOUND = "bound over the sampler's steps"
    FLOW = "likelihood by the probability flow"
    CONTINUOUS = "bound in continuous time"
    SAMPLES = "samples"
    DURATION = "seconds, which are no score"
    OTHER = "parts of a number, floors, numbers of other packages"


class Measure(NamedTuple):
    """One kind of number. A verdict is given on those that a paper's table has (`judged`); the others are parts or floors."""

    key: str
    label: str
    better: int
    """−1 where lower is better, 1 where higher is, 0 where neither."""
    judged: bool
    kind: NumberKind
    distance: bool = False
    """A Fréchet distance at finite n: the one that is plotted against bits/dim."""


BITS_PER_DIM = {
    "bound_bpd": ("bits/dim", NumberKind.BOUND),
    "bound": ("bits/dim, all steps", NumberKind.BOUND),
    "bound_chain": ("bits/dim, the sampler's steps", NumberKind.CHAIN_BOUND),
    "flow_bpd": ("bits/dim, probability flow", NumberKind.FLOW),
    "bound_continuous": ("bits/dim, continuous time", NumberKind.CONTINUOUS),
}
BOUND_PARTS = {
    "prior": "L_T",
    "kl": "KL",
    "mismatch": "cost of the variances",
    "decoder": "L_0",
    "known": "true density",
    "train": "on training data",
    "gap": "above training data",
    **{f"gap_q{i}": f"above training data, quarter {i} of t" for i in (1, 2, 3, 4)},
}
SCORES = {
    "fd": ("Fréchet distance", -1, True),
    "fd_class": ("Fréchet distance within classes", -1, False),
    "fd_inf": ("Fréchet distance at n = ∞", -1, False),
    "fid": ("FID", -1, True),
    "fid_class": ("FID within classes", -1, False),
    "fid_inf": ("FID at n = ∞", -1, False),
    "kid": ("KID", -1, False),
    "is": ("Inception Score", 1, False),
    "precision": ("precision", 1, False),
    "recall": ("recall", 1, False),
    "mind": ("MIND", -1, False),
    "c_t": ("C_T", 0, False),
    "authenticity": ("authenticity", 0, False),
    "recognised": ("recognised", 1, False),
}
"""Label, direction, and whether a verdict is given."""
SECONDS = "sampling_seconds"
"""Of evaluation, per 1,000 samples."""


def measure_of(key: str) -> Measure:
    """From a key of summary.json or evaluation.json (see `common_key`)."""
    return known_measure(key) or Measure(key, key.replace("_", " "), 0, False, NumberKind.OTHER)


def known_measure(key: str) -> Measure | None:
    """None for a key that no number of this package has."""
    if key in BITS_PER_DIM:
        label, kind = BITS_PER_DIM[key]
        return Measure(key, label, -1, True, kind)
    if key == SECONDS:
        return Measure(key, "sampling, s per 1,000", 0, False, NumberKind.DURATION)
    part = re.fullmatch(r"(?:(bound|bound_chain|bound_continuous)_)?([a-z]+?(?:_q[1-4])?)(?:_bpd)?", key)
    if part and part[2] in BOUND_PARTS:
        chain = {"bound_chain": ", the sampler's steps", "bound_continuous": ", continuous time"}.get(part[1], "")
        return Measure(key, f"{BOUND_PARTS[part[2]]}{chain}", 0, False, NumberKind.OTHER)
    plain, _, n = key.partition("@")
    for name, (label, better, judged) in SCORES.items():
        if plain == name or plain.endswith(f"_{name}"):
            extractor = plain.removesuffix(name).rstrip("_")
            words = f"{label}{f' ({extractor})' if extractor else ''}{f' @{n}' if n else ''}"
            return Measure(key, words, better, judged, NumberKind.SAMPLES, distance=judged)
    return None


def common_key(key: str, number: Number) -> str:
    """The bound over the sampler's steps has their number in its key; all of them are one measure. So are a bound and an
    estimate of it, which is unbiased."""
    steps = number.record.get("steps")
    key = re.sub(r"^(bound(?:_\d+)?)_estimate(?=_|$)", r"\1", key)
    return re.sub(rf"^bound_{steps}(?=_|$)", "bound_chain", key) if steps is not None else key
