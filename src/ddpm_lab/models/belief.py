"""Belief nets of binary layers: a net that draws data from the top downwards, and one that infers their causes.

Layers are h_0 = v, h_1, …, h_L. In each factor the units of one layer are independent; their logits are affine in the other:

    p(v, h) = p(h_L) Π_l p(h_{l−1} | h_l),   q(h | v) = Π_l q(h_l | h_{l−1}),   l = 1..L
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.core import rng
from ddpm_lab.core.boltzmann import bernoulli, bernoulli_nats
from ddpm_lab.models.binary import BinaryModel
from ddpm_lab.models.readings import Picture

Layers = list[Tensor]
"""[h_0, h_1, …], each B × units."""
LABELS = {"reconstruction": "−log p(v | h_1)", "hidden": "log q(h | v) − log p(h)"}
"""The summands of the bound."""


class BeliefNet(nn.Module):
    """`sizes`: units of h_0, …, h_L. Here the units of h_L are independent and have the logits `top_bias`."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes, pairs = sizes, list(itertools.pairwise(sizes))
        self.generative: Any = nn.ModuleList(nn.Linear(above, below) for below, above in pairs)
        self.recognition: Any = nn.ModuleList(nn.Linear(below, above) for below, above in pairs)
        self.top_bias = nn.Parameter(torch.zeros(sizes[-1]))

    def infer(self, v: Tensor, u: Tensor) -> Layers:
        """h ~ q(h | v), from u uniform in [0, 1), B × units of h_1, …, h_L. No draw passes a gradient on."""
        layers = [v]
        for recognition, part in zip(self.recognition, u.split(self.sizes[1:], 1), strict=True):
            layers.append(bernoulli(recognition(layers[-1]), part))
        return layers

    def generate(self, top: Tensor, u: Tensor) -> Layers:
        """All layers, given h_L, from u uniform in [0, 1), B × units of h_{L−1}, …, h_0."""
        layers = [top]
        for generative, part in zip(reversed(self.generative), u.split(self.sizes[-2::-1], 1), strict=True):
            layers.insert(0, bernoulli(generative(layers[0]), part))
        return layers

    def generative_nats(self, layers: Layers) -> Tensor:
        """−log p(h_{l−1} | h_l) for l = 1..L, L × B."""
        given = zip(layers[:-1], layers[1:], self.generative, strict=True)
        return torch.stack([bernoulli_nats(h, p(above)) for h, above, p in given])

    def recognition_nats(self, layers: Layers) -> Tensor:
        """−log q(h_l | h_{l−1}) for l = 1..L, L × B."""
        given = zip(layers[:-1], layers[1:], self.recognition, strict=True)
        return torch.stack([bernoulli_nats(h, q(below)) for below, h, q in given])

    def top_nats(self, h: Tensor) -> Tensor:
        """−log p(h_L), up to a constant where that is not known."""
        return bernoulli_nats(h, self.top_bias.expand_as(h))

    def downwards(self, h: Tensor, layer: int) -> Tensor:
        """Probabilities of v from h_layer, each layer between represented by its own probabilities."""
        for generative in reversed(self.generative[:layer]):
            h = generative(h).sigmoid()
        return h


class BeliefModel(BinaryModel):
    """A model whose `net` is a belief net. Its bound is the mean over `draws` of h ~ q(h | v) for each datum."""

    net: BeliefNet  # type: ignore[assignment]
    draws: int

    def nats(self, v: Tensor, index: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """−log p(v | h_1) and log q(h | v) − log p(h) of every draw, draws × B each. The sum is −log w, with the weights
        w = p(v, h)/q(h | v), whose mean is p(v)."""
        net, rows, of_data, of_hidden = self.net, (int(index[0]), int(index[-1]) + 1), [], []
        for draw in range(self.draws):
            layers = net.infer(v, rng.uniform(seed, "evaluation", draw, *rows, (sum(net.sizes[1:]),)))
            p, q = net.generative_nats(layers), net.recognition_nats(layers)
            of_data.append(p[0])
            of_hidden.append(p[1:].sum(0) + net.top_nats(layers[-1]) - q.sum(0))
        return torch.stack(of_data), torch.stack(of_hidden)

    def bound(self, seed: int) -> Callable[[Tensor, Tensor], Mapping[str, Tensor]]:
        """−E_q[log p(v, h) − log q(h | v)] of thresholded data in bits/dim, in its two summands, as a meter takes it."""

        def bits(x0: Tensor, index: Tensor) -> Mapping[str, Tensor]:
            nats = self.nats(self.states(x0), index, seed)
            return {key: part.mean(0) / self.nats_per_bpd for key, part in zip(LABELS, nats, strict=True)}

        return bits

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        """Data, and their reconstructions from each hidden layer."""
        u = rng.uniform(seed, "evaluation", 0, 0, len(x0), (sum(self.net.sizes[1:]),))
        layers = self.net.infer(self.probabilities(x0), u)[1:]
        back = [self.images(self.net.downwards(h, i)) for i, h in enumerate(layers, 1)]
        return {"reconstructions": Picture([x0, *back], ["data", *(f"from h_{i + 1}" for i in range(len(back)))])}
