"""What each datum cost is kept beside every bound, and adds up to it."""

import numpy as np
import pytest
from helpers import arrays
from omegaconf import OmegaConf

import ddpm_lab
from ddpm_lab.config.build import instantiate

from .support import Evaluation, evaluate

KEYS = {"per_datum_bpd", "per_datum_prior_bpd", "index", "stride", "shared_se", "data_sha256", "split", "seed"}


def per_datum(told: Evaluation, key: str, arm: int = 0) -> dict[str, np.ndarray]:
    return arrays(told.folder / told.arms[arm]["per_datum"][key])


def total(found: dict[str, np.ndarray]) -> float:
    """The means of the strata add up to the terms, each measured in one stratum; L_T is a mean over all."""
    stratum = found["index"] % found["stride"]
    means = [found["per_datum_bpd"][stratum == offset].mean() for offset in range(found["stride"])]
    return sum(means) + found["per_datum_prior_bpd"].mean()


def test_of_the_full_bound_they_are_those_of_the_run_in_python(run):
    told = evaluate(run, "sampler.steps=5", "nll.n=12")
    loaded = ddpm_lab.load(run)
    data = instantiate(OmegaConf.create(loaded.config), "data")
    data.setup()
    found = per_datum(told, "bound")
    assert found.keys() == KEYS
    expected = loaded.bound(data.val_images[:12]).per_datum_bpd.numpy()
    np.testing.assert_allclose(found["per_datum_bpd"] + found["per_datum_prior_bpd"], expected, rtol=1e-6)
    assert found["index"].tolist() == list(range(12))
    assert (found["stride"], found["split"], found["seed"]) == (1, "val", 0)
    assert found["data_sha256"] == data.fingerprint() == told.record("bound")["data_sha256"]


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        (["nll.stride=3"], ["bound", "bound_5"]),
        (["nll.terms=2"], ["bound_estimate", "bound_5_estimate"]),
        (["nll.ode_n=6", "nll.chain=sampler"], ["bound_5", "flow_bpd"]),
    ],
)
def test_they_add_up_to_every_bound_however_it_was_measured(run, asked, keys):
    told = evaluate(run, "sampler.steps=5", "quality.n=0", "nll.train_stride=0", *asked)
    assert sorted(told.arms[0]["per_datum"]) == sorted(keys)
    for key in keys:
        found, result = per_datum(told, key), told.results()[key]
        assert found.keys() == KEYS | ({"terms"} if "terms" in result["record"] else set())
        assert total(found) == pytest.approx(result["value"], rel=1e-9)
        assert len(found["index"]) == result["record"]["n"]
        assert found["stride"] == (result["record"].get("stride") or 1)


def test_each_choice_of_a_sweep_has_its_own_and_old_ones_go(run):
    evaluate(run, "-m", "sampler.steps=4,5,6", "quality.n=0")
    told = evaluate(run, "-m", "sampler.steps=4,5", "nll.clip=true,false", "quality.n=0", "nll.train_stride=0")
    names = [name for arm in told.arms for name in arm["per_datum"].values()]
    assert len(told.arms) == 4
    assert sorted(path.name for path in told.folder.glob("per_datum_*.npz")) == sorted(names)
    assert len(set(names)) == 8
    for number, arm in enumerate(told.arms):
        for key in arm["per_datum"]:
            assert total(per_datum(told, key, number)) == pytest.approx(told.value(key, number), rel=1e-9)
