"""The RBM against sums over all states, and chains against what moves them."""

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.data.digits import Digits
from ddpm_lab.metrics.record import incomparable
from ddpm_lab.models.contract import Model
from ddpm_lab.models.dbm import DBM
from ddpm_lab.models.rbm import RBM

from .support import F64, gradients, grey, pieces, shares, spread, states, whole

V, H = 4, 3
SMALL = {"shape": (V,), "levels": 2, "seed": 3, "config": {}}


def made(std: float = 1.0, **settings) -> RBM:
    model = RBM(**{"hidden": H, "sweeps": 40, **settings}, **SMALL).double()
    spread(model, std)
    return model


def exact(model: RBM) -> np.ndarray:
    """p(v) of every v, by all (v, h)."""
    W, a, b = (p.detach().numpy() for p in (model.net.weights, model.net.visible_bias, model.net.hidden_bias))
    v, h = states(V).numpy(), states(H).numpy()
    table = np.exp(v @ W @ h.T + (v @ a)[:, None] + h @ b)
    return table.sum(1) / table.sum()


def test_bits_per_dimension_are_those_of_all_states():
    model = made()
    meter = model.bound_meter()
    meter.add(2 * states(V) - 1, 0)
    np.testing.assert_allclose(meter.arrays()["per_datum_bpd"], -np.log2(exact(model)) / V, rtol=1e-12)
    assert meter.record()["likelihood"] == "exact"
    assert sum(part.value for part in meter.parts()) == pytest.approx(meter.result().total_bpd)


def test_grey_levels_are_thresholded_for_the_likelihood_and_taken_as_probabilities_in_training():
    model, x0 = made(persistent=False), grey(5, V)
    meters = model.bound_meter(), model.bound_meter()
    for meter, data in zip(meters, (x0, x0.sign()), strict=True):
        meter.add(data, 0)
    assert meters[0].result() == meters[1].result()
    assert model.bound_record()["levels"] == 2
    assert not torch.equal(model.losses(whole(x0, 0)).per_example, model.losses(whole(x0.sign(), 0)).per_example)


def test_the_gradient_is_the_update_of_persistent_chains():
    """⟨v h⟩ of the chains minus ⟨v h⟩ of the data, with the means of h (Tieleman 2008), for the mean of the loss."""
    model, x0 = made(), grey(6, V)
    found = gradients(model, V * model.losses(whole(x0, 0)).per_example.mean())
    with torch.no_grad():
        W, b = model.net.weights, model.net.hidden_bias
        v0, vk = (x0 + 1) / 2, model.training_state()["chains"]
        h0, hk = ((v @ W + b).sigmoid() for v in (v0, vk))
        expected = {"weights": vk.T @ hk - v0.T @ h0, "visible_bias": (vk - v0).sum(0), "hidden_bias": (hk - h0).sum(0)}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name] / 6)


@pytest.mark.parametrize("persistent", [True, False])
def test_pieces_of_a_batch_have_the_losses_of_the_whole(persistent):
    """Over three batches, in one model and in two processes; chains go on from batch to batch. Rows are many, as chains that
    are moved by the same numbers meet."""
    one, *two = (made(persistent=persistent, gibbs=1) for _ in range(3))
    last = None
    for counter in range(3):
        x0 = grey(60, V, seed=counter)
        expected = one.losses(whole(x0, counter)).per_example
        parts = pieces(x0, counter, 20)
        torch.testing.assert_close(torch.cat([two[0].losses(part).per_example for part in parts]), expected)
        apart = [model.losses(part).per_example for model, part in zip((two[0], two[1]), parts, strict=True)]
        torch.testing.assert_close(torch.cat(apart), expected)
        state = one.training_state()
        if persistent:
            assert last is None or not torch.equal(state["chains"], last)
            last = state["chains"]
    assert persistent or not state


def test_chains_go_on_from_a_checkpoint():
    model, other, fresh = (made(gibbs=1) for _ in range(3))
    x0 = grey(80, V)
    model.losses(whole(x0, 0))
    other.load_training_state({name: value.clone() for name, value in model.training_state().items()})
    a, b = (one.losses(whole(x0, 1)).per_example for one in (model, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, fresh.losses(whole(x0, 1)).per_example)  # of which the chains begin there


@pytest.mark.parametrize("chains", [torch.zeros(3, V + 1), torch.full((3, V), 0.5), torch.zeros(V)])
def test_what_are_no_chains_is_refused(chains):
    with pytest.raises(ValueError, match=rf"chains.*{V}"):
        made().load_training_state({"chains": chains})


def test_samples_have_the_probabilities_of_the_model():
    model, n = made(0.7), 20_000
    p = exact(model)
    found = shares(model.sample(n, seed=5, batch=n), V)
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / n)).all()
    assert (p > 0.02).sum() > 5


def test_samples_are_addressed_by_index_and_shown_on_the_way():
    model = made(sweeps=45)
    frames = list(model.sample_states(3, 5, seed=1))
    assert torch.equal(model.sample(5, seed=1)[3:], frames[-1].x)
    assert (len(frames), frames[-1].label) == (model.sample_steps, "sweep 45")
    assert {-1.0, 1.0} == set(frames[-1].x.flatten().tolist())
    assert frames[-1].x0.abs().max() < 1
    again = RBM(hidden=H, sweeps=1, **{**SMALL, "levels": 17}).double()  # of grey data, probabilities
    assert again.sample(5).abs().max() < 1


def test_reconstructions_are_measured_in_cross_entropy():
    model, v = made(), states(V)
    with torch.no_grad():
        h = (v @ model.net.weights + model.net.hidden_bias).sigmoid()
        p = (h @ model.net.weights.T + model.net.visible_bias).sigmoid()
        bits = model.readings()["reconstruction_cross_entropy"].of(2 * v - 1, torch.arange(len(v)))
    torch.testing.assert_close(bits, -torch.where(v == 1, p, 1 - p).log2().mean(1))
    images = model.pictures(2 * v - 1)
    torch.testing.assert_close((images["reconstructions"].columns[1] + 1) / 2, p)


def test_filters_are_columns_of_eight():
    model = RBM(hidden=20, shape=(1, 2, 3), levels=2, seed=0, config={})
    filters = model.pictures(grey(2, 6).view(2, 1, 2, 3).float())["filters"]
    assert [tuple(column.shape) for column in filters.columns] == [(8, 1, 2, 3)] * 3
    w = model.net.weights.detach()[:, 9]
    torch.testing.assert_close(filters.columns[1][1].flatten(), w / w.abs().max())


@pytest.mark.parametrize("kind", [RBM, DBM])
def test_data_without_grey_levels_are_refused(kind: type[Model]):
    with pytest.raises(ValueError, match="binary units"):
        kind(**{**SMALL, "levels": None})


@pytest.fixture(scope="module")
def digits() -> tuple[RBM, torch.Tensor]:
    """Of 16 hidden units, after 300 steps on binarised digits, and held-out data."""
    data = Digits(levels=2)
    data.setup()
    train = data.scaled("train", 1437)
    model = RBM(hidden=16, temperatures=300, shape=(1, 8, 8), levels=2, seed=0, config={})
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for step in range(300):
        rows = (rng.uniform(0, "order", step, 0, 128) * len(train)).long()
        model.zero_grad()
        model.losses(whole(train[rows], step)).per_example.mean().backward()
        optimiser.step()
    return model, data.scaled("val", 360)


def test_an_estimate_of_log_z_agrees_with_the_exact_one(digits):
    model, val = digits
    exact_meter = model.bound_meter()
    exact_meter.add(val, 0)
    with patch("ddpm_lab.models.gibbs.ENUMERABLE", 15):
        meter = model.bound_meter(seed=1)
        meter.add(val, 0)
        estimate, record = meter.result(), meter.record()
    shared = meter.shared
    assert shared is not None
    assert abs(estimate.total_bpd - exact_meter.result().total_bpd) < 3 * shared.se
    assert 0 < shared.se * 64 * math.log(2) < 0.15
    assert estimate.total_se > exact_meter.result().total_se
    assert record["likelihood"] == "annealed importance sampling"
    assert "100 chains" in shared.label


def test_an_estimate_below_a_lower_bound_is_no_number():
    """Of a machine whose one state with nearly all of Z is far from where chains begin; with more temperatures they find it."""
    found = []
    for temperatures in (2, 1000):
        model = RBM(hidden=24, temperatures=temperatures, **{**SMALL, "shape": (24,)}).double()
        for p, value in ((model.net.weights, 4.0), (model.net.visible_bias, -1.0), (model.net.hidden_bias, -88.0)):
            p.data.fill_(value)
        meter = model.bound_meter()
        meter.add(2 * states(4).repeat(1, 6) - 1, 0)
        found.append((meter.result().total_bpd, {part.key: part.value for part in meter.parts()}, meter.record(), meter))
    (refuted, parts, record, meter), (total, _, untroubled, _) = found
    assert math.isnan(refuted)
    assert math.isnan(parts["log_z_bpd"])
    assert math.isfinite(parts["free_energy_bpd"])
    assert math.isfinite(total)
    assert set(record) - set(untroubled) == {"refuted"}
    assert "lower bound" in record["refuted"]
    assert f"{168 / 24 / math.log(2):.4f}" in meter.shared.label  # −F of all units on, 24 · 8 − 24


def test_records_name_probabilities_where_samples_are_no_states():
    states, means = (RBM(hidden=H, sweeps=3, **{**SMALL, "levels": levels}).sample_record() for levels in (2, 17))
    assert states == {"sampler": "gibbs", "steps": 3}
    assert means == {"samples": "probabilities", **states}
    assert [difference.field for difference in incomparable(states, means)] == ["samples"]


def test_training_makes_data_likelier_than_independent_pixels_do(digits):
    """Of which each has the share that it has in the data."""
    model, val = digits
    meter = model.bound_meter()
    meter.add(val, 0)
    p = model.states(val).double().mean(0).clamp(1e-6, 1 - 1e-6)
    independent = float(-(p * p.log2() + (1 - p) * (1 - p).log2()).mean())
    assert meter.result().total_bpd < independent - 0.05
    assert meter.result().total_bpd > 0.3


def test_dtype_follows_the_weights():
    assert made().losses(whole(grey(2, V).float(), 0)).per_example.dtype == F64
