"""Binary units: Boltzmann machines of two layers, and the directed layers of belief nets.

A restricted Boltzmann machine (Smolensky 1986) has units v ∈ {0, 1}^V and h ∈ {0, 1}^H, connected between the layers alone:

    p(v, h) = exp(−E(v, h))/Z,   E(v, h) = −aᵀv − bᵀh − vᵀW h

Given one layer the units of the other are independent. Where v is data, grey levels in [0, 1] stand for probabilities.
Everything is in nats. Leading dimensions of v and h are arbitrary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from ddpm_lab.core.transfer import to_device
from ddpm_lab.core.types import PerExample

ENUMERABLE = 20
"""Units whose states can be enumerated."""
CHUNK = 4096
"""States that are enumerated at once."""


class Machine(NamedTuple):
    """A restricted Boltzmann machine by its weights W and its biases a and b."""

    weights: Float[Tensor, "V H"]
    visible_bias: Float[Tensor, " V"]
    hidden_bias: Float[Tensor, " H"]

    def energy(self, v: Float[Tensor, "... V"], h: Float[Tensor, "... H"]) -> Float[Tensor, "..."]:
        """E(v, h). It is linear in each unit: means of independent units give the mean energy."""
        return -v @ self.visible_bias - h @ self.hidden_bias - ((v @ self.weights) * h).sum(-1)

    def free_energy(self, v: Float[Tensor, "... V"]) -> Float[Tensor, "..."]:
        """F(v) = −log Σ_h exp(−E(v, h)) = −aᵀv − Σ_j log(1 + exp(b_j + (Wᵀv)_j)), so p(v) = exp(−F(v))/Z. Hinton 2012 ("A
        Practical Guide to Training Restricted Boltzmann Machines"), section 16.1."""
        return -v @ self.visible_bias - F.softplus(self.hidden_logits(v), threshold=40).sum(-1)

    def hidden_logits(self, v: Float[Tensor, "... V"]) -> Float[Tensor, "... H"]:
        """b + Wᵀv, whose sigmoid is p(h_j = 1 | v)."""
        return v @ self.weights + self.hidden_bias

    def visible_logits(self, h: Float[Tensor, "... H"]) -> Float[Tensor, "... V"]:
        """a + W h, whose sigmoid is p(v_i = 1 | h)."""
        return self.turned().hidden_logits(h)

    def turned(self) -> "Machine":
        """The same distribution with the two layers exchanged."""
        return Machine(self.weights.mT, self.hidden_bias, self.visible_bias)

    def sweep(self, v: Float[Tensor, "B V"], u: Float64[Tensor, "B n"]) -> Float[Tensor, "B V"]:
        """Block Gibbs sampling: h ~ p(h | v), then v' ~ p(v | h), from u uniform in [0, 1): H numbers for h, V for v'."""
        h = bernoulli(self.hidden_logits(v), u[:, : len(self.hidden_bias)])
        return bernoulli(self.visible_logits(h), u[:, len(self.hidden_bias) :])

    def log_z(self) -> Float64[Tensor, ""]:
        """log Z in float64, by all states of the smaller layer. Raises ValueError where that has more than 20 units."""
        machine = Machine(*(part.double() for part in self))
        machine = machine if self.weights.shape[0] <= self.weights.shape[1] else machine.turned()
        units = len(machine.visible_bias)
        if units > ENUMERABLE:
            raise ValueError(f"log Z by enumeration takes a layer of at most {ENUMERABLE} units; the smaller one has {units}")
        states = binary_states(units, self.weights.device)
        return torch.stack([torch.logsumexp(-machine.free_energy(chunk), 0) for chunk in states]).logsumexp(0)


def binary_states(units: int, device: torch.device | None = None) -> Iterator[Float64[Tensor, "N units"]]:
    """All 2^units states, in chunks of at most 4096."""
    for codes in torch.arange(2**units, device=device).split(CHUNK):
        yield ((codes[:, None] >> torch.arange(units, device=device)) & 1).double()


def bernoulli(logits: Float[Tensor, "B n"], u: Float64[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Units that are 1 with probability sigmoid(logits), from u uniform in [0, 1)."""
    return (to_device(u, logits.device) < logits.sigmoid()).to(logits)


def bernoulli_nats(x: Float[Tensor, "... n"], logits: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """−log p(x) of independent units that are 1 with probability sigmoid(logits): a layer of a sigmoid belief net (Neal 1992),
    whose logits are an affine function of its parents. It is linear in x: means of x give the mean, and sigmoid(logits) itself
    gives the entropy."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def contrastive_divergence(machine: Machine, v0: Float[Tensor, "B V"], vk: Float[Tensor, "B V"]) -> PerExample:
    """F(v_0) − F(v_k), with v_k taken as constant: the gradient of its mean is the update of CD-k (Hinton 2002), with p(h | v)
    in place of samples of h, where v_k is k sweeps from v_0; and of persistent CD (Tieleman 2008) where v_k is the state of a
    chain that goes on from the update before. The value itself is no measure of progress. As k grows the mean gradient tends to
    that of −log p(v_0)."""
    return machine.free_energy(v0) - machine.free_energy(vk.detach())


def deep_machine(
    weights: tuple[Float[Tensor, "V H1"], Float[Tensor, "H1 H2"]],
    biases: tuple[Float[Tensor, " V"], Float[Tensor, " H1"], Float[Tensor, " H2"]],
) -> Machine:
    """A deep Boltzmann machine (Salakhutdinov & Hinton 2009) of layers v, h_1, h_2, with E = −aᵀv − b_1ᵀh_1 − b_2ᵀh_2 −
    vᵀW_1 h_1 − h_1ᵀW_2 h_2: the `Machine` whose visible layer is h_1 and whose hidden layer is (v, h_2)."""
    return Machine(torch.cat([weights[0].mT, weights[1]], 1), biases[1], torch.cat([biases[0], biases[2]]))
