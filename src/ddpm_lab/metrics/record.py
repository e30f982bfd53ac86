"""How a number was measured: the record that stands beside it, and whether another number may be held against it."""

import importlib.metadata
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # who only reads records needs no torch
    from ddpm_lab.metrics.extractors import Extractor

Plain = str | int | float | bool | None
"""What a record holds: JSON takes it, and two of them can be told apart."""
Record = dict[str, Plain]

MODEL = ("seed", "weights", "checkpoint_sha256", "step")
CHAIN = ("sampler", "steps", "spacing", "eta", "variance", "clip", "T", "stride")
ARITHMETIC = ("precision", "tf32")
REFERENCE = ("data_sha256", "reference", "n_reference", "reference_sha256")
FIELDS = ("unit", "n", "split", *MODEL, *CHAIN, "levels", *ARITHMETIC, *REFERENCE)
"""What every record has, in this order; None where it does not apply, as `sampler` to real data.

`split`: "samples", or the part of the data that was measured ("train", "val"). `weights`: "ema/0.9999" or "raw". `steps`: of
the chain that was sampled or measured. `variance`: None for samples of a sampler that does not use it. `levels`: grey levels of
the data, to which samples are quantised. `reference`: the part of the data, or the file, that `reference_sha256` is the hash
of.
"""
OUTCOMES = ("terms", "calls", "squared_error_per_call", "std", "gamma_n", "gamma_times", "cov_clipped_at_0", "cov_clipped_at_1")
MAY_DIFFER = (*MODEL, *CHAIN, *ARITHMETIC, *OUTCOMES)
"""What one compares, or what changes a number by chance or rounding alone. All else is how it is measured, and must agree."""
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
    return [d for d in differences(a, b) if d.field not in MAY_DIFFER and not d.field.startswith(_version(""))]


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

    @property
    def known(self) -> float | None:
        """The value as files have it, which know no NaN."""
        return self.value if math.isfinite(self.value) else None

    @property
    def indented(self) -> str:
        """The label in a table of text."""
        return "    " * self.level + self.label
