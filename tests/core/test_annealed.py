"""Annealed importance sampling against log Z by enumeration."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ddpm_lab.core.boltzmann import Machine, binary_states, deep_machine
from ddpm_lab.likelihood.annealed import annealed, annealed_log_z, climbed, independent, lower_bound, summarise

from .support import REFUSED, assert_close
from .test_boltzmann import machine_of, normal

F64 = torch.float64


class Judged(NamedTuple):
    """Estimates for 100 machines: their errors over their standard errors, how many intervals cover, their mean width."""

    z: Tensor
    covered: int
    width: float


def judged(chains: int, temperatures: int) -> Judged:
    """10 to 16 visible and 8 to 12 hidden units, parameters with standard deviations from 0.1 to 1.5."""
    z, covered, widths = [], 0, []
    for i in range(100):
        machine = machine_of(10 + i % 7, 8 + i % 5, seed=10 * i, std=(0.1, 0.3, 0.6, 1.0, 1.5)[i // 20])
        exact, found = float(machine.log_z()), annealed_log_z(machine, chains=chains, temperatures=temperatures, seed=i)
        low, high = (found.log_z + sign * 1.96 * found.se for sign in (-1, 1))
        z.append((found.log_z - exact) / found.se)
        covered += low <= exact <= high
        widths.append(high - low)
    return Judged(torch.tensor(z), covered, sum(widths) / len(widths))


@pytest.mark.slow
def test_intervals_cover_log_z():
    """Of 100 normal z the mean lies within ±0.3. Jensen's bias, −se²/2, is a z of −se/2: here −0.02 on average."""
    z, covered, width = judged(chains=100, temperatures=50)
    assert covered >= 90
    assert width <= 0.5
    assert abs(float(z.mean())) < 0.3
    assert 0.7 < float(z.std()) < 1.3


def test_the_mean_weight_is_unbiased_and_its_log_is_not():
    """At two temperatures, where weights spread: the mean of 2,000 estimates of Z, and of their logs, of 10 chains each."""
    machine = machine_of(6, 5, std=0.8)
    logs = annealed(machine, independent(machine), 20_000, 2, 0).log_weights.reshape(2000, 10) - machine.log_z()
    found = torch.tensor([summarise(ten, 2).log_z for ten in logs], dtype=F64)
    assert abs(float(logs.exp().mean()) - 1) < 4 * float(logs.exp().std()) / math.sqrt(logs.numel())
    assert float(found.mean()) < -4 * float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(-float(found.exp().var()) / 2, rel=0.35)  # Jensen's bias to second order


def test_without_weights_nothing_is_left_to_estimate():
    """Where the base has the machine's biases, each weight is Z itself."""
    mean = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    machine = Machine(torch.zeros(3, 2, dtype=F64), mean.logit(), torch.zeros(2, dtype=F64))
    found = annealed_log_z(machine, mean, chains=4, temperatures=3)
    assert_close(found.log_z, machine.log_z())
    assert found.se < 1e-12
    assert found.effective == pytest.approx(4)


def test_annealing_begins_at_the_means_of_the_data():
    machine, means = machine_of(3, 2), torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    (states,) = binary_states(3)
    for given, wanted in ((means, [0.01, 0.3, 0.99]), (None, [0.5] * 3)):
        base = independent(machine, given)
        p = (-base.free_energy(states) - base.log_z()).exp()
        assert_close(p @ states, wanted)


def test_means_of_the_data_help_a_machine_that_fits_them():
    """Biased far from ½, where Z lies in few states."""
    W, a, b = machine_of(12, 8, std=0.3)
    machine = Machine(W, a - 3, b)
    (states,) = binary_states(12)
    means = (-machine.free_energy(states) - machine.log_z()).exp() @ states
    fitted, plain = (annealed_log_z(machine, given, temperatures=5) for given in (means, None))
    assert fitted.effective > 1.5 * plain.effective
    assert fitted.log_z == pytest.approx(float(machine.log_z()), abs=4 * fitted.se)


def test_a_deep_machine_is_annealed_by_the_same_code():
    sizes, std = (10, 8, 6), 0.5
    weights = normal(10, 8, seed=1, std=std), normal(8, 6, seed=2, std=std)
    machine = deep_machine(weights, tuple(normal(n, seed=n, std=std) for n in sizes))
    found = annealed_log_z(machine, temperatures=100)
    assert found.log_z == pytest.approx(float(machine.log_z()), abs=3 * found.se)
    assert found.se < 0.1


def test_standard_error_and_effective_chains():
    """A constant factor changes neither; equal weights are all effective, one of M that outweighs the others is alone."""
    logs = normal(50, std=0.3)
    one, other = summarise(logs, 1), summarise(logs + 1000, 1)
    assert_close([other.log_z - 1000, other.se, other.effective], [one.log_z, one.se, one.effective])
    w = logs.exp()
    assert_close(one.log_z, float(w.mean().log()))
    assert_close(one.se, float(((w - w.mean()) ** 2).sum() / 49 / 50) ** 0.5 / float(w.mean()))
    assert summarise(torch.zeros(50, dtype=F64), 1).effective == pytest.approx(50)
    assert summarise(torch.tensor([0.0] * 49 + [100.0], dtype=F64), 1).effective == pytest.approx(1)


def two_modes() -> Machine:
    """Hidden units are on where nearly all 20 visible units are, and hold them there: one state has nearly all of Z, and units
    that are on with probability ½ are far from it. The other mode has the hidden units off."""
    on = torch.ones(20, dtype=F64)
    return Machine(4 * torch.ones(20, 20, dtype=F64), -on, -72 * on)


@pytest.mark.long
def test_a_mode_that_chains_miss_refutes_the_estimate():
    """Of two temperatures all chains stay in the lesser mode: a small error, many effective chains, and e^-100 of Z."""
    machine = two_modes()
    exact, found = float(machine.log_z()), annealed_log_z(machine, temperatures=2)
    assert found.se < 0.2
    assert found.effective > 30
    assert found.log_z < exact - 100
    assert found.refuted
    assert found.lower == pytest.approx(exact, abs=1e-6)
    long = annealed_log_z(machine, temperatures=2000)
    assert not long.refuted
    assert long.log_z == pytest.approx(exact, abs=4 * long.se)


@pytest.mark.long
def test_the_lower_bound_counts_each_state_once_and_only_climbs():
    """It is a sum over some states, also those of units all 0 or 1: log Z where they are all, and no more where they are twice
    there."""
    for seed in range(20):
        machine = machine_of(8, 6, seed=10 * seed, std=(0.1, 1.0, 3.0)[seed % 3])
        (states,), exact = binary_states(8), float(machine.log_z())
        assert_close(lower_bound(machine, torch.cat([states, states])), exact)
        some = states[seed + 1 : 250 : 50]
        assert float(torch.logsumexp(-machine.free_energy(some), 0)) - 1e-9 < lower_bound(machine, some) < exact
        assert (machine.free_energy(climbed(machine, some)) <= machine.free_energy(some) + 1e-9).all()
        assert not annealed_log_z(machine, temperatures=50).refuted
    flat = Machine(*(torch.zeros_like(part) for part in machine_of(8, 6)))
    assert_close(lower_bound(flat, states[5:6]), math.log(3 * 2**6))  # this one, and all units 0, and 1


def test_numbers_that_cannot_be_used_are_refused():
    machine = machine_of(3, 2)
    for wrong in ({"chains": 1}, {"temperatures": 0}, {"seed": -1}):
        ((name, value),) = wrong.items()
        with pytest.raises(REFUSED, match=rf"{name}={value}"):
            annealed_log_z(machine, **wrong)
