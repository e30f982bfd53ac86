"""What is measured: a trained network with its data, and the choices it is measured under."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ddpm_lab.core.analytic import Analytic, Gamma
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.grey import scale
from ddpm_lab.core.path import Chain
from ddpm_lab.core.sampler import Sampler
from ddpm_lab.core.variance import ReverseVariance
from ddpm_lab.data.memory import InMemory
from ddpm_lab.evaluation.store import Store
from ddpm_lab.models.run import Run


@dataclass
class Subject:
    """A trained network, the data of its run, and where what is measured of them is kept."""

    run: Run
    data: InMemory
    checkpoint: Path
    seed: int
    batch: int
    store: Store

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What every measurement of this network depends on."""
        with self.checkpoint.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "checkpoint_sha256": sha256, "weights": self.run.weights, "seed": self.seed, "data": self.data.fingerprint(),
            "precision": self.precision,
        }  # fmt: skip

    @property
    def told(self) -> str:
        """In a line."""
        return f"{self.checkpoint}, step {self.run.step}, weights {self.run.weights}, seed {self.seed}"

    @property
    def precision(self) -> str:
        """Of the network's numbers: the bound and samples are measured without autocast."""
        return str(self.run.model.dtype).removeprefix("torch.")

    def x0(self, split: str, start: int, stop: int) -> Tensor:
        """Data start..stop−1 of a split, in [−1, 1], as the network takes them."""
        like = next(self.run.net.parameters())
        return scale(self.data.raw(split)[start:stop], self.data.levels).to(like)

    @property
    def device(self) -> torch.device:
        return self.run.device


class Choice(NamedTuple):
    """A sampler and a reverse variance, with what their files say of them."""

    sampler: Sampler
    sampler_name: str
    about_sampler: dict[str, Any]
    variance: ReverseVariance
    variance_name: str
    about_variance: dict[str, Any]
    gamma: Gamma | None = None
    """What an analytic variance rests on."""

    def diffusion(self, trained: GaussianDiffusion) -> GaussianDiffusion:
        """The trained one, with this variance."""
        return replace(trained, variance=self.variance)

    def clips(self, trained: GaussianDiffusion) -> bool:
        """Whether the sampler limits x̂_0 to [−1, 1]."""
        return trained.clips if self.sampler.clip is None else self.sampler.clip

    def chain(self, trained: GaussianDiffusion) -> Chain:
        """The times that the sampler visits."""
        return self.sampler.chain(trained.schedule)

    @property
    def variance_of_samples(self) -> str:
        """ "any" where the sampler looks at none."""
        return self.variance_name if self.sampler.uses(self.variance) else "any"

    def about_samples(self, trained: GaussianDiffusion) -> dict[str, Any]:
        """All that its samples depend on besides the network: the variance only where the sampler looks at it."""
        sampler = self.about_sampler | {
            "steps": len(self.chain(trained)), "spacing": self.sampler.spacing, "clip": self.clips(trained),
        }  # fmt: skip
        return {"sampler": sampler, "variance": self.about_variance if self.sampler.uses(self.variance) else None}

    def clipped(self) -> dict[str, int]:
        """Of an analytic variance, at how many times the estimated variance of x_0 lay outside [0, 1] and was cut."""
        if not isinstance(self.variance, Analytic) or self.gamma is None:
            return {}
        low, high = self.variance.clipped
        return {
            "gamma_n": self.gamma.n,
            "gamma_times": len(self.gamma.times),
            "cov_clipped_at_0": low,
            "cov_clipped_at_1": high,
        }
