"""The deep Boltzmann machine against sums over all states."""

import numpy as np
import pytest
import torch

from ddpm_lab.models.dbm import DBM

from .support import gradients, grey, pieces, shares, spread, states, whole

V, H1, H2 = 4, 3, 2


def made(std: float = 1.0, **settings) -> DBM:
    settings = {"hidden": (H1, H2), "pretrain": 0, "sweeps": 60, "shape": (V,), "levels": 2, "seed": 3, "config": {}} | settings
    model = DBM(**settings).double()
    spread(model, std)
    return model


def exact(model: DBM) -> np.ndarray:
    """p(v, h_1, h_2) of all states, by the energy of Salakhutdinov and Hinton 2009, Eq. 5, with biases."""
    net = model.net
    W1, W2, a, b1, b2 = (p.detach() for p in (net.first, net.second, net.visible_bias, net.first_bias, net.second_bias))
    v, h1, h2 = (states(n) for n in (V, H1, H2))
    table = (v @ a + 0.0)[:, None, None] + (h1 @ b1)[:, None] + h2 @ b2
    table = table + (v @ W1 @ h1.T)[:, :, None] + h1 @ W2 @ h2.T
    return (table.exp() / table.exp().sum()).numpy()


def bits(model: DBM) -> np.ndarray:
    """The bound of every state of v, in bits/dim."""
    meter = model.bound_meter()
    meter.add(2 * states(V) - 1, 0)
    return meter.arrays()["per_datum_bpd"].numpy()


def test_the_bound_lies_above_and_more_updates_tighten_it():
    exact_bits = -np.log2(exact(made(mean_field=1)).sum((1, 2))) / V
    gaps = [bits(made(mean_field=n)) - exact_bits for n in (1, 2, 50)]
    assert (gaps[2] > 1e-6).all()
    assert (gaps[0] >= gaps[1]).all()
    assert (gaps[1] >= gaps[2]).all()
    assert gaps[0].max() > gaps[2].max() + 1e-4
    assert "log_z" not in made().bound_meter().record()


def test_where_the_posterior_is_independent_the_bound_is_the_likelihood():
    model = made()
    model.net.second.data.zero_()
    np.testing.assert_allclose(bits(model), -np.log2(exact(model).sum((1, 2))) / V, rtol=1e-10)


def test_the_bound_is_its_gap_to_the_posterior():
    """−log p(v) + KL(q(h | v) ‖ p(h | v)), by all states of h."""
    model = made(mean_field=2)
    p, (first, second) = exact(model), (one.detach().sigmoid().numpy() for one in model.posterior(states(V)))
    h1, h2 = states(H1).numpy(), states(H2).numpy()
    q1, q2 = (np.where(h == 1, q[:, None], 1 - q[:, None]).prod(2) for h, q in ((h1, first), (h2, second)))
    q = q1[:, :, None] * q2[:, None]
    marginal = p.sum((1, 2))
    kl = (q * np.log2(q / (p / marginal[:, None, None]))).sum((1, 2))
    np.testing.assert_allclose(bits(model), (-np.log2(marginal) + kl) / V, rtol=1e-10)


def test_pretrained_machines_have_two_copies_of_a_layer():
    """Salakhutdinov and Hinton 2009, Eqs. 10 to 13: each copy has the conditional of one."""
    model, v, h1, h2 = made(), states(V), states(H1), states(H2)
    net = model.net
    lower, upper = net.lower, net.upper
    torch.testing.assert_close(lower.hidden_logits(torch.cat([v, v], 1)), 2 * v @ net.first + net.first_bias)
    torch.testing.assert_close(lower.visible_logits(h1), (h1 @ net.first.T + net.visible_bias).repeat(1, 2))
    torch.testing.assert_close(upper.hidden_logits(h1), (h1 @ net.second + net.second_bias).repeat(1, 2))
    torch.testing.assert_close(upper.visible_logits(torch.cat([h2, h2], 1)), 2 * h2 @ net.second.T + net.first_bias)


def test_the_gradient_is_that_of_the_posterior_and_of_the_chains():
    model, x0 = made(), grey(6, V)
    found = gradients(model, V * model.losses(whole(x0, 0)).per_example.mean())
    net = model.net
    with torch.no_grad():
        v = (x0 + 1) / 2
        m1, m2 = (one.sigmoid() for one in model.posterior(v))
        h = model.training_state()["chains"]
        u, h2 = (h @ net.first.T + net.visible_bias).sigmoid(), (h @ net.second + net.second_bias).sigmoid()
        expected = {
            "first": u.T @ h - v.T @ m1,
            "second": h.T @ h2 - m1.T @ m2,
            "visible_bias": (u - v).sum(0),
            "first_bias": (h - m1).sum(0),
            "second_bias": (h2 - m2).sum(0),
        }
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name] / 6)


def test_a_phase_moves_its_own_parameters_alone():
    model = made(0.1, pretrain=2)
    optimiser, names = torch.optim.Adam(model.parameters(), lr=0.01), [name for name, _ in model.net.named_parameters()]
    moved = []
    for counter in range(6):
        before = {name: p.detach().clone() for name, p in model.net.named_parameters()}
        gradients(model, model.losses(whole(grey(8, V, seed=counter), counter)).per_example.mean())
        optimiser.step()
        moved.append({name for name in names if not torch.equal(before[name], model.net.get_parameter(name))})
    lower, upper = {"first", "visible_bias", "first_bias"}, {"second", "second_bias"}
    assert moved == [lower] * 2 + [upper] * 2 + [set(names)] * 2
    assert len(model.training_state()["chains"]) == 8


@pytest.mark.parametrize("counter", [0, 1, 2, 3])
def test_pieces_of_a_batch_have_the_losses_of_the_whole(counter):
    one, other, x0 = made(pretrain=1, gibbs=1), made(pretrain=1, gibbs=1), grey(60, V)
    expected = one.losses(whole(x0, counter)).per_example
    torch.testing.assert_close(torch.cat([other.losses(part).per_example for part in pieces(x0, counter, 20)]), expected)


def test_samples_have_the_probabilities_of_the_model():
    model, n = made(0.7), 20_000
    p, found = exact(model).sum((1, 2)), shares(model.sample(n, seed=5, batch=n), V)
    assert (np.abs(found - p) < 4.5 * np.sqrt(p * (1 - p) / n)).all()
    assert (p > 0.02).sum() > 5


def test_reconstructions_and_filters_go_down_to_the_data():
    model, v = made(), states(V)
    with torch.no_grad():
        m1 = model.posterior(v)[0].sigmoid()
        p = (m1 @ model.net.first.T + model.net.visible_bias).sigmoid()
        bits = model.readings()["reconstruction_cross_entropy"].of(2 * v - 1, torch.arange(len(v)))
    torch.testing.assert_close(bits, -torch.where(v == 1, p, 1 - p).log2().mean(1))
    filters = model.pictures(2 * v - 1)["filters"]
    w = (model.net.first @ model.net.second).detach()[:, 1]
    assert list(filters.labels) == ["h_1", "h_2"]
    torch.testing.assert_close(filters.columns[1][1], w / w.abs().max())


@pytest.mark.parametrize("hidden", [(3,), (3, 2, 2), (3, 0)])
def test_other_than_two_hidden_layers_are_refused(hidden):
    with pytest.raises(ValueError, match="hidden"):
        made(hidden=hidden)
