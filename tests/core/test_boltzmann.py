"""Boltzmann machines against sums over all states, written out; contrastive divergence against the enumerated Gibbs kernel."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.boltzmann import Machine, bernoulli, bernoulli_nats, binary_states, contrastive_divergence, deep_machine

from .support import assert_close

F64 = torch.float64
V, H = 4, 3


def normal(*shape: int, seed: int = 0, std: float = 1.0) -> Tensor:
    return std * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def machine_of(V: int = V, H: int = H, seed: int = 0, std: float = 1.0) -> Machine:
    return Machine(normal(V, H, seed=seed, std=std), normal(V, seed=seed + 1, std=std), normal(H, seed=seed + 2, std=std))


def states(n: int) -> np.ndarray:
    return np.array(list(itertools.product([0.0, 1.0], repeat=n)))


def joint(machine: Machine) -> np.ndarray:
    """exp(−E) of every (v, h), by loops over units."""
    W, a, b = (part.detach().numpy() for part in machine)
    table = np.zeros((2 ** len(a), 2 ** len(b)))
    for (i, v), (j, h) in itertools.product(enumerate(states(len(a))), enumerate(states(len(b)))):
        pairs = sum(v[m] * W[m, n] * h[n] for m in range(len(a)) for n in range(len(b)))
        table[i, j] = math.exp(sum(a * v) + sum(b * h) + pairs)
    return table


MACHINE, SMALL = machine_of(), machine_of(std=0.7)
ALL_V, ALL_H = torch.from_numpy(states(V)), torch.from_numpy(states(H))
DATA = torch.tensor([0.5, 0, 0.2, 0, 0, 0, 0, 0.1, 0, 0, 0, 0, 0, 0.15, 0, 0.05], dtype=F64)
"""A distribution over `ALL_V`."""


def kernel(machine: Machine) -> Tensor:
    """K(v, v') = Σ_h p(h | v) p(v' | h)."""
    table = joint(machine)
    return torch.from_numpy((table / table.sum(1, keepdims=True)) @ (table / table.sum(0)).T)


def test_energies_free_energies_and_z():
    table = joint(MACHINE)
    assert_close(MACHINE.energy(ALL_V[:, None], ALL_H), -np.log(table))
    assert_close(MACHINE.free_energy(ALL_V), -np.log(table.sum(1)))
    assert_close(MACHINE.turned().free_energy(ALL_H), -np.log(table.sum(0)))
    assert_close(MACHINE.log_z(), math.log(table.sum()))
    assert_close((-MACHINE.free_energy(ALL_V) - MACHINE.log_z()).exp(), table.sum(1) / table.sum())


def test_conditionals():
    table = joint(MACHINE)
    assert_close(MACHINE.hidden_logits(ALL_V).sigmoid(), table @ states(H) / table.sum(1, keepdims=True))
    assert_close(MACHINE.visible_logits(ALL_H).sigmoid(), table.T @ states(V) / table.sum(0)[:, None])


def test_large_inputs_lose_nothing():
    """softplus as torch has it by default is linear above 20, off by 2e-9."""
    one = Machine(torch.zeros(1, 1, dtype=F64), torch.zeros(1, dtype=F64), torch.tensor([21.0], dtype=F64))
    assert float(one.free_energy(torch.zeros(1, 1, dtype=F64)) + 21) == pytest.approx(-math.log1p(math.exp(-21)), rel=1e-5)


@pytest.mark.parametrize(("V", "H"), [(3, 14), (14, 3), (13, 13)])
def test_log_z_takes_the_smaller_layer_and_joins_chunks(V, H):
    """Without weights Z is a product; with them both layers must give the same."""
    machine = machine_of(V, H, std=0.5)
    W, a, b = machine
    assert_close(Machine(torch.zeros_like(W), a, b).log_z(), float(torch.cat([a, b]).exp().log1p().sum()))
    whole = torch.cat([-machine.turned().free_energy(chunk) for chunk in binary_states(H)])
    assert_close(machine.log_z(), float(whole.logsumexp(0)))
    assert_close(machine.turned().log_z(), machine.log_z())
    assert Machine(*(part.float() for part in machine)).log_z().dtype == F64


def test_more_units_than_can_be_enumerated_are_refused():
    with pytest.raises(ValueError, match=r"20.*21"):
        machine_of(21, 22).log_z()
    assert sum(map(len, binary_states(13))) == len(torch.cat(list(binary_states(13))).unique(dim=0)) == 2**13


def gradient(loss: Tensor, machine: Machine) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, machine)])


def trained(machine: Machine) -> Machine:
    return Machine(*(part.clone().requires_grad_() for part in machine))


def exact_gradient(machine: Machine) -> Tensor:
    """Of −E log p(v) over `DATA`, by expectations: ⟨statistics⟩ of the model minus those of the data."""
    table = joint(machine)
    model, data = table / table.sum(), DATA.numpy()[:, None] * table / table.sum(1, keepdims=True)
    gap, v, h = model - data, states(V), states(H)
    parts = [v.T @ gap @ h, v.T @ gap.sum(1), gap.sum(0) @ h]
    return torch.from_numpy(np.concatenate([part.ravel() for part in parts]))


def test_gradient_of_the_exact_likelihood():
    machine = trained(MACHINE)
    assert_close(gradient(DATA @ machine.free_energy(ALL_V) + machine.log_z(), machine), exact_gradient(MACHINE))


def expected_cd(machine: Machine, k: int) -> Tensor:
    """Gradient of the mean loss over v_0 ~ `DATA` and v_k ~ K^k(v_0, ·)."""
    pairs, machine = DATA[:, None] * kernel(machine).matrix_power(k), trained(machine)
    v0, vk = ALL_V.repeat_interleave(len(ALL_V), 0), ALL_V.repeat(len(ALL_V), 1)
    return gradient(pairs.flatten() @ contrastive_divergence(machine, v0, vk), machine)


@pytest.mark.parametrize("std", [0.3, 0.7, 1.0])
def test_expected_cd_tends_to_the_exact_gradient(std):
    machine = machine_of(std=std)
    exact = exact_gradient(machine)
    errors = [float((expected_cd(machine, k) - exact).norm() / exact.norm()) for k in (1, 2, 3, 5, 10, 20, 40, 80)]
    decreasing = [error for error in errors if error > 1e-13]  # rounding is left below
    assert all(more > less for more, less in itertools.pairwise(decreasing)), errors
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-6


@pytest.mark.parametrize("k", [1, 3])
def test_sampled_cd_agrees_with_its_expectation(k):
    """The same gradient from sweeps; its standard error is over pairs."""
    n, machine = 20_000, SMALL
    start = torch.multinomial(DATA, n, replacement=True, generator=torch.Generator().manual_seed(0))
    v0 = vk = ALL_V[start]
    for sweep in range(k):
        vk = machine.sweep(vk, rng.uniform(0, "gibbs", sweep, 0, n, (H + V,)))
    data, model = machine.hidden_logits(v0).sigmoid(), machine.hidden_logits(vk).sigmoid()
    weights = vk[:, :, None] * model[:, None] - v0[:, :, None] * data[:, None]
    each = torch.cat([weights.flatten(1), vk - v0, model - data], 1)  # Hinton's update, per example
    copy = trained(machine)
    assert_close(gradient(contrastive_divergence(copy, v0, vk).mean(), copy), each.mean(0))
    assert ((each.mean(0) - expected_cd(machine, k)).abs() < 4 * each.std(0) / math.sqrt(n)).all()


def test_the_chain_has_no_gradient():
    machine = trained(SMALL)
    vk = machine.hidden_logits(ALL_V) @ machine.weights.mT  # depends on the machine
    loss = contrastive_divergence(machine, ALL_V, vk).sum()
    assert_close(gradient(loss, machine), gradient(contrastive_divergence(machine, ALL_V, vk.detach()).sum(), machine))


def test_units_are_drawn_below_their_probability():
    logits = torch.tensor([[-3.0, 0.0, 2.0]], dtype=F64)
    p = logits.sigmoid()
    assert bernoulli(logits, p - 1e-9).tolist() == [[1, 1, 1]]
    assert bernoulli(logits, p + 1e-9).tolist() == [[0, 0, 0]]
    assert bernoulli(torch.tensor([[-200.0, 200.0]]), torch.tensor([[0.0, 1 - 2**-53]], dtype=F64)).tolist() == [[0, 1]]


def test_layers_of_belief_nets():
    logits = normal(3, seed=5)
    nats = bernoulli_nats(ALL_H, logits.expand(8, 3))
    p = logits.sigmoid().numpy()
    assert_close(nats, [-sum(math.log(q if x else 1 - q) for x, q in zip(row, p, strict=True)) for row in states(H)])
    assert_close(bernoulli_nats(logits.sigmoid(), logits), float((nats * (-nats).exp()).sum()))  # the entropy


def test_a_deep_machine_is_a_machine():
    sizes = (3, 4, 2)
    weights, biases = (normal(3, 4, seed=1), normal(4, 2, seed=2)), tuple(normal(n, seed=3 + n) for n in sizes)
    machine, energies = deep_machine(weights, biases), []
    (W1, W2), (a, b1, b2) = ([part.numpy() for part in parts] for parts in (weights, biases))
    for v, h1, h2 in itertools.product(*map(states, sizes)):
        energies.append(-(a @ v) - b1 @ h1 - b2 @ h2 - v @ W1 @ h1 - h1 @ W2 @ h2)
        seen = machine.energy(torch.from_numpy(h1), torch.from_numpy(np.concatenate([v, h2])))
        assert float(seen) == pytest.approx(energies[-1], abs=1e-12)
    assert_close(machine.log_z(), math.log(np.exp(-np.array(energies)).sum()))
