"""What all models of binary units share: how data in [−1, 1] become units, and units data."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ddpm_lab.core.boltzmann import bernoulli
from ddpm_lab.domains import Given
from ddpm_lab.models.contract import Model, Plain, State
from ddpm_lab.models.readings import Picture


class BinaryModel(Model):
    """A model of v ∈ {0, 1}^V. Training takes grey levels as probabilities (Hinton 2010, "A Practical Guide to Training
    Restricted Boltzmann Machines"); the likelihood is that of data thresholded at 0, and its record has two levels. Samples of
    data with two levels are states of the units. Those of other data are the units' probabilities, which are the conditional
    means of states: another distribution, whose Fréchet distance is another quantity. Their record says so."""

    def __init__(
        self,
        *,
        shape: Given[tuple[int, ...]],
        levels: Given[int | None],
        seed: Given[int],
        config: Given[dict[str, Any]],
    ) -> None:
        super().__init__(shape=shape, levels=levels, seed=seed, config=config)
        if levels is None:
            raise ValueError(f"model: {type(self).__name__} has binary units and takes data with grey levels; these have none")

    def probabilities(self, x0: Tensor) -> Tensor:
        """Grey levels as probabilities, B × V in [0, 1]."""
        return ((x0.flatten(1) + 1) / 2).to(self.dtype)

    def states(self, x0: Tensor) -> Tensor:
        """Grey levels thresholded at 0, B × V of 0 and 1."""
        return (x0.flatten(1) >= 0).to(self.dtype)

    def images(self, units: Tensor) -> Tensor:
        """B × V in [0, 1] as data in [−1, 1]."""
        return (2 * units - 1).view(-1, *self.shape)

    def state(self, label: str, logits: Tensor, u: Tensor) -> State:
        """A sample whose visible units are 1 with probability sigmoid(logits), from u uniform in [0, 1). The estimate of the
        data is the probabilities."""
        x0 = self.images(logits.sigmoid())
        return State(label, self.images(bernoulli(logits, u)) if self.levels == 2 else x0, x0)

    @property
    def nats_per_bpd(self) -> float:
        return math.prod(self.shape) * math.log(2)

    def bound_record(self) -> dict[str, Plain]:
        return {"levels": 2}

    def sample_record(self) -> dict[str, Plain]:
        return {} if self.levels == 2 else {"samples": "probabilities"}

    def filters(self, layers: Iterable[Tensor]) -> Picture:
        """Of each layer weights from the data to its units, V × units: up to 64 units as images in columns of 8, each scaled to
        its largest weight; 0 is grey."""
        columns, labels = [], []
        for i, weights in enumerate(layers, 1):
            units = F.normalize(weights.mT[:64], p=math.inf)
            columns += self.images((F.pad(units, (0, 0, 0, -len(units) % 8)) + 1) / 2).split(8)
            labels += [f"h_{i}", *[""] * (len(columns) - len(labels) - 1)]
        return Picture(columns, labels)


def check_phases(name: str, steps: int, phases: int, config: Mapping[str, Any]) -> None:
    """Raises ValueError where a run is over before its layers have each been trained for so many steps."""
    most = (config.get("trainer") or {}).get("max_steps", math.inf)
    if (needed := steps * phases) > most:
        raise ValueError(
            f"model.{name}={steps}: {phases} layers take {needed} steps, and trainer.max_steps={most}: allowed is at most "
            f"{most // phases}"
        )
