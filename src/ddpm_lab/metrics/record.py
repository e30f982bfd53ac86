"""How a number was measured: the record that stands beside it, and whether another number may be held against it."""

import importlib.metadata
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # who only reads records needs no torch
    from collections.abc import Sequence

    from ddpm_lab.metrics.extractors import Extractor

Plain = str | int | float | bool | None
"""What a record holds: JSON takes it, and two of them can be told apart."""
Record = dict[str, Plain]

MAY_DIFFER, MUST_AGREE = True, False
"""Between two numbers. What may differ is what one compares, or what changes a number by chance or rounding alone."""
FIELDS = {
    "unit": MUST_AGREE,
    "n": MUST_AGREE,
    "split": MUST_AGREE,
    "seed": MAY_DIFFER,
    "weights": MAY_DIFFER,
    "checkpoint_sha256": MAY_DIFFER,
    "step": MAY_DIFFER,
    "sampler": MAY_DIFFER,
    "steps": MAY_DIFFER,
    "spacing": MAY_DIFFER,
    "eta": MAY_DIFFER,
    "variance": MAY_DIFFER,
    "clip": MAY_DIFFER,
    "T": MAY_DIFFER,
    "stride": MAY_DIFFER,
    "levels": MUST_AGREE,
    "precision": MAY_DIFFER,
    "tf32": MAY_DIFFER,
    "cudnn_benchmark": MAY_DIFFER,
    "data_sha256": MUST_AGREE,
    "reference": MUST_AGREE,
    "n_reference": MUST_AGREE,
    "reference_sha256": MUST_AGREE,
}
"""What every record has, in this order, and whether it may differ; None where it does not apply, as `sampler` to real data.

`split`: "samples", or the part of the data that was measured ("train", "val"). `weights`: "ema/0.9999", "raw", or "given" where
an import does not say which. `steps`: of the chain that was sampled or measured. `variance`: None for samples of a sampler that
does not use it. `levels`: grey levels of the data, to which samples are quantised. `reference`: the part of the data, or the
file, that `reference_sha256` is the hash of.
"""
OF_SOME = dict.fromkeys(("terms", "calls", "squared_error_per_call", "std", "sets"), MAY_DIFFER)
OF_SOME |= {"solved_from": MAY_DIFFER, "trained": MAY_DIFFER, "log_z": MUST_AGREE}
OF_SOME |= dict.fromkeys(("gamma_n", "gamma_times", "clip_cov", "max_last_noise"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("head", "head_sha256", "head_step"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("times", "times_n", "times_calls"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("n_probes", "probes_seed", "largest"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("krylov_steps", "krylov_bound_steps", "krylov_largest"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("krylov_probes", "krylov_decoder_probes"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("order", "two_points", "runge_kutta"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("churn", "churn_min", "churn_max", "noise_scale"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("cov_clipped_at_0", "cov_clipped_at_1"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("products", "seconds", "waited", "untimed_pieces", "machines"), MAY_DIFFER)
OF_SOME |= dict.fromkeys(("classes", "guidance_scale", "guidance_interval"), MAY_DIFFER)
"""The same of fields that some records have. All that is named in neither is how a number is measured, and must agree.
`solved_from`: of weights that are an average solved after training, from how many others. `trained`: "imported" where the
network was trained by other code. `log_z`: of a bound whose partition function was estimated, how: it is no true bound. Absent
where log Z is exact."""
PACKAGES = ("ddpm-lab", "torch", "torch-fidelity")
EARLIER = {"data": "split", "quantised_levels": "levels"}
"""Fields of records that versions before 0.2 wrote, and their names now."""


def record(extractor: "Extractor | None" = None, *, n: int, split: str, **fields: Plain) -> Record:
    """How one number was measured: `FIELDS`; then what the extractor says of itself, as extractor_…; further `fields`, which
    are settings of one metric, as kid_subsets; and versions, as version_…"""
    fields = current(fields)
    common = dict.fromkeys(FIELDS) | {"n": n, "split": split} | {name: fields.pop(name) for name in FIELDS if name in fields}
    features: Record = {}
    if extractor is not None:
        features = {"extractor": extractor.name} | {f"extractor_{name}": value for name, value in extractor.record.items()}
    return common | features | fields | {_version(name): importlib.metadata.version(name) for name in PACKAGES}


def current(record: Record) -> Record:
    """A record of an earlier version, with the names of this one."""
    renamed = {EARLIER.get(field, field): value for field, value in record.items()}
    return renamed | ({"split": "val"} if renamed.get("split") == "validation" else {})


class Difference(NamedTuple):
    """A field in which two records differ; one that is missing counts as None."""

    field: str
    a: Plain
    b: Plain

    def __str__(self) -> str:
        return f"{self.field}: {_shown(self.field, self.a)} against {_shown(self.field, self.b)}"


def differences(a: Record, b: Record) -> list[Difference]:
    """Every field in which they differ, in the order of a. One of `FIELDS` that a record lacks was not known to the version
    that wrote it, and is no difference."""
    a, b = current(a), current(b)
    known = [field for field in {**a, **b} if field not in FIELDS or (field in a and field in b)]
    return [Difference(field, a.get(field), b.get(field)) for field in known if a.get(field) != b.get(field)]


def incomparable(a: Record, b: Record) -> list[Difference]:
    """The differences for which the two numbers may not be held against each other; empty where they may."""
    may_differ = FIELDS | OF_SOME
    return [d for d in differences(a, b) if not may_differ.get(d.field) and not d.field.startswith(_version(""))]


def line(record: Record) -> str:
    """What a record says, on one line: no fields that do not apply, hashes by their first 8."""
    return ", ".join(f"{field} {_shown(field, value)}" for field, value in record.items() if value is not None)


def _version(name: str) -> str:
    return f"version_{name}".replace("-", "_")


def _shown(field: str, value: Plain) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)[:8] if field.endswith("sha256") else str(value)


class Result(NamedTuple):
    """One row of the final table and one entry of summary.json."""

    key: str
    label: str
    value: float
    """NaN where it was to be measured and could not be; the record says why."""
    se: float | None
    record: Record
    level: int = 0
    """How deep the row stands below the one that it is a part of."""
    sets: tuple[float, ...] = ()
    """Of a mean over sets of samples, the value on each, in the order of their sampling seeds."""

    @property
    def known(self) -> float | None:
        """The value as files have it, which know no NaN."""
        return self.value if math.isfinite(self.value) else None

    @property
    def known_se(self) -> float | None:
        """The same of the standard error."""
        return self.se if self.se is not None and math.isfinite(self.se) else None

    @property
    def number(self) -> str:
        """The value as text has it."""
        return "–" if self.known is None else f"{self.value:.4f}"

    @property
    def shown(self) -> str:
        """The value with its standard error, as text."""
        return self.number if self.known_se is None else f"{self.number} ± {self.known_se:.4f}"


class Aligned(NamedTuple):
    lines: list[str]
    width: int
    """Up to the end of the values, without their standard errors."""


def aligned(results: "Sequence[Result]", facts: "Sequence[tuple[str, str]]" = ()) -> Aligned:
    """A line per result, parts of others indented, then one per fact, a label and its text. Values end in one column."""
    labels = ["    " * result.level + result.label for result in results]
    wide = max(map(len, [*labels, *(label for label, _ in facts)]), default=0)
    right = max((len(result.number) for result in results), default=0)
    rows = zip(labels, results, strict=True)
    lines = [f"{label:<{wide}}  {' ' * (right - len(result.number))}{result.shown}" for label, result in rows]
    return Aligned([*lines, *(f"{label:<{wide}}  {fact}" for label, fact in facts)], wide + 2 + right)
