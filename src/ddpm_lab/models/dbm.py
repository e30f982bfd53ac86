"""The deep Boltzmann machine of two hidden layers (Salakhutdinov and Hinton 2009): pretrained layer by layer, then as a whole
with a mean-field posterior and chains that persist."""

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.boltzmann import Machine, bernoulli, bernoulli_nats, deep_machine
from ddpm_lab.domains import Given, NonNegativeInt, Size, checked
from ddpm_lab.models.binary import check_phases
from ddpm_lab.models.contract import Losses
from ddpm_lab.models.gibbs import WithLogZ
from ddpm_lab.models.machines import MachineModel, PersistentChains
from ddpm_lab.models.networks import seeded


class Deep(nn.Module):
    """The parameters of layers v, h_1, h_2. Weights begin as N(0, 0.01²)."""

    def __init__(self, visible: int, first: int, second: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(0.01 * torch.randn(pair)) for pair in ((visible, first), (first, second)))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.first_bias, self.second_bias = nn.Parameter(torch.zeros(first)), nn.Parameter(torch.zeros(second))

    @property
    def joint(self) -> Machine:
        return deep_machine((self.first, self.second), (self.visible_bias, self.first_bias, self.second_bias))

    @property
    def lower(self) -> Machine:
        """Of h_1 and two copies of v, which stand for v and for the input that h_2 will give. Section 3.2."""
        return Machine(self.first.repeat(2, 1), self.visible_bias.repeat(2), self.first_bias)

    @property
    def upper(self) -> Machine:
        """Of h_1 and two copies of h_2. The bias of h_1 belongs to `lower`."""
        return Machine(self.second.repeat(1, 2), self.first_bias.detach(), self.second_bias.repeat(2))


@checked
class DBM(MachineModel):
    """`hidden`: units of h_1 and h_2. `lower` and then `upper` are trained by CD-k, k = `gibbs`, for `pretrain` steps each;
    then all layers together, with `mean_field` updates of the posterior's means, and k sweeps of the chains in each step. Of
    `sweeps`, `chains` and `temperatures` see `GibbsModel`."""

    net: Deep
    persistent: PersistentChains
    trains_in_phases = True

    def __init__(
        self,
        hidden: tuple[Size, Size] = (100, 100),
        pretrain: NonNegativeInt = 300,
        gibbs: Size = 5,
        mean_field: Size = 10,
        sweeps: Size = 1000,
        chains: Annotated[Size, Ge(2)] = 100,
        temperatures: Size = 1000,
        *,
        shape: Given[tuple[int, ...]],
        levels: Given[int | None],
        seed: Given[int],
        config: Given[dict[str, Any]],
    ) -> None:
        super().__init__(shape=shape, levels=levels, seed=seed, config=config)
        self.net = seeded(lambda: Deep(math.prod(shape), *hidden), seed)  # type: ignore[assignment]
        check_phases("pretrain", pretrain, 2, config)
        self.pretrain, self.gibbs, self.mean_field = pretrain, gibbs, mean_field
        self.sweeps, self.chains, self.temperatures = sweeps, chains, temperatures
        self.persistent = PersistentChains(hidden[0], seed)

    @property
    def joint(self) -> Machine:
        return self.net.joint

    @property
    def links(self) -> list[Tensor]:
        return [self.net.first, self.net.first @ self.net.second]

    def posterior(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of q(h_1) and q(h_2), whose units are independent, by updates that never loosen the bound (Salakhutdinov and
        Hinton 2009, section 2.2). They begin at twice the input from v, in place of that from h_2."""
        net, from_v = self.net, v @ self.net.first + self.net.first_bias
        first = from_v + v @ net.first
        second = first.sigmoid() @ net.second + net.second_bias
        for _ in range(self.mean_field):
            first = from_v + second.sigmoid() @ net.second.mT
            second = first.sigmoid() @ net.second + net.second_bias
        return first, second

    def losses(self, batch: Batch) -> Losses:
        """Per dimension. Parameters that a phase does not train have no gradient."""
        v, phase = self.probabilities(batch.x0), batch.counter // self.pretrain if self.pretrain else 2
        if phase == 0:
            loss = self.contrasted(self.net.lower, torch.cat([v, v], 1), batch)
        elif phase == 1:
            loss = self.contrasted(self.net.upper, self._first_units(v, batch), batch)
        else:
            loss = self._joint_loss(v, batch)
        return Losses({"contrastive": loss}, torch.ones(len(v)))

    @torch.no_grad()
    def _first_units(self, v: Tensor, batch: Batch) -> Tensor:
        """h_1 as `lower` infers it."""
        rows, logits = (batch.counter, batch.first, batch.first + len(v)), self.net.lower.hidden_logits(torch.cat([v, v], 1))
        return bernoulli(logits, rng.uniform(self.seed, "noise", *rows, (logits.shape[1],)))

    def _joint_loss(self, v: Tensor, batch: Batch) -> Tensor:
        """E_q[E(v, h)] − F(h_1 of the chain): the gradient of its mean over data and chains is that of the bound on −log p(v),
        with chains for the machine's own distribution. v and h_2 of the chains are summed over."""
        with torch.no_grad():
            first, second = (logits.sigmoid() for logits in self.posterior(v))
        machine = self.joint
        h = self.persistent.advanced(machine, batch, self.gibbs)
        return (machine.energy(first, torch.cat([v, second], 1)) - machine.free_energy(h)) / v.shape[1]

    def bound_meter(self, stride: int = 1, seed: int = 0) -> WithLogZ:
        """−log p(v) ≤ E_q[E(v, h)] − H(q) + log Z."""

        def bits(x0: Tensor, index: Tensor) -> dict[str, Tensor]:
            v = self.states(x0)
            logits = torch.cat(self.posterior(v), 1)
            first, second = logits.sigmoid().split(self.net.second.shape, 1)
            entropy = bernoulli_nats(logits.sigmoid(), logits)
            energy = self.joint.energy(first, torch.cat([v, second], 1))
            return {"energy": energy / self.nats_per_bpd, "entropy": -entropy / self.nats_per_bpd}

        labels = {"energy": "mean energy under q(h | v)", "entropy": "−entropy of q(h | v)"}
        return self.bound_by(seed, "variational bound", bits, labels)

    def reconstruction(self, v: Tensor) -> Tensor:
        return self.net.visible_bias + self.posterior(v)[0].sigmoid() @ self.net.first.mT
