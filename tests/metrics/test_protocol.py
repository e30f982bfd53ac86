"""A record says how a number was measured, and of two numbers whether they may stand side by side."""

import json

import pytest

from ddpm_lab.metrics.extractors import Pixels
from ddpm_lab.metrics.record import FIELDS, Difference, differences, incomparable, line, record

COMPARED = {
    "seed": 1,
    "weights": "ema/0.9999",
    "checkpoint_sha256": "ab" * 32,
    "step": 5000,
    "sampler": "DDIM",
    "steps": 50,
    "spacing": "trailing",
    "eta": 0.0,
    "variance": "Beta",
    "clip": True,
    "precision": "float32",
}
"""Fields of the trained model and of how it is sampled: numbers that differ in them may be compared."""
MEASURED = {
    "n": 1000,
    "split": "samples",
    "levels": 256,
    "reference": "train",
    "n_reference": 50_000,
    "reference_sha256": "cd" * 32,
}
"""Fields of the measurement: numbers that differ in them may not."""
VALUES: dict = COMPARED | MEASURED


class Deep(Pixels):
    name = "deep"

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.record = {"layer": "2048", "weights_sha256": weights}


def test_a_record_is_flat_json_with_every_field_in_its_order():
    fields = record(Deep("ef" * 32), **VALUES, kid_subsets=100)
    assert json.loads(json.dumps(fields)) == fields
    names = ["extractor", "extractor_layer", "extractor_weights_sha256", "kid_subsets"]
    assert list(fields) == [*FIELDS, *names, "version_ddpm_lab", "version_torch", "version_torch_fidelity"]
    assert {field: fields[field] for field in VALUES} == VALUES
    assert set(FIELDS) <= set(record(n=3, split="val"))


def test_differences_name_the_field_and_both_sides():
    a, b = record(Pixels(), **VALUES), record(Pixels(), **VALUES | {"n": 10_000, "checkpoint_sha256": None, "clip": False})
    shown = {difference.field: str(difference) for difference in differences(a, b)}
    assert shown.keys() == {"n", "checkpoint_sha256", "clip"}
    assert all(part in shown["n"] for part in ("1000", "10000"))
    assert all(part in shown["checkpoint_sha256"] for part in ("abababab", "none"))
    assert "ababababab" not in shown["checkpoint_sha256"]
    assert differences(a, dict(reversed(a.items()))) == []
    assert differences({"k": 3}, {"splits": 10}) == [Difference("k", 3, None), Difference("splits", None, 10)]


def changed(field):
    value = VALUES[field]
    return VALUES | {field: not value if isinstance(value, bool) else value * 2 + 1 if isinstance(value, float) else value * 2}


@pytest.mark.parametrize("field", COMPARED)
def test_models_and_samplers_may_differ(field):
    a, b = record(Pixels(), **VALUES), record(Pixels(), **changed(field))
    assert [difference.field for difference in differences(a, b)] == [field]
    assert incomparable(a, b) == []


@pytest.mark.parametrize("field", MEASURED)
def test_measurements_may_not_differ(field):
    a, b = record(Pixels(), **VALUES), record(Pixels(), **changed(field))
    assert [difference.field for difference in incomparable(a, b)] == [field]


def test_extractors_settings_and_versions():
    a = record(Deep("ef" * 32), **VALUES, kid_subsets=100)
    other = record(Deep("01" * 32), **VALUES, kid_subsets=10)
    assert [difference.field for difference in incomparable(a, other)] == ["extractor_weights_sha256", "kid_subsets"]
    older = a | {"version_torch": "1.0"}
    assert [difference.field for difference in differences(a, older)] == ["version_torch"]
    assert incomparable(a, older) == []


def test_one_line_names_what_applies():
    text = line(record(Deep("ef" * 32), **VALUES | {"eta": None}, kid_subsets=100))
    fields = dict(field.split(" ", 1) for field in text.split(", "))
    assert fields["n"] == "1000"
    assert fields["checkpoint_sha256"] == "abababab"
    assert fields["clip"] == "yes"
    assert fields["extractor_weights_sha256"] == "efefefef"
    assert {*COMPARED, *MEASURED, "kid_subsets"} - fields.keys() == {"eta"}
    assert "\n" not in text


def test_records_of_version_01_are_read_with_the_names_of_now():
    """What that version did not note is no difference; what both note is."""
    older = {"unit": "bits/dim", "split": "validation", "n": 360, "stride": 10, "T": 1000, "seed": 0, "variance": "Beta"}
    fields = {"unit": "bits/dim", "stride": 10, "T": 1000, "seed": 0, "variance": "beta", "levels": 17, "precision": "float32"}
    now = record(n=360, split="val", **fields)
    assert incomparable(older, now) == []
    assert [d.field for d in incomparable(older | {"split": "train", "quantised_levels": 256}, now)] == ["split", "levels"]
    assert [d.field for d in incomparable({"data": "train", "n": 5}, record(n=5, split="val"))] == ["split"]
    assert record(n=1, split="val", quantised_levels=17)["levels"] == 17
