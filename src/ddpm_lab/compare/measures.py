"""What the measured numbers are called, which way is better, and with how many digits they are shown."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from ddpm_lab.compare.folders import Number

MINUS = "−"


class Measure(NamedTuple):
    """One kind of number. `better` is −1 where lower is, 1 where higher is, 0 where neither. A verdict is given on those that
    a paper's table has: the others are parts of them, or floors."""

    key: str
    label: str
    better: int
    judged: bool


BPD = {
    "bound_bpd": "bits/dim",
    "bound": "bits/dim, all steps",
    "bound_chain": "bits/dim, the sampler's steps",
    "bound_estimate": "bits/dim, all steps, estimated",
    "bound_chain_estimate": "bits/dim, the sampler's steps, estimated",
    "flow_bpd": "bits/dim, probability flow",
}
PARTS = {
    "prior": "L_T", "kl": "divergences", "mismatch": "cost of the variances", "decoder": "L_0", "known": "true density",
    "train": "on training data", "gap": "above training data",
}  # fmt: skip
SCORES = {
    "fd": ("Fréchet distance", -1, True), "fd_inf": ("Fréchet distance at n = ∞", -1, False),
    "fid": ("FID", -1, True), "fid_inf": ("FID at n = ∞", -1, False), "kid": ("KID", -1, False),
    "is": ("Inception Score", 1, False), "precision": ("precision", 1, False), "recall": ("recall", 1, False),
    "recognised": ("recognised", 1, False),
}  # fmt: skip


def named(key: str) -> Measure:
    """From a key of summary.json or evaluation.json (see `common_key`)."""
    if key in BPD:
        return Measure(key, BPD[key], -1, True)
    part = re.fullmatch(r"(?:(bound|bound_chain)_)?(?:estimate_)?([a-z]+?)(?:_bpd)?", key)
    if part and part[2] in PARTS:
        which = ", the sampler's steps" if part[1] == "bound_chain" else ""
        return Measure(key, f"{PARTS[part[2]]}{which}", 0, False)
    plain, _, n = key.partition("@")
    for name, (label, better, judged) in SCORES.items():
        if plain == name or plain.endswith(f"_{name}"):
            extractor = plain.removesuffix(name).rstrip("_")
            words = f"{label}{f' ({extractor})' if extractor else ''}{f' @{n}' if n else ''}"
            return Measure(key, words, better, judged)
    return Measure(key, key.replace("_", " "), 0, False)


def common_key(key: str, number: Number) -> str:
    """The bound on the sampler's own chain has the number of its steps in its name, and is one kind of number all the same."""
    steps = number.record.get("steps")
    return re.sub(rf"^bound_{steps}(?=_|$)", "bound_chain", key) if steps is not None else key


def decimals(values: Iterable[float], spreads: Iterable[float]) -> int:
    """So many that the median half-width has two digits, or, where there is none, the largest value has four; at most 5."""
    known = sorted(spread for spread in spreads if 0 < spread < math.inf)
    size = known[len(known) // 2] if known else max((abs(value) for value in values), default=1.0)
    if size == 0:
        return 3
    return max(0, min(5, (1 if known else 3) - math.floor(math.log10(size))))


def shown(value: float | None, digits: int, sign: bool = False) -> str:
    """With a true minus, and none before zero."""
    if value is None:
        return "–"
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    elif sign and value > 0:
        text = f"+{text}"
    return text.replace("-", MINUS)


def spanned(low: float | None, high: float | None, digits: int, sign: bool = False) -> str:
    """An interval, or that there is none."""
    return "–" if low is None or high is None else f"[{shown(low, digits, sign)}, {shown(high, digits, sign)}]"
