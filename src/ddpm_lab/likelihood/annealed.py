"""log Z of a Boltzmann machine by annealed importance sampling, Neal 2001; Salakhutdinov & Murray 2008 for these machines."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.boltzmann import Machine, bernoulli
from ddpm_lab.core.transfer import to_device
from ddpm_lab.domains import NonNegativeInt, PositiveInt, checked

CLIMBS = 20
"""Steps of `climbed`, at most."""


@dataclass(frozen=True)
class AnnealedLogZ:
    """An estimate of log Z, and no bound. The mean weight is unbiased for Z, so by Jensen's inequality its log lies below
    log Z on average, by about se²/2. Neither `se` nor `effective` sees a mode that all chains miss; `lower` sees some."""

    log_z: float
    se: float
    """Over chains."""
    effective: float
    """Effective number of chains, (Σw)²/Σw². Of few, nothing is known: the chains may all have missed where Z lies."""
    chains: int
    temperatures: int
    lower: float = -math.inf
    """A lower bound of log Z, without error."""

    @property
    def refuted(self) -> bool:
        """Whether `lower` exceeds the estimate by more than 3 standard errors, and by more than rounding."""
        return self.lower - self.log_z > 3 * self.se + 1e-9 * abs(self.lower)


def independent(machine: Machine, means: Float[Tensor, " V"] | None = None) -> Machine:
    """The machine without weights that annealing begins at: visible units have these `means`, held off 0 and 1 by 1%, or ½;
    hidden units have ½."""
    bias = torch.zeros_like(machine.visible_bias) if means is None else means.to(machine.visible_bias).logit(0.01)
    return Machine(torch.zeros_like(machine.weights), bias, torch.zeros_like(machine.hidden_bias))


class Chains(NamedTuple):
    """`log_weights`: log w, w = Z_0 Π_k p*_k(v_{k−1})/p*_{k−1}(v_{k−1}), p* = exp(−F). `ends`: v after the last sweep."""

    log_weights: Float64[Tensor, " M"]
    ends: Float64[Tensor, "M V"]


def double(machine: Machine) -> Machine:
    return Machine(*(part.double() for part in machine))


def summarise(logs: Float64[Tensor, " M"], temperatures: int) -> AnnealedLogZ:
    """The log of the mean weight of M chains, with its standard error by the delta method, √(var w/M)/mean w."""
    weights = (logs - logs.max()).exp()
    se = float(weights.std() / weights.mean()) / math.sqrt(len(logs))
    log_z = float(logs.logsumexp(0)) - math.log(len(logs))
    return AnnealedLogZ(log_z, se, float(weights.sum() ** 2 / (weights**2).sum()), len(logs), temperatures)


@torch.no_grad()
def annealed(machine: Machine, base: Machine, chains: int, temperatures: int, seed: int) -> Chains:
    """Chains from `base`, which has no weights, at β = 0 to `machine` at β = 1, with one Gibbs sweep at each temperature and
    parameters linear in β. Draws of chain i at the k-th temperature are those of (seed, "annealing", k, i)."""
    first, last = double(base), double(machine)
    (V, H), device = last.weights.shape, last.weights.device

    def uniforms(k: int) -> Tensor:
        return to_device(rng.uniform(seed, "annealing", k, 0, chains, (H + V,)), device)

    before, v = first, bernoulli(first.visible_bias.expand(chains, V), uniforms(0)[:, H:])
    logs = (F.softplus(first.visible_bias).sum() + F.softplus(first.hidden_bias).sum()).expand(chains)
    for k in range(1, temperatures + 1):
        now = Machine(*(torch.lerp(a, b, k / temperatures) for a, b in zip(first, last, strict=True)))
        logs = logs + before.free_energy(v) - now.free_energy(v)
        before, v = now, now.sweep(v, uniforms(k))
    return Chains(logs, v)


@torch.no_grad()
def climbed(machine: Machine, v: Float64[Tensor, "N V"]) -> Float64[Tensor, "N V"]:
    """From each state by steps that never lower −F, until none moves or `CLIMBS` are made. −F is convex and so at least its
    tangent at v; a step goes to the state v' that maximises the tangent: v'_i is 1 where a + W σ(b + Wᵀv) is positive."""
    for _ in range(CLIMBS):
        before, v = v, (machine.visible_logits(machine.hidden_logits(v).sigmoid()) > 0).to(v)
        if torch.equal(v, before):
            break
    return v


@torch.no_grad()
def lower_bound(machine: Machine, v: Float64[Tensor, "N V"]) -> float:
    """log Σ exp(−F) ≤ log Z over distinct states: these, and what is `climbed` to from them and from all units 0 or 1, of the
    visible and of the hidden layer. It is near log Z where few states have most of the probability."""
    machine, both = double(machine), torch.tensor([[0.0], [1.0]]).to(v)
    from_hidden = (machine.visible_logits(both.expand(2, machine.weights.shape[1])) > 0).to(v)
    starts = torch.cat([v, both.expand(2, v.shape[1]), from_hidden])
    states = torch.cat([starts, climbed(machine, starts)]).unique(dim=0)
    return float(torch.logsumexp(-machine.free_energy(states), 0))


@checked
def annealed_log_z(
    machine: Machine,
    means: Float[Tensor, " V"] | None = None,
    chains: Annotated[int, Ge(2)] = 100,
    temperatures: PositiveInt = 1000,
    seed: NonNegativeInt = 0,
) -> AnnealedLogZ:
    """Estimates log Z with chains that begin at the `independent` machine. `means`: of the training data, which are nearer to
    what a trained machine has than ½ is."""
    logs, ends = annealed(machine, independent(machine, means), chains, temperatures, seed)
    return replace(summarise(logs, temperatures), lower=lower_bound(machine, ends))
