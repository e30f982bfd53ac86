"""Deep belief nets against sums over all states, written out."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import command, composed, trained

import ddpm_lab
from ddpm_lab.cli.fit import train
from ddpm_lab.core import rng
from ddpm_lab.core.boltzmann import Machine
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.dbn import DBN
from ddpm_lab.training.optim import Adam

from .belief_support import ALL_V, ALL_X, INDEX, OF_DATA, batch, given, gradients, randomised, states


def dbn(*hidden: int, std: float = 1.0, **changes) -> DBN:
    return randomised(DBN(hidden=hidden, **(OF_DATA | changes)), std)


def joint(model: DBN) -> dict[tuple, float]:
    """p(v, h_1) of a net with two hidden layers: p(v | h_1) times the share of h_1 in the upper machine."""
    net, (below,) = model.net, model.net.generative
    W, b, a = (part.detach().numpy() for part in (net.top.weight, net.top.bias, net.top_bias))
    weight = {
        h1: sum(math.exp(a @ h1 + b @ h2 + np.array(h2) @ W @ h1) for h2 in states(net.top.out_features))
        for h1 in states(net.sizes[-1])
    }
    Z = sum(weight.values())
    return {(v, h1): given(below, v, h1) * weight[h1] / Z for v in states(3) for h1 in weight}


def log_p(model: DBN) -> torch.Tensor:
    table = joint(model)
    return torch.tensor([math.log(sum(p for (v, _), p in table.items() if v == one)) for one in states(3)], dtype=torch.float64)


def measured(model: DBN) -> torch.Tensor:
    """Nats of each state of v by the model's meter."""
    meter = model.bound_meter()
    meter.add(ALL_X, 0)
    return meter.arrays()["per_datum_bpd"] * 3 * math.log(2)


def test_the_bound_exceeds_the_likelihood_by_the_divergence_of_q():
    """By enumeration of q; the error is that of the mean of draws."""
    model = dbn(2, 3, draws=800)
    table, (q1,) = joint(model), model.net.recognition
    expected = torch.zeros(8, dtype=torch.float64)
    for (v, h1), p in table.items():
        q = given(q1, h1, v)
        expected[states(3).index(v)] += q * (math.log(q) - math.log(p))
    assert (expected > -log_p(model) + 0.001).all()
    error = sum(model.nats(ALL_V, INDEX, 0)).std(0).detach() / math.sqrt(800)
    assert ((measured(model) - expected).abs() < 4 * error).all()
    assert "likelihood" not in model.bound_meter().record()


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_a_layer_of_transposed_weights_leaves_the_machine_as_it_was(std):
    """Hinton et al. 2006, section 4: the distribution is that of the lower machine, and its p(h | v) is the posterior, so that
    the bound is the likelihood, of every draw."""
    model = dbn(2, 3, std=std)
    net, (p,), (q,) = model.net, model.net.generative, model.net.recognition
    with torch.no_grad():
        q.weight.copy_(p.weight.T)
        net.top.weight.copy_(p.weight)  # of 3 × 2, as visible units are the 2 of h_1
        net.top.bias.copy_(p.bias)
        net.top_bias.copy_(q.bias)
    lower = Machine(p.weight, p.bias, q.bias)
    nats = (lower.free_energy(ALL_V) + lower.log_z()).detach()
    torch.testing.assert_close(-log_p(model), nats, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(measured(model), nats, rtol=1e-9, atol=1e-9)
    assert sum(model.nats(ALL_V, INDEX, 0)).std(0).max() < 1e-12


def test_log_z_is_annealed_where_it_cannot_be_enumerated():
    model = dbn(21, 22, std=0.3, temperatures=200)
    shared = model.bound_meter().shared
    machine = model.net.upper
    half = Machine(machine.weights[:20], machine.visible_bias[:20], machine.hidden_bias)
    assert shared is not None
    assert shared.se > 0
    with torch.no_grad():  # the last unit is summed over by hand
        on = Machine(half.weights, half.visible_bias, half.hidden_bias + machine.weights[20])
        exact = torch.logaddexp(half.log_z(), on.log_z() + machine.visible_bias[20])
    assert abs(shared.bpd - float(exact) / 3 / math.log(2)) < 4 * shared.se
    exact, estimated = dbn(20, 22).bound_meter(), model.bound_meter()
    assert exact.shared.se == 0
    assert "log_z" not in exact.record()
    assert estimated.record()["log_z"] == "annealed importance sampling"
    assert estimated.label.startswith(exact.label)
    assert "estimate of log Z" in estimated.label


def test_samples_have_the_distribution_of_the_net():
    model, n = dbn(2, 3, sweeps=15), 20_000
    samples, p = model.sample(n, seed=3), log_p(model).exp()
    found = torch.stack([(samples.flatten(1) == x.flatten()).all(1).double().mean() for x in ALL_X])
    assert ((found - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 2e-3).all()
    assert torch.equal(model.sample(70, seed=3, batch=9), samples[:70])


@pytest.mark.parametrize("sweeps", [1, 7, 20, 30, 1001])
def test_states_on_the_way_end_with_the_last_sweep(sweeps):
    model = dbn(2, 3, sweeps=sweeps)
    labels = [state.label for state in model.sample_states(0, 2)]
    assert len(labels) == model.sample_steps == min(sweeps, 20)
    assert labels[-1] == f"sweep {sweeps}"


def test_every_sweep_has_draws_of_its_own():
    """With the same ones at every sweep a chain would soon stand still."""
    *_, before, last = dbn(2, 3, sweeps=20, std=0.5).sample_states(0, 500)
    assert (before.x0 != last.x0).flatten(1).any(1).double().mean() > 0.3


PHASES = {
    0: {"generative.0.weight", "generative.0.bias", "recognition.0.weight", "recognition.0.bias"},
    1: {"generative.1.weight", "generative.1.bias", "recognition.1.weight", "recognition.1.bias"},
    2: {"top.weight", "top.bias", "top_bias"},
}


@pytest.mark.parametrize("fine_tune", [True, False])
def test_a_phase_trains_its_own_weights_and_no_others(fine_tune):
    """To the bit, by Adam, whose momentum would move weights with a gradient of 0."""
    model = DBN(hidden=(4, 3, 2), steps_per_layer=3, fine_tune=fine_tune, **OF_DATA)
    named = dict(model.net.named_parameters())
    optimizer = Adam(lr=0.1, warmup=0).configure(model.net)["optimizer"]
    for counter in range(14):
        before = {name: value.detach().clone() for name, value in named.items()}
        optimizer.zero_grad()
        model.losses(batch(64, counter)).per_example.mean().backward()
        optimizer.step()
        changed = {name for name, value in named.items() if not torch.equal(value, before[name])}
        phase = counter // 3
        assert changed == (PHASES.get(phase) or (set(named) if fine_tune else PHASES[2]))
        pairs = zip(model.net.generative, model.net.recognition, strict=True)
        apart = max(float((p.weight - q.weight.T).detach().abs().max()) for p, q in pairs)
        assert apart < 1e-6 if phase < 3 or not fine_tune else apart > 1e-3


def test_the_machine_of_a_layer_learns_from_what_the_layers_below_infer():
    """Hinton's update of CD-2, v_0 σ(h_0)ᵀ − v_k σ(h_k)ᵀ, half of which each kind of weights has."""
    model, B, rows = dbn(2, 3, 2, steps_per_layer=3, gibbs=2), batch(counter=3), (3, 0, 5)
    net, (p, q) = model.net, (model.net.generative[1], model.net.recognition[1])
    found = gradients(model.losses(B).per_example, net)
    h = net.infer((B.x0.flatten(1) + 1) / 2, rng.uniform(0, "wake", *rows, (5,)))[1]
    W, last = ((p.weight + q.weight.T) / 2).detach(), h
    for u in rng.uniform(0, "gibbs", *rows, (2, 5)).unbind(1):
        above = (u[:, :3] < (last @ W + q.bias).sigmoid()).double()
        last = (u[:, 3:] < (above @ W.T + p.bias).sigmoid()).double()
    data, end = ((v @ W + q.bias).sigmoid().detach() for v in (h, last))
    update = (last.T @ end - h.T @ data) / 3
    torch.testing.assert_close(found["generative.1.weight"], update / 2)
    torch.testing.assert_close(found["recognition.1.weight"], update.T / 2)
    torch.testing.assert_close(found["generative.1.bias"], (last - h).sum(0) / 3)
    torch.testing.assert_close(found["recognition.1.bias"], (end - data).sum(0) / 3)
    assert set(found) == PHASES[1]


def test_wake_sleep_and_the_upper_machine_train_different_weights():
    """Delta rules at the draws: inferred ones for p, and dreams from where the chain ends for q."""
    model, B, rows = dbn(2, 3, steps_per_layer=1), batch(counter=7), (7, 0, 5)
    net, (p,), (q,) = model.net, model.net.generative, model.net.recognition
    parts = model.losses(B).parts
    v, h = net.infer((B.x0.flatten(1) + 1) / 2, rng.uniform(0, "wake", *rows, (2,)))
    dreamt, end = net.generate(
        net.upper.sweep(h, rng.uniform(0, "gibbs", *rows, (1, 5))[:, 0]), rng.uniform(0, "sleep", *rows, (3,))
    )
    wake, sleep, top = (gradients(parts[name], net) for name in ("wake", "sleep", "contrastive"))
    torch.testing.assert_close(wake.pop("generative.0.weight"), ((p(h).sigmoid() - v).T @ h).detach() / 3)
    torch.testing.assert_close(sleep.pop("recognition.0.weight"), ((q(dreamt).sigmoid() - end).T @ dreamt).detach() / 3)
    assert (set(wake), set(sleep), set(top)) == ({"generative.0.bias"}, {"recognition.0.bias"}, PHASES[2])


def test_what_is_no_deep_belief_net_is_refused():
    for wrong in ({"hidden": [5]}, {"hidden": []}, {"steps_per_layer": 0}, {"chains": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            DBN(**wrong, **OF_DATA)


RUN = [
    "experiment=smoke", "model=dbn", "model.hidden=[12,21]", "model.steps_per_layer=3", "model.sweeps=5", "data.levels=2",
    "trainer.max_steps=9", "trainer.validate_every=9", "data.val_fraction=0.05", "callbacks.frechet.n=8",
]  # fmt: skip


def weights(run) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    average = next(value for key, value in checkpoint.items() if key.startswith("ema/"))
    return checkpoint["state_dict"] | {f"average {name}": value for name, value in average.items()}


def test_it_resumes_to_the_bit_over_all_phases(tmp_path):
    """Stopped before the upper machine has been trained, and so without a state of the optimiser for its weights."""
    whole = trained(tmp_path / "whole", *RUN, "callbacks.checkpoints.keep_every=2")
    start = whole / "checkpoints" / "step_0000002.ckpt"
    assert train(composed(*RUN, f"resume={start}"), tmp_path / "9", start, None, 0.0) == 0
    found = weights(tmp_path / "9")
    assert all(torch.equal(value, found[name]) for name, value in weights(whole).items())
    numbers = json.loads((whole / "summary.json").read_text())["metrics"]
    assert numbers["bound_bpd"]["value"] == pytest.approx(
        sum(numbers[f"{key}_bpd"]["value"] for key in ("reconstruction", "hidden", "log_z"))
    )
    assert {path.name.partition("_")[0] for path in (whole / "samples").iterdir()} >= {
        "reconstructions",
        "filters",
        "progression",
    }
    assert ddpm_lab.load(whole).sample(3).unique().tolist() == [-1, 1]


@pytest.mark.soak
def test_two_processes_train_what_one_does(tmp_path):
    """In each phase weights have no gradient, which both know."""
    words = [*RUN, "trainer.precision=64-true", "run.name=two", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    one = weights(trained(tmp_path / "one", *RUN, "trainer.precision=64-true"))
    two = weights(tmp_path / "outputs" / "smoke" / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-9)
