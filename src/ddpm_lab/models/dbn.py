"""Deep belief nets (Hinton, Osindero & Teh 2006): the two upper layers are a restricted Boltzmann machine, those below it are
drawn downwards. They are trained as a stack of machines, each on what the one below infers, then all together."""

import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.boltzmann import ENUMERABLE, Machine, bernoulli, contrastive_divergence
from ddpm_lab.domains import Given, PositiveInt, Size, checked
from ddpm_lab.likelihood.annealed import annealed_log_z
from ddpm_lab.models.belief import LABELS, BeliefModel, BeliefNet
from ddpm_lab.models.binary import check_phases
from ddpm_lab.models.contract import Losses, Plain, State
from ddpm_lab.models.meter import PerDatum, Shared
from ddpm_lab.models.networks import seeded
from ddpm_lab.models.readings import Picture


class DeepBeliefNet(BeliefNet):
    """`sizes`: units of v, h_1, …, h_N. As a belief net it ends at h_L, L = N − 1, the visible layer of the upper machine, of
    which `top` has the weights and the hidden bias. Generative and recognition weights are equal at first."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__(sizes[:-1])
        self.top = nn.Linear(sizes[-2], sizes[-1])
        with torch.no_grad():
            for p, q in zip(self.generative, self.recognition, strict=True):
                q.weight.copy_(p.weight.mT)

    def machine(self, layer: int) -> Machine:
        """Of h_layer and the layer above it. Its weights are the mean of the generative and the recognition weights: these
        have the same gradient, and stay equal as long as this machine alone is trained. (The upper one has one kind.)"""
        if layer == len(self.generative):
            return Machine(self.top.weight.mT, self.top_bias, self.top.bias)
        p, q = self.generative[layer], self.recognition[layer]
        return Machine((p.weight + q.weight.mT) / 2, p.bias, q.bias)

    @property
    def upper(self) -> Machine:
        return self.machine(len(self.generative))

    def top_nats(self, h: Tensor) -> Tensor:
        """F(h) = −log p(h_L) − log Z."""
        return self.upper.free_energy(h)


@checked
class DBN(BeliefModel):
    """`hidden`: units of each hidden layer, from the data upwards. The machine of each layer is trained for `steps_per_layer`
    steps by CD-k, k = `gibbs`; then all by wake-sleep, or without `fine_tune` the upper machine alone. A sample is made by
    `sweeps` Gibbs sweeps of the upper machine from random units, and one pass downwards. log Z of more than 20 units is
    estimated by annealed importance sampling with `chains` and `temperatures`."""

    net: DeepBeliefNet  # type: ignore[assignment]
    trains_in_phases = True

    def __init__(
        self,
        hidden: tuple[Size, ...] = (100, 100),
        steps_per_layer: PositiveInt = 600,
        fine_tune: bool = True,
        gibbs: Size = 1,
        sweeps: Size = 200,
        draws: Size = 20,
        chains: Annotated[Size, Ge(2)] = 100,
        temperatures: Size = 1000,
        *,
        shape: Given[tuple[int, ...]],
        levels: Given[int | None],
        seed: Given[int],
        config: Given[dict[str, Any]],
    ) -> None:
        super().__init__(shape=shape, levels=levels, seed=seed, config=config)
        if len(hidden) < 2:
            raise ValueError(f"hidden={list(hidden)}: a deep belief net has two hidden layers or more")
        self.net = seeded(lambda: DeepBeliefNet((math.prod(shape), *hidden)), seed)
        check_phases("steps_per_layer", steps_per_layer, len(hidden), config)
        self.steps_per_layer, self.fine_tune, self.gibbs = steps_per_layer, fine_tune, gibbs
        self.sweeps, self.draws, self.chains, self.temperatures = sweeps, draws, chains, temperatures

    def losses(self, batch: Batch) -> Losses:
        """Per dimension. Weights that a phase does not train have no gradient."""
        net, rows = self.net, (batch.counter, batch.first, batch.first + len(batch.x0))
        layers = net.infer(self.probabilities(batch.x0), rng.uniform(self.seed, "wake", *rows, (sum(net.sizes[1:]),)))
        phase, highest = batch.counter // self.steps_per_layer, len(net.generative)
        machine, h = net.machine(min(phase, highest)), layers[min(phase, highest)]
        last = h
        for u in rng.uniform(self.seed, "gibbs", *rows, (self.gibbs, sum(machine.weights.shape))).unbind(1):
            last = machine.sweep(last, u)
        parts = {"contrastive": contrastive_divergence(machine, h, last)}
        if self.fine_tune and phase > highest:
            parts |= self._wake_sleep(layers, last, rows)
        return Losses({name: part / net.sizes[0] for name, part in parts.items()}, torch.ones(len(batch.x0)))

    def _wake_sleep(self, layers: list[Tensor], last: Tensor, rows: tuple[int, int, int]) -> dict[str, Tensor]:
        """The up-down algorithm of Hinton, Osindero & Teh 2006, appendix B: dreams begin where the chain of the upper machine,
        which began at what was inferred, ends."""
        asleep = self.net.generate(last, rng.uniform(self.seed, "sleep", *rows, (sum(self.net.sizes[:-1]),)))
        return {"wake": self.net.generative_nats(layers).sum(0), "sleep": self.net.recognition_nats(asleep).sum(0)}

    @property
    def sample_steps(self) -> int:
        return min(self.sweeps, 20)

    @torch.inference_mode()
    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        net, machine, units = self.net, self.net.upper, sum(self.net.upper.weights.shape)
        first, down = rng.uniform(seed, "sampling", 0, start, stop, (sum(net.sizes),)).tensor_split([net.sizes[-1]], 1)
        h = bernoulli(torch.zeros(first.shape).to(machine.weights), first)
        shown = set(torch.linspace(0, self.sweeps, self.sample_steps + 1).round().int().tolist())
        for sweep in range(1, self.sweeps + 1):
            h = machine.sweep(h, rng.uniform(seed, "sampling", sweep, start, stop, (units,)))
            if sweep in shown:
                logits = net.generative[0](net.generate(h, down)[1])
                yield self.state(f"sweep {sweep}", logits, down[:, -net.sizes[0] :])

    @torch.no_grad()
    def log_z(self, seed: int) -> Shared:
        """Of the upper machine, in bits/dim."""
        machine, unit = self.net.upper, self.nats_per_bpd
        if min(machine.weights.shape) <= ENUMERABLE:
            return Shared("log_z", "log Z, by enumeration", float(machine.log_z()) / unit, 0.0)
        found = annealed_log_z(machine, machine.visible_bias.sigmoid(), self.chains, self.temperatures, seed)
        return Shared("log_z", "log Z, by annealed importance sampling", found.log_z / unit, found.se / unit)

    def bound_meter(self, stride: int = 1, seed: int = 0) -> PerDatum:
        labels = LABELS | {"hidden": "log q(h | v) − log p(h) − log Z"}
        return PerDatum(f"variational bound of {self.draws} draws", self.bound(seed), labels, lambda: self.log_z(seed))

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        """Reconstructions, and 64 units of each hidden layer as images: products of the weights down to the data."""
        columns, labels, weights = [], [], torch.eye(self.net.sizes[0], device=self.device, dtype=self.dtype)
        for layer in range(len(self.net.sizes)):
            weights = weights @ self.net.machine(layer).weights
            units = F.normalize(weights.mT[:64], p=math.inf)
            columns += self.images((F.pad(units, (0, 0, 0, -len(units) % 8)) + 1) / 2).split(8)
            labels += [f"h_{layer + 1}", *[""] * (len(columns) - len(labels) - 1)]
        return super().pictures(x0, seed) | {"filters": Picture(columns, labels)}

    def sample_record(self) -> dict[str, Plain]:
        return {"sampler": "gibbs", "steps": self.sweeps}
