"""What models that are Boltzmann machines share: chains that persist, samples, reconstructions, filters."""

import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.boltzmann import Machine, bernoulli_nats, contrastive_divergence
from ddpm_lab.models.contract import State
from ddpm_lab.models.gibbs import GibbsModel, swept
from ddpm_lab.models.readings import Picture, Reading


class PersistentChains:
    """Of persistent contrastive divergence (Tieleman 2008): a chain for each row of a batch, which goes on from batch to batch.

    Every process holds all chains and advances them once for each batch. So they are the same for every number of processes,
    and of pieces of a batch.
    """

    def __init__(self, units: int, seed: int) -> None:
        self.seed, self.states = seed, torch.empty(0, units)
        self._counter: int | None = None

    @torch.no_grad()
    def advanced(self, machine: Machine, batch: Batch, sweeps: int) -> Tensor:
        """Visible units of the machine, one row for each of the batch's, after `sweeps` sweeps from the batch before. They
        begin at random, and anew where the size of a batch has changed."""
        if batch.counter != self._counter:
            units = self.states.shape[1]
            if len(self.states) != batch.size:
                self.states = (rng.uniform(self.seed, "init", 0, 0, batch.size, (units,)) < 0.5).float()
            u = rng.uniform(self.seed, "gibbs", batch.counter, 0, batch.size, (sweeps, sum(machine.weights.shape)))
            self.states, self._counter = swept(machine, self.states.to(machine.weights), u), batch.counter
        return self.states[batch.first : batch.first + len(batch.x0)]

    def load(self, states: Tensor) -> None:
        """Raises ValueError for what are no states of these units."""
        units = self.states.shape[1]
        if states.ndim != 2 or states.shape[1] != units or not ((states == 0) | (states == 1)).all():
            raise ValueError(f"chains: allowed are zeros and ones, in rows of {units}")
        self.states, self._counter = states.clone(), None


class MachineModel(GibbsModel):
    """A Boltzmann machine with the layers v, h_1 and perhaps h_2. `joint` is the whole distribution, as that of a machine
    whose visible layer is h_1, and whose hidden layer is v, followed by h_2. Chains of samples begin at random units."""

    gibbs: int
    persistent: PersistentChains | None

    @property
    @abstractmethod
    def links(self) -> list[Tensor]:
        """Of each hidden layer the weights from the data to its units, V × units: products of those between layers."""

    @abstractmethod
    def reconstruction(self, v: Tensor) -> Tensor:
        """Logits of the visible units, given the means of the hidden units that were inferred of v."""

    # --- training -------------------------------------------------------------------------------------------------------

    def training_state(self) -> dict[str, Tensor]:
        return {} if self.persistent is None else {"chains": self.persistent.states}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        if self.persistent is not None:
            self.persistent.load(state["chains"])

    def contrasted(self, machine: Machine, v0: Tensor, batch: Batch) -> Tensor:
        """CD-k per dimension of the data, k = `gibbs`, with chains that begin at v_0."""
        rows = (batch.counter, batch.first, batch.first + len(v0))
        u = rng.uniform(self.seed, "gibbs", *rows, (self.gibbs, sum(machine.weights.shape)))
        with torch.no_grad():
            vk = swept(machine, v0, u)
        return contrastive_divergence(machine, v0, vk) / math.prod(self.shape)

    # --- samples --------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        machine, V = self.joint, math.prod(self.shape)
        h = (rng.uniform(seed, "sampling", 0, start, stop, (len(machine.visible_bias),)) < 0.5).to(machine.weights)
        for label, before, u, _ in self.shown(h, start, stop, seed):
            yield self.state(label, machine.hidden_logits(before)[:, :V], u[:, :V])

    # --- what else there is to see --------------------------------------------------------------------------------------

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        def error(x0: Tensor, index: Tensor) -> Tensor:
            v = self.states(x0)
            return bernoulli_nats(v, self.reconstruction(v)) / self.nats_per_bpd

        label = "bits/dim, cross-entropy of reconstructions"
        return {"reconstruction_cross_entropy": Reading(label, "bits/dim", error, {"levels": 2})}

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        back = self.images(self.reconstruction(self.probabilities(x0)).sigmoid())
        return {"reconstructions": Picture([x0, back], ["data", "mean field"]), "filters": self.filters(self.links)}
