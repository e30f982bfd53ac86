"""Deep belief nets (Hinton, Osindero & Teh 2006): the two upper layers are a restricted Boltzmann machine, those below it are
drawn downwards. They are trained as a stack of machines, each on what the one below infers, then all together."""

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.boltzmann import Machine, bernoulli, contrastive_divergence
from ddpm_lab.domains import Given, PositiveInt, Size, checked
from ddpm_lab.models.belief import LABELS, BeliefModel, BeliefNet
from ddpm_lab.models.binary import check_phases
from ddpm_lab.models.contract import Losses, State
from ddpm_lab.models.gibbs import GibbsModel, WithLogZ, swept
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
class DBN(BeliefModel, GibbsModel):
    """`hidden`: units of each hidden layer, from the data upwards. The machine of each layer is trained for `steps_per_layer`
    steps by CD-k, k = `gibbs`; then all by wake-sleep, or without `fine_tune` the upper machine alone. A sample is made by
    Gibbs sweeps of the upper machine from random units, and one pass downwards. Of `sweeps`, `chains` and `temperatures` see
    `GibbsModel`."""

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
        last = swept(machine, h, rng.uniform(self.seed, "gibbs", *rows, (self.gibbs, sum(machine.weights.shape))))
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
    def joint(self) -> Machine:
        """The upper machine."""
        return self.net.upper

    @property
    def annealed_from(self) -> Tensor:
        return self.joint.visible_bias.sigmoid()

    @torch.inference_mode()
    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        net, weights = self.net, self.joint.weights
        first, down = rng.uniform(seed, "sampling", 0, start, stop, (sum(net.sizes),)).tensor_split([net.sizes[-1]], 1)
        h = bernoulli(torch.zeros(first.shape).to(weights), first)
        for label, _, _, last in self.shown(h, start, stop, seed):
            logits = net.generative[0](net.generate(last, down)[1])
            yield self.state(label, logits, down[:, -net.sizes[0] :])

    def bound_meter(self, stride: int = 1, seed: int = 0) -> WithLogZ:
        labels = LABELS | {"hidden": "log q(h | v) − log p(h) − log Z"}
        return self.bound_by(seed, f"variational bound of {self.draws} draws", self.bound(seed), labels)

    @torch.inference_mode()
    def pictures(self, x0: Tensor, seed: int = 0) -> dict[str, Picture]:
        """Reconstructions, and units of each hidden layer as images: products of the weights down to the data."""
        weights = [self.net.machine(layer).weights for layer in range(len(self.net.sizes))]
        return super().pictures(x0, seed) | {"filters": self.filters(itertools.accumulate(weights, torch.matmul))}
