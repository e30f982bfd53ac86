"""How a number was measured: the record that stands beside it, and whether another number may be held against it."""

import importlib.metadata
import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # who only reads records needs no torch
    from ddpm_lab.metrics.extractors import Extractor

Plain = str | int | float | bool | None
"""What a record holds: JSON takes it, and two of them can be told apart."""
Record = dict[str, Plain]

MAY_DIFFER = (
    "split", "seed", "weights", "checkpoint_sha256", "step", "sampler", "steps", "spacing", "eta", "variance", "clip",
    "precision", "tf32", "T", "stride", "terms", "calls", "squared_error_per_call", "std", "gamma_n", "gamma_times",
    "cov_clipped_at_0", "cov_clipped_at_1",
)  # fmt: skip
"""What one compares, or what changes a number by chance or rounding alone. All else is how it is measured, and must agree."""
PACKAGES = ("ddpm-lab", "torch", "torch-fidelity")


def record(
    extractor: "Extractor",
    *,
    n: int,
    seed: int | None = None,
    split: str | None = None,
    weights: str | None = None,
    checkpoint_sha256: str | None = None,
    step: int | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    spacing: str | None = None,
    eta: float | None = None,
    variance: str | None = None,
    clip: bool | None = None,
    precision: str | None = None,
    quantised_levels: int | None = None,
    reference: str | None = None,
    n_reference: int | None = None,
    reference_sha256: str | None = None,
    **settings: Plain,
) -> Record:
    """A flat record whose fields have one order; None where one does not apply, as `sampler` to real data.

    `split`: "samples", or the part of the data that was measured in their place. `weights`: "ema/0.9999" or "raw". `reference`:
    the part of the data, or the file, that `reference_sha256` is the hash of. `settings`: those of one metric, as kid_subsets.
    What the extractor says of itself follows as extractor_…, and versions as version_….
    """
    own: Record = {
        "n": n, "split": split, "seed": seed, "weights": weights, "checkpoint_sha256": checkpoint_sha256, "step": step,
        "sampler": sampler, "steps": steps, "spacing": spacing, "eta": eta, "variance": variance, "clip": clip,
        "precision": precision, "quantised_levels": quantised_levels, "reference": reference, "n_reference": n_reference,
        "reference_sha256": reference_sha256, "extractor": extractor.name,
    }  # fmt: skip
    about = {f"extractor_{name}": value for name, value in extractor.record.items()}
    return own | about | settings | {_version(name): importlib.metadata.version(name) for name in PACKAGES}


class Difference(NamedTuple):
    """A field in which two records differ; one that is missing counts as None."""

    field: str
    a: Plain
    b: Plain

    def __str__(self) -> str:
        return f"{self.field}: {_shown(self.field, self.a)} against {_shown(self.field, self.b)}"


def differences(a: Record, b: Record) -> list[Difference]:
    """Every field in which they differ, in the order of a."""
    return [Difference(field, a.get(field), b.get(field)) for field in {**a, **b} if a.get(field) != b.get(field)]


def incomparable(a: Record, b: Record) -> list[Difference]:
    """The differences for which the two numbers may not be held against each other; empty where they may."""
    return [found for found in differences(a, b) if found.field not in MAY_DIFFER and not found.field.startswith(_version(""))]


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
    record: dict[str, Any]
    """n, seed, split, weights, sampler, … whatever the number depends on."""

    @property
    def known(self) -> float | None:
        """The value as files have it, which know no NaN."""
        return self.value if math.isfinite(self.value) else None
