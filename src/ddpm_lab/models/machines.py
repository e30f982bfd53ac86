"""What models that are Boltzmann machines share: chains that persist, log Z, samples by Gibbs sweeps, filters."""

import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.boltzmann import ENUMERABLE, Machine, bernoulli_nats, contrastive_divergence
from ddpm_lab.likelihood.annealed import annealed_log_z
from ddpm_lab.models.binary import BinaryModel
from ddpm_lab.models.contract import Plain, State
from ddpm_lab.models.meter import Shared
from ddpm_lab.models.readings import Picture, Reading

FRAMES = 20
"""States of a sample's chain that are shown, at most."""
EXACT, ANNEALED = "exact", "annealed importance sampling"
"""How log Z is found, as records name it."""


def swept(machine: Machine, v: Tensor, u: Tensor) -> Tensor:
    """The visible units after k sweeps, from u uniform in [0, 1), B × k × (H + V)."""
    for one in u.unbind(1):
        v = machine.sweep(v, one)
    return v


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


class MachineModel(BinaryModel):
    """A Boltzmann machine with the layers v, h_1 and perhaps h_2. Samples are chains of `sweeps` sweeps from random units.
    log Z is exact where one side of `joint` has at most 20 units, else estimated by annealed importance sampling with `chains`
    and `temperatures`."""

    gibbs: int
    persistent: PersistentChains | None
    sweeps: int
    chains: int
    temperatures: int

    @property
    @abstractmethod
    def joint(self) -> Machine:
        """The distribution as that of a machine whose visible layer is h_1, and whose hidden layer is v, followed by h_2."""

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

    # --- likelihood -----------------------------------------------------------------------------------------------------

    @property
    def nats_per_bpd(self) -> float:
        return math.prod(self.shape) * math.log(2)

    @property
    def enumerable(self) -> bool:
        return min(self.joint.weights.shape) <= ENUMERABLE

    @property
    def log_z_by(self) -> str:
        return EXACT if self.enumerable else ANNEALED

    @torch.no_grad()
    def log_z(self, seed: int) -> Shared:
        """In bits/dim."""
        machine, unit = self.joint, self.nats_per_bpd
        if self.enumerable:
            return Shared("log_z", "log Z", float(machine.log_z()) / unit, 0.0)
        found = annealed_log_z(machine, None, self.chains, self.temperatures, seed)
        label = f"log Z by annealing {found.chains} chains, of which {found.effective:.0f} are effective"
        return Shared("log_z", label, found.log_z / unit, found.se / unit)

    # --- samples --------------------------------------------------------------------------------------------------------

    @property
    def shown_sweeps(self) -> list[int]:
        """After which a sample is shown."""
        return sorted({-(-self.sweeps * i // FRAMES) for i in range(1, FRAMES + 1)})

    @property
    def sample_steps(self) -> int:
        return len(self.shown_sweeps)

    @torch.inference_mode()
    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        machine, shown, V = self.joint, set(self.shown_sweeps), math.prod(self.shape)
        H, others = machine.weights.shape
        h = (rng.uniform(seed, "sampling", 0, start, stop, (H,)) < 0.5).to(machine.weights)
        for sweep in range(1, self.sweeps + 1):
            u = rng.uniform(seed, "sampling", sweep, start, stop, (others + H,))
            if sweep in shown:
                yield self.state(f"sweep {sweep}", machine.hidden_logits(h)[:, :V], u[:, :V])
            h = machine.sweep(h, u)

    # --- what else there is to see --------------------------------------------------------------------------------------

    def readings(self, seed: int = 0) -> dict[str, Reading]:
        def error(x0: Tensor, index: Tensor) -> Tensor:
            v = self.states(x0)
            return bernoulli_nats(v, self.reconstruction(v)) / self.nats_per_bpd

        label = "bits/dim, cross-entropy of reconstructions"
        return {"reconstruction_bpd": Reading(label, "bits/dim", error, {"levels": 2})}

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        back = self.images(self.reconstruction(self.probabilities(x0)).sigmoid())
        columns = [self.filters(weights) for weights in self.links]
        labels = [label for i, layer in enumerate(columns, 1) for label in (f"h_{i}", *[""] * (len(layer) - 1))]
        filters = Picture([image for layer in columns for image in layer], labels)
        return {"reconstructions": Picture([x0, back], ["data", "mean field"]), "filters": filters}

    def filters(self, weights: Tensor) -> list[Tensor]:
        """Weights V × n of up to 64 units as images, each scaled to its largest weight, in columns of 8; 0 is grey."""
        some = weights.mT[:64]
        some = some / some.abs().amax(1, keepdim=True).clamp(min=1e-12)
        return list(self.images((F.pad(some, (0, 0, 0, -len(some) % 8)) + 1) / 2).split(8))

    def sample_record(self) -> dict[str, Plain]:
        return {"sampler": "gibbs", "steps": self.sweeps}
