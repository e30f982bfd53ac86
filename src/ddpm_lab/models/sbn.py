"""Sigmoid belief nets (Neal 1992), trained by wake-sleep (Hinton, Dayan, Frey & Neal 1995)."""

import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.boltzmann import bernoulli, binary_states
from ddpm_lab.domains import Given, Size, checked
from ddpm_lab.models.belief import LABELS, BeliefModel, BeliefNet, Layers
from ddpm_lab.models.contract import Losses, Plain, State
from ddpm_lab.models.meter import PerDatum
from ddpm_lab.models.networks import seeded
from ddpm_lab.models.readings import Reading

ENUMERABLE = 14
"""Hidden units up to which the likelihood is exact: all their states are held against a batch at once."""


def dream(net: BeliefNet, u: Tensor) -> Layers:
    """(v, h) ~ p, from u uniform in [0, 1), B × units of h_L, …, h_0."""
    highest = net.sizes[-1]
    return net.generate(bernoulli(net.top_bias.expand(len(u), -1), u[:, :highest]), u[:, highest:])


def log_joint(net: BeliefNet, v: Tensor) -> Tensor:
    """log p(v, h) of every state of the hidden units, B × 2^units in the order of `binary_states`, of h_1 first. Its logsumexp
    is log p(v), its softmax the posterior p(h | v)."""
    parts = []
    for states in binary_states(sum(net.sizes[1:]), v.device):
        h, *above = states.to(v).split(net.sizes[1:], 1)
        logits, nats = net.generative[0](h), net.generative_nats([h.new_zeros(len(h), net.sizes[0]), h, *above])[1:]
        parts.append(v @ logits.mT - F.softplus(logits, threshold=40).sum(1) - nats.sum(0) - net.top_nats([h, *above][-1]))
    return torch.cat(parts, 1)


@checked
class SBN(BeliefModel):
    """`hidden`: units of each hidden layer, from the data upwards. With 14 of them or fewer the likelihood is exact."""

    def __init__(
        self,
        hidden: Annotated[tuple[Size, ...], MinLen(1)] = (64, 32),
        draws: Size = 20,
        *,
        shape: Given[tuple[int, ...]],
        levels: Given[int | None],
        seed: Given[int],
        config: Given[dict[str, Any]],
    ) -> None:
        super().__init__(shape=shape, levels=levels, seed=seed, config=config)
        self.net, self.draws = seeded(lambda: BeliefNet((math.prod(shape), *hidden)), seed), draws

    def losses(self, batch: Batch) -> Losses:
        """Per dimension. `wake`: −log p(v, h) where h ~ q(h | v) of the data; its gradient is that of p alone. `sleep`:
        −log q(h | v) where (v, h) ~ p; its gradient is that of q alone."""
        net, rows = self.net, (batch.counter, batch.first, batch.first + len(batch.x0))
        V, units = net.sizes[0], sum(net.sizes)
        awake = net.infer(self.probabilities(batch.x0), rng.uniform(self.seed, "wake", *rows, (units - V,)))
        asleep = dream(net, rng.uniform(self.seed, "sleep", *rows, (units,)))
        wake = net.generative_nats(awake).sum(0) + net.top_nats(awake[-1])
        sleep = net.recognition_nats(asleep).sum(0)
        return Losses({"wake": wake / V, "sleep": sleep / V}, torch.ones(len(batch.x0)))

    @torch.inference_mode()
    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        """Ancestral: each layer given the one above."""
        u = rng.uniform(seed, "sampling", 0, start, stop, (sum(self.net.sizes),))
        h = dream(self.net, u)[1]
        yield self.state("v", self.net.generative[0](h), u[:, -self.net.sizes[0] :])

    def bound_meter(self, stride: int = 1, seed: int = 0) -> PerDatum:
        if sum(self.net.sizes[1:]) > ENUMERABLE:
            return PerDatum(f"variational bound of {self.draws} draws", self.bound(seed), LABELS)

        def exact(x0: Tensor, index: Tensor) -> dict[str, Tensor]:
            return {"all": -log_joint(self.net, self.states(x0)).logsumexp(1) / self.nats_per_bpd}

        return PerDatum("exact likelihood", exact, {"all": "−log p(v)"}, how={"likelihood": "exact"})

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        """The importance-weighted bound −log (1/K) Σ_k w_k by K draws, Burda, Grosse & Salakhutdinov 2016, Eq. 8."""

        def weighted(x0: Tensor, index: Tensor) -> Tensor:
            of_data, of_hidden = self.nats(self.states(x0), index, seed)
            return (math.log(self.draws) - (-of_data - of_hidden).logsumexp(0)) / self.nats_per_bpd

        label = f"bits/dim, importance-weighted bound of {self.draws} draws"
        return {"iwae_bpd": Reading(label, "bits/dim", weighted, {"draws": self.draws, **self.bound_record()})}

    def sample_record(self) -> dict[str, Plain]:
        return super().sample_record() | {"sampler": "ancestral", "steps": len(self.net.sizes)}
