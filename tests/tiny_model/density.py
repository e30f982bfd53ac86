"""A factorised categorical density over grey levels: trained by maximum likelihood, its bits/dim and its samples are exact."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ddpm_lab import ranks
from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.grey import nearest_level, scale
from ddpm_lab.domains import Given, checked
from ddpm_lab.models.contract import Losses, Meter, Model, Part, Plain, State


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

    def bound_meter(self, stride: int = 1, seed: int = 0) -> "Exact":
        return Exact(self)

    def card(self, x0: Tensor) -> list[str]:
        return [f"{self.bits(x0).mean():.3f} bits/dim before training"]

    def sample_record(self) -> dict[str, Plain]:
        return {"sampler": "inverse_cdf", "steps": 1}

    def bound_record(self) -> dict[str, Plain]:
        return {"steps": 1}


class Likelihood(NamedTuple):
    total_bpd: float
    total_se: float
    n: int


class Exact(Meter):
    """No bound, and nothing random."""

    label = "exact likelihood"

    def __init__(self, model: Categorical) -> None:
        self.model = model
        self.index, self.bits = torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.float64)

    @torch.inference_mode()
    def add(self, x0: Tensor, first: int) -> None:
        self.index = torch.cat([self.index, torch.arange(first, first + len(x0))])
        self.bits = torch.cat([self.bits, self.model.bits(x0).double().cpu()])

    def state(self) -> dict[str, Tensor]:
        return {"index": self.index, "bits": self.bits}

    def merge(self, state: dict[str, Tensor]) -> None:
        self.index, self.bits = (torch.cat([getattr(self, name), state[name]]) for name in ("index", "bits"))

    def gather(self) -> None:
        self.index, self.bits = (torch.cat(ranks.gather(x)) for x in (self.index, self.bits))

    def result(self) -> Likelihood:
        if len(self.bits) < 2:
            raise ValueError("a standard error needs at least 2 data")
        return Likelihood(float(self.bits.mean()), float(self.bits.std()) / math.sqrt(len(self.bits)), len(self.bits))

    def parts(self) -> list[Part]:
        return []

    def record(self) -> dict[str, Plain]:
        return {"stride": 1}

    def arrays(self) -> dict[str, Any]:
        result, order = self.result(), self.index.argsort()
        terms = {"times": [1], "terms_bpd": [result.total_bpd], "terms_se": [result.total_se], "terms_n": [result.n]}
        per_datum = {"index": self.index[order], "per_datum_bpd": self.bits[order]}
        per_datum["per_datum_prior_bpd"] = torch.zeros_like(self.bits)
        return terms | per_datum | {"prior_bpd": 0.0, "n": result.n, "stride": 1}
