"""The meter of a model that gives each datum a number: what its files say of an error that all data share."""

from types import SimpleNamespace

import pytest
import torch

from ddpm_lab.models.measurement import Conditions, Likelihood, of_any_model
from ddpm_lab.models.meter import PerDatum, Shared


def meter(se: float | None) -> PerDatum:
    """With three data of 1, 2 and 3 bits/dim, and with `se` another 0.5 of log Z."""
    shared = None if se is None else lambda: Shared("log_z", "log Z", 0.5, se)
    made = PerDatum("likelihood", lambda x, index: {"energy": index.double() + 1}, {"energy": "energy"}, shared)
    made.add(torch.zeros(3, 1, 2, 2), 0)
    return made


@pytest.mark.parametrize("se", [None, 0.0, 0.25])
def test_the_error_that_all_data_share_is_in_the_files_of_training_and_evaluation(se):
    model = SimpleNamespace(
        no_likelihood="", given="", readings=lambda seed: {}, bound_meter=lambda *_: meter(se), bound_record=dict
    )
    (measured,) = of_any_model(model, Conditions(Likelihood(), 0, 3, {"val": 3}, {}))
    assert measured.per_datum is not None
    expected = se or 0.0
    assert measured.per_datum(meter(se)).shared_se == meter(se).arrays()["shared_se"] == expected
    assert meter(se).result().total_se ** 2 - (1 / 3) == pytest.approx(expected**2)


def test_a_meter_that_knows_of_no_shared_error_has_none():
    arrays = {"per_datum_bpd": torch.ones(3), "per_datum_prior_bpd": torch.zeros(3), "index": torch.arange(3), "stride": 1}
    model = SimpleNamespace(no_likelihood="", readings=lambda seed: {})
    (measured,) = of_any_model(model, Conditions(Likelihood(), 0, 3, {"val": 3}, {}))
    assert measured.per_datum is not None
    assert measured.per_datum(SimpleNamespace(arrays=lambda: arrays)).shared_se == 0.0
