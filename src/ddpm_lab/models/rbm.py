"""The restricted Boltzmann machine (Smolensky 1986), trained by contrastive divergence (Hinton 2002), also with chains that
persist (Tieleman 2008)."""

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ddpm_lab.core.batch import Batch
from ddpm_lab.core.boltzmann import Machine, contrastive_divergence
from ddpm_lab.domains import Given, Size, checked
from ddpm_lab.models.contract import Losses
from ddpm_lab.models.gibbs import ANNEALED, WithLogZ
from ddpm_lab.models.machines import MachineModel, PersistentChains
from ddpm_lab.models.networks import seeded


class Restricted(nn.Module):
    """The parameters of a machine. Weights begin as N(0, 0.01²) (Hinton 2010, section 8)."""

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(0.01 * torch.randn(visible, hidden))
        self.visible_bias, self.hidden_bias = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(hidden))

    @property
    def machine(self) -> Machine:
        return Machine(self.weights, self.visible_bias, self.hidden_bias)


@checked
class RBM(MachineModel):
    """`hidden`: units. Training is CD-k, k = `gibbs`; its chains begin at the data, or are `persistent`. Of `sweeps`, `chains`
    and `temperatures` see `GibbsModel`."""

    net: Restricted

    def __init__(
        self,
        hidden: Size = 128,
        gibbs: Size = 5,
        persistent: bool = True,
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
        self.net = seeded(lambda: Restricted(math.prod(shape), hidden), seed)  # type: ignore[assignment]
        self.gibbs, self.sweeps, self.chains, self.temperatures = gibbs, sweeps, chains, temperatures
        self.persistent = PersistentChains(math.prod(shape), seed) if persistent else None

    @property
    def joint(self) -> Machine:
        return self.net.machine.turned()

    @property
    def links(self) -> list[Tensor]:
        return [self.net.weights]

    def losses(self, batch: Batch) -> Losses:
        machine, v0 = self.net.machine, self.probabilities(batch.x0)
        if self.persistent is None:
            loss = self.contrasted(machine, v0, batch)
        else:
            vk = self.persistent.advanced(machine, batch, self.gibbs)
            loss = contrastive_divergence(machine, v0, vk) / len(machine.visible_bias)
        return Losses({"contrastive": loss}, torch.ones(len(v0)))

    def bound_meter(self, stride: int = 1, seed: int = 0) -> WithLogZ:
        """−log p(v) = F(v) + log Z: no bound."""

        def bits(x0: Tensor, index: Tensor) -> dict[str, Tensor]:
            return {"free_energy": self.net.machine.free_energy(self.states(x0)) / self.nats_per_bpd}

        label, how = ("exact likelihood", "exact") if self.enumerable else ("likelihood by an estimate of log Z", ANNEALED)
        return WithLogZ(label, bits, {"free_energy": "free energy"}, lambda: self.log_z(seed), {"likelihood": how})

    def reconstruction(self, v: Tensor) -> Tensor:
        machine = self.net.machine
        return machine.visible_logits(machine.hidden_logits(v).sigmoid())
