"""A factorised categorical density over grey levels: trained by maximum likelihood, its bits/dim and its samples are exact."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.grey import nearest_level, scale
from ddpm_lab.domains import Given, checked
from ddpm_lab.models.contract import Losses, Model, Plain, State
from ddpm_lab.models.meter import PerDatum


class Logits(nn.Module):
    """One row per pixel, one column per grey level."""

    def __init__(self, pixels: int, levels: int, start: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((pixels, levels), start))


@checked
class Categorical(Model):
    """p(x) = Π_i p_i(x_i)."""

    def __init__(
        self,
        start: float = 0.0,
        *,
        shape: Given[tuple[int, ...]],
        levels: Given[int | None],
        seed: Given[int],
        config: Given[dict[str, Any]],
    ) -> None:
        super().__init__(shape=shape, levels=levels, seed=seed, config=config)
        if levels is None:
            raise ValueError("a categorical density needs data with grey levels")
        self.net = Logits(math.prod(shape), levels, start)

    def bits(self, x0: Tensor) -> Tensor:
        """−log2 p(x) per dimension, of each datum."""
        assert self.levels is not None
        level = nearest_level(x0.flatten(1), self.levels).long()
        log_p = self.net.table.log_softmax(1).expand(len(x0), -1, -1).gather(2, level[..., None])
        return -log_p.squeeze(2).mean(1) / math.log(2)

    def losses(self, batch: Batch) -> Losses:
        return Losses({"bits": self.bits(batch.x0)}, torch.ones(len(batch.x0)))

    @torch.inference_mode()
    def sample_states(self, start: int, stop: int, seed: int = 0) -> Iterator[State]:
        assert self.levels is not None
        u = rng.uniform(seed, "sampling", 0, start, stop, (math.prod(self.shape), 1)).to(self.device)
        cdf = self.net.table.double().softmax(1).cumsum(1)
        level = (u > cdf).sum(2).clamp(max=self.levels - 1)
        x = scale(level, self.levels).view(-1, *self.shape)
        yield State("x", x, x)

    def bound_meter(self, stride: int = 1, seed: int = 0) -> PerDatum:
        """No bound, and nothing random."""
        return PerDatum(
            "exact likelihood", lambda x0, index: {"bits": self.bits(x0)}, {"bits": "bits"}, how={"likelihood": "exact"}
        )

    def card(self, x0: Tensor) -> list[str]:
        return [f"{self.bits(x0).mean():.3f} bits/dim before training"]

    def sample_record(self) -> dict[str, Plain]:
        return {"sampler": "inverse_cdf", "steps": 1}

    def bound_record(self) -> dict[str, Plain]:
        return {"steps": 1}
