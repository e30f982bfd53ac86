"""Points whose density is known, so that a bound can be held against the truth."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.data.memory import InMemory
from ddpm_lab.domains import HalfOpenUnit, NonNegativeInt, PositiveFloat, PositiveInt, Size, checked


@checked
@dataclass(eq=False)
class GaussianMixture(InMemory):
    """Equal isotropic Gaussians, evenly spaced on a ring in the plane; each is a class. Data are float, without grey levels."""

    gives = "vectors"
    levels = None

    components: PositiveInt = 8
    radius: PositiveFloat = 0.8
    std: PositiveFloat = 0.08
    n_train: PositiveInt = 20000
    n_val: Annotated[int, Ge(2)] = 2000
    batch_size: Size = 512
    split_seed: NonNegativeInt = 0
    conditional: bool = False
    label_dropout: HalfOpenUnit = 0.1

    @property
    def labelled(self) -> bool:
        return True

    @property
    def means(self) -> Tensor:
        """components×2, float64."""
        angle = torch.arange(self.components, dtype=torch.float64) * (2 * math.pi / self.components)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def load(self) -> tuple[Tensor, Tensor]:
        n = self.n_train + self.n_val
        self.classes = self.components
        which = (rng.uniform(self.split_seed, "data", 1, 0, n) * self.components).long()
        points = (self.means[which] + self.std * rng.normal((2,), self.split_seed, "data", 2, 0, n)).float()
        self.train_labels, self.val_labels = which[: self.n_train], which[self.n_train :]
        return points[: self.n_train], points[self.n_train :]

    def log_prob(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log density in nats, float64: N×2 → N. With labels, N int64, that of each point's own Gaussian."""
        squared = ((x.double()[:, None] - self.means) ** 2).sum(-1)
        each = -squared / (2 * self.std**2) - math.log(2 * math.pi * self.std**2)
        if labels is not None:
            return each.gather(1, labels[:, None]).squeeze(1)
        return each.logsumexp(1) - math.log(self.components)

    def known_bpd(self) -> float:
        """Given the classes, if the data are conditional."""
        density = self.log_prob(self.val_images, *self.condition("val", 0, None))
        return float(-density.mean()) / (2 * math.log(2))
