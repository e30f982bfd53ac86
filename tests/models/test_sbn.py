"""Sigmoid belief nets against sums over all states, written out."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import trained

import ddpm_lab
from ddpm_lab.core import rng
from ddpm_lab.core.boltzmann import binary_states
from ddpm_lab.models.sbn import SBN, dream, log_joint

from .belief_support import ALL_V, ALL_X, INDEX, OF_DATA, batch, given, gradients, randomised, states


def sbn(*hidden: int, **changes) -> SBN:
    return randomised(SBN(hidden=hidden, **(OF_DATA | changes)))


def joint(model: SBN) -> dict[tuple, float]:
    """p(v, h_1, h_2) of a net with two hidden layers."""
    (below, above), prior = model.net.generative, model.net.top_bias.sigmoid().tolist()
    _, n1, n2 = model.net.sizes
    return {
        (v, h1, h2): math.prod(p if unit else 1 - p for p, unit in zip(prior, h2, strict=True))
        * given(above, h1, h2)
        * given(below, v, h1)
        for v in states(3)
        for h1 in states(n1)
        for h2 in states(n2)
    }


def log_p(model: SBN) -> torch.Tensor:
    table = joint(model)
    return torch.tensor(
        [math.log(sum(p for (v, *_), p in table.items() if v == one)) for one in states(3)], dtype=torch.float64
    )


def test_the_joint_is_enumerated():
    model, table = sbn(2, 2), joint(sbn(2, 2))
    found = log_joint(model.net, ALL_V).exp().detach()
    for i, v in enumerate(states(3)):
        for j, (a, b, c, d) in enumerate(torch.cat(list(binary_states(4))).tolist()):
            assert float(found[i, j]) == pytest.approx(table[v, (a, b), (c, d)], rel=1e-12)
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)


def test_a_small_net_has_its_exact_likelihood():
    model = sbn(2, 2)
    meter = model.bound_meter()
    meter.add(ALL_X, 0)
    np.testing.assert_allclose(meter.arrays()["per_datum_bpd"], -log_p(model) / (3 * math.log(2)), rtol=1e-9)
    assert meter.record()["likelihood"] == "exact"
    assert "likelihood" not in sbn(8, 7).bound_meter().record()
    assert sbn(8, 6).bound_meter().record()["likelihood"] == "exact"


def posterior_weights(model: SBN) -> None:
    """q(h | v) = p(h | v) for a single hidden unit, whose log odds are affine in v."""
    (p,), (q,) = model.net.generative, model.net.recognition
    on, off = p.bias + p.weight[:, 0], p.bias
    q.weight.data[0] = on - off
    q.bias.data = model.net.top_bias + (torch.nn.functional.softplus(off) - torch.nn.functional.softplus(on)).sum()


def test_the_bound_is_the_likelihood_under_the_true_posterior():
    model = sbn(1)
    posterior_weights(model)
    of_data, of_hidden = (part.detach() for part in model.nats(ALL_V, INDEX, 0))
    exact = -log_joint(model.net, ALL_V).logsumexp(1).detach()
    assert (of_data + of_hidden - exact).abs().max() < 1e-12  # of every draw
    assert of_data.std(0).max() > 0.01


def test_the_bound_exceeds_the_likelihood_by_the_divergence_of_q():
    """KL(q ‖ p(h | v)), by enumeration; the importance-weighted bound lies between. Errors are those of the mean of draws."""
    K = 800
    model = sbn(2, 2, draws=K)
    table, (q1, q2) = joint(model), model.net.recognition
    exact, (expected, squares) = -log_p(model), torch.zeros(2, 8, dtype=torch.float64)
    for (v, h1, h2), p in table.items():
        q = given(q1, h1, v) * given(q2, h2, h1)
        expected[states(3).index(v)] += q * (math.log(q) - math.log(p))
        squares[states(3).index(v)] += p**2 / q
    nats = sum(model.nats(ALL_V, INDEX, 0)).detach()
    assert (expected > exact + 0.01).all()
    assert ((nats.mean(0) - expected).abs() < 4 * nats.std(0) / math.sqrt(K)).all()
    (reading,) = model.readings(0).values()
    weighted = reading.of(ALL_X, INDEX).detach() * 3 * math.log(2)
    assert (weighted < nats.mean(0)).all()
    spread = squares * (2 * exact).exp() - 1  # relative variance of a weight
    assert ((weighted - exact).abs() < 4 * (spread / K).sqrt()).all()
    bits = model.bound(0)(ALL_X, INDEX)
    np.testing.assert_allclose(sum(bits.values()).detach() * 3 * math.log(2), nats.mean(0), rtol=1e-9)


def test_wake_and_sleep_have_the_gradients_of_their_draws():
    """Delta rules: (σ − h) times the parent, of p at inferred causes and of q at dreams."""
    model, B = sbn(2, 2), batch()
    net, parts, rows = model.net, model.losses(B).parts, (B.counter, 0, 5)
    awake = net.infer((B.x0.flatten(1) + 1) / 2, rng.uniform(0, "wake", *rows, (4,)))
    asleep = dream(net, rng.uniform(0, "sleep", *rows, (7,)))
    for name, found, layers in (
        ("generative", gradients(parts["wake"], net), [(awake[1], awake[0]), (awake[2], awake[1])]),
        ("recognition", gradients(parts["sleep"], net), [(asleep[0], asleep[1]), (asleep[1], asleep[2])]),
    ):
        for i, (parents, h) in enumerate(layers):
            layer = getattr(net, name)[i]
            gap = (layer(parents).sigmoid() - h).detach() / 3
            torch.testing.assert_close(found.pop(f"{name}.{i}.weight"), gap.T @ parents)
            torch.testing.assert_close(found.pop(f"{name}.{i}.bias"), gap.sum(0))
        if name == "generative":
            top = (net.top_bias.sigmoid() - awake[2]).detach().sum(0) / 3
            torch.testing.assert_close(found.pop("top_bias"), top)
        assert not found  # nothing else has a gradient


def test_draws_have_their_probabilities():
    model, n = sbn(2, 2), 20_000
    table, (q1, q2) = joint(model), model.net.recognition
    layers = torch.cat(dream(model.net, rng.uniform(0, "sleep", 0, 0, n, (7,))), 1).tolist()
    causes = torch.cat(model.net.infer(ALL_V[5].expand(n, 3), rng.uniform(0, "wake", 0, 0, n, (4,))), 1).tolist()
    for (v, h1, h2), p in table.items():
        share = layers.count([*v, *h1, *h2]) / n
        assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-4
        if v == states(3)[5]:
            q = given(q1, h1, v) * given(q2, h2, h1)
            assert abs(causes.count([*v, *h1, *h2]) / n - q) < 5 * math.sqrt(q * (1 - q) / n) + 1e-4


def test_samples_are_states_of_binary_data_and_probabilities_of_grey_ones():
    model, n = sbn(2, 2), 20_000
    samples, p = model.sample(n, seed=3), log_p(model).exp()
    found = [(samples.flatten(1) == x.flatten()).all(1).double().mean() for x in ALL_X]
    assert ((torch.stack(found) - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-4).all()
    assert torch.equal(model.sample(70, seed=3, batch=9), samples[:70])
    grey = sbn(2, 2, levels=17).sample(n, seed=3)
    assert (grey.abs() < 1).all()
    assert torch.allclose(grey.mean(0), samples.mean(0), atol=0.05)


def test_pieces_of_a_batch_have_the_losses_of_the_whole():
    model = sbn(2, 2)
    whole, piece = model.losses(batch()), model.losses(batch(first=2))
    for name, part in piece.parts.items():
        assert torch.equal(part, whole.parts[name][2:])


def test_explaining_away():
    """A house jumps (v) by an earthquake or by a truck, both rare (Hinton's example). Given that it jumped, an earthquake has
    about ½; that a truck hit it explains the jump, and the earthquake is as rare as before."""
    model = SBN(hidden=(2,), **(OF_DATA | {"shape": (1, 1, 1)}))
    model.net.double()
    (p,) = model.net.generative
    p.weight.data.fill_(20.0)
    p.bias.data.fill_(-20.0)
    model.net.top_bias.data.fill_(-10.0)
    posterior = log_joint(model.net, torch.ones(1, 1, dtype=torch.float64)).softmax(1)[0].detach()
    hidden = torch.cat(list(binary_states(2)))
    earthquake, truck = hidden.T == 1
    assert float(posterior[earthquake].sum()) == pytest.approx(0.5, abs=1e-3)
    given_truck = float(posterior[earthquake & truck].sum() / posterior[truck].sum())
    assert given_truck == pytest.approx(2 * math.exp(-10) / (1 + 2 * math.exp(-10)), rel=1e-6)


def test_data_without_grey_levels_are_refused():
    with pytest.raises(ValueError, match=r"SBN.*grey levels"):
        SBN(**(OF_DATA | {"levels": None}))
    for hidden in ([], [3, 0]):
        with pytest.raises(ValueError, match="hidden="):
            SBN(hidden=hidden, **OF_DATA)


def test_a_run_through_its_yaml(tmp_path):
    """With 14 hidden units, on grey digits: what is reported is the exact likelihood of thresholded data, below its bounds."""
    words = ["experiment=smoke", "model=sbn", "model.hidden=[10,4]", "trainer.max_steps=150", "trainer.validate_every=150"]
    folder = trained(tmp_path / "run", *words, "data.batch_size=128", "optim.lr=0.02", "optim.warmup=0", "ema.decay=0.9")
    metrics = json.loads((folder / "summary.json").read_text())["metrics"]
    exact, weighted, model = metrics["bound_bpd"], metrics["iwae_bpd"], ddpm_lab.load(folder).model
    assert (exact["likelihood"], exact["levels"], weighted["levels"]) == ("exact", 2, 2)
    digits = ddpm_lab.data.digits.Digits()
    digits.setup()
    v = (digits.val_images.flatten(1) >= 8).float()
    assert exact["value"] == pytest.approx(
        -float(log_joint(model.net, v).logsumexp(1).mean().detach()) / 64 / math.log(2), rel=1e-5
    )
    p = (digits.train_images >= 8).float().mean(0).clamp(0.01, 0.99).flatten()
    independent = -float((v * p.log2() + (1 - v) * (1 - p).log2()).mean())
    index = torch.arange(len(v))
    bound = float(sum(model.bound(0)(2 * v - 1, index).values()).mean().detach())
    assert exact["value"] < weighted["value"] < bound
    assert exact["value"] < independent - 0.02  # of pixels by themselves
    assert (folder / "samples" / "reconstructions_0000150.png").stat().st_size > 0
