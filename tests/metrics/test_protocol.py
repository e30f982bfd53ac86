"""A record says how a number was measured, and of two numbers whether they may stand side by side."""

import json

import pytest

from ddpm_lab.metrics.extractors import Pixels
from ddpm_lab.metrics.record import FIELDS, MAY_DIFFER, Difference, differences, incomparable, line, record

SAID = {
    "n": 1000, "split": "samples", "seed": 1, "weights": "ema/0.9999", "checkpoint_sha256": "ab" * 32, "step": 5000,
    "sampler": "DDIM", "steps": 50, "spacing": "trailing", "eta": 0.0, "variance": "Beta", "clip": True, "precision": "float32",
    "levels": 256, "reference": "train", "n_reference": 50_000, "reference_sha256": "cd" * 32,
}  # fmt: skip


class Deep(Pixels):
    name = "deep"

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.record = {"layer": "2048", "weights_sha256": weights}


def test_a_record_is_flat_json_with_every_field_in_its_order():
    found = record(Deep("ef" * 32), **SAID, kid_subsets=100)
    assert json.loads(json.dumps(found)) == found
    names = ["extractor", "extractor_layer", "extractor_weights_sha256", "kid_subsets"]
    assert list(found) == [*FIELDS, *names, "version_ddpm_lab", "version_torch", "version_torch_fidelity"]
    assert {field: found[field] for field in SAID} == SAID
    assert set(FIELDS) <= set(record(n=3, split="val"))


def test_differences_name_the_field_and_both_sides():
    a, b = record(Pixels(), **SAID), record(Pixels(), **SAID | {"n": 10_000, "checkpoint_sha256": None, "clip": False})
    assert [str(difference) for difference in differences(a, b)] == [
        "n: 1000 against 10000", "checkpoint_sha256: abababab against none", "clip: yes against no"
    ]  # fmt: skip
    assert differences(a, dict(reversed(a.items()))) == []
    assert differences({"k": 3}, {"splits": 10}) == [Difference("k", 3, None), Difference("splits", None, 10)]


@pytest.mark.parametrize("field", SAID)
def test_what_is_compared_may_differ_and_how_may_not(field):
    changed = SAID | {field: not SAID[field] if field == "clip" else SAID[field] * 2}
    found = incomparable(record(Pixels(), **SAID), record(Pixels(), **changed))
    assert [difference.field for difference in found] == ([] if field in MAY_DIFFER else [field])


def test_extractors_settings_and_versions():
    a = record(Deep("ef" * 32), **SAID, kid_subsets=100)
    other = record(Deep("01" * 32), **SAID, kid_subsets=10)
    assert [difference.field for difference in incomparable(a, other)] == ["extractor_weights_sha256", "kid_subsets"]
    older = a | {"version_torch": "1.0"}
    assert [difference.field for difference in differences(a, older)] == ["version_torch"]
    assert incomparable(a, older) == []


def test_one_line_says_what_applies():
    said = line(record(Deep("ef" * 32), **SAID | {"eta": None}, kid_subsets=100))
    assert said.startswith(
        "n 1000, split samples, seed 1, weights ema/0.9999, checkpoint_sha256 abababab, step 5000, sampler DDIM, steps 50, "
        "spacing trailing, variance Beta, clip yes, levels 256, precision float32, reference train, "
        "n_reference 50000, reference_sha256 cdcdcdcd, extractor deep, extractor_layer 2048, "
        "extractor_weights_sha256 efefefef, kid_subsets 100, version_ddpm_lab "
    )
    assert "\n" not in said


def test_records_of_version_01_are_read_with_the_names_of_now():
    """What that version did not note is no difference; what both note is."""
    older = {"unit": "bits/dim", "split": "validation", "n": 360, "stride": 10, "T": 1000, "seed": 0, "variance": "Beta"}
    fields = {"unit": "bits/dim", "stride": 10, "T": 1000, "seed": 0, "variance": "beta", "levels": 17, "precision": "float32"}
    now = record(n=360, split="val", **fields)
    assert incomparable(older, now) == []
    assert [d.field for d in incomparable(older | {"split": "train", "quantised_levels": 256}, now)] == ["split", "levels"]
    assert [d.field for d in incomparable({"data": "train", "n": 5}, record(n=5, split="val"))] == ["split"]
    assert record(n=1, split="val", quantised_levels=17)["levels"] == 17
