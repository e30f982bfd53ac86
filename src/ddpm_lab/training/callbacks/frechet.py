"""Fréchet distance of samples to training data, in the features of an extractor."""

import functools
import logging
import math
from collections.abc import Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.core.grey import quantise
from ddpm_lab.errors import UserError
from ddpm_lab.metrics import cache
from ddpm_lab.metrics.extractors import Extractor
from ddpm_lab.metrics.frechet import FeatureStats, frechet_distance, stats_of
from ddpm_lab.metrics.record import Result
from ddpm_lab.pictures import DIVERGED, not_finite
from ddpm_lab.training.module import DiffusionModule
from ddpm_lab.training.results import log, parts

log_ = logging.getLogger("ddpm_lab")


class FrechetDistance(Callback):
    """n samples by the run's sampler, quantised to the data's grey levels, against all training data without flips; beside it
    the same distance of as many real validation data, or of all there are: what a perfect model would score at that n, which
    says little about another. The extractor names it.
    Samples and data come in batches, and of their features only the moments are kept."""

    def __init__(self, n: int, every: int, seed: int, extractor: Extractor) -> None:
        self.n, self.every, self.seed, self.extractor = n, every, seed, extractor
        self._validations = 0
        self._train: FeatureStats | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.n < ranks.world():
            raise UserError(
                f"callbacks.frechet.n={self.n}: {ranks.world()} processes share them, so at least as many are needed"
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validations += 1
        if self.every and self._validations % self.every == 0:
            module, data = parts(trainer, pl_module)
            distance, broken = self._distance(module, data)
            if not broken:
                log(trainer, {f"val/{self.extractor.key(self.n)}": distance})

    def final(self, trainer: Trainer, pl_module: LightningModule) -> list[Result]:
        """The distance, and the floor beside it."""
        module, data = parts(trainer, pl_module)
        (distance, broken), levels, sampler = self._distance(module, data), module.diffusion.levels, module.sampler
        held, train = self._real(module, data, "val", self.n), self._reference(module, data)
        record = {
            "extractor": self.extractor.name, "reference": "train", "n_reference": train.n, "quantised_levels": levels,
        } | self.extractor.record  # fmt: skip
        own = {
            "n": self.n, "seed": self.seed, "weights": module.weights, "sampler": type(sampler).__name__,
            "steps": len(sampler.chain(module.diffusion.schedule)), "spacing": sampler.spacing,
            "clip": module.diffusion.clips if sampler.clip is None else sampler.clip,
            "variance": type(module.diffusion.variance).__name__,
            "precision": "bf16-mixed" if module.sample_in_bf16 else str(module.dtype),
            "tf32": module.device.type == "cuda" and torch.backends.cudnn.allow_tf32,
        }  # fmt: skip
        label = f"{self.extractor.label(self.n)} to {train.n} training data ({self.n} samples)"
        other = "" if held.n == self.n else " (another n: not comparable)"
        floor, of_floor = frechet_distance(held, train), {"n": held.n, "split": "validation"}
        own |= {"not_finite": broken} if broken else {}
        return [
            Result(self.extractor.key(self.n), label, distance, None, record | own),
            Result(f"{self.extractor.key(held.n)}_real", f"    the same of {held.n} real validation data{other}", floor, None,
                   record | of_floor),
        ]  # fmt: skip

    def _distance(self, module: DiffusionModule, data: Any) -> tuple[float, int]:
        """With how many samples are not finite: then it is NaN, and a line says so."""
        broken = 0

        def features() -> Iterator[Tensor]:
            nonlocal broken
            for x in module.sample_batches(self.n, seed=self.seed):
                broken += not_finite(x)
                yield self.extractor(quantise(x, module.diffusion.levels))

        stats = stats_of(features())
        if broken := sum(ranks.gather(broken)):
            log_.warning(DIVERGED, broken, self.n)
            return math.nan, broken
        return frechet_distance(together(stats), self._reference(module, data)), 0

    def _reference(self, module: DiffusionModule, data: Any) -> FeatureStats:
        if self._train is None:
            self._train = self._real(module, data, "train", None)
        return self._train

    def _real(self, module: DiffusionModule, data: Any, split: str, n: int | None) -> FeatureStats:
        """Of the first n of a split (None: all), from the disk where computing them is slow."""

        def features() -> Iterator[Tensor]:
            for batch in data.in_order(split, self.extractor.batch, n):
                yield self.extractor(batch.x0.to(module.device))

        if not self.extractor.slow:
            return together(stats_of(features()))
        about = {"data": data.fingerprint(), "levels": data.levels, "split": split, "first": n}
        about |= {"extractor": self.extractor.name} | self.extractor.record
        stats = ranks.agreed(cache.read(about))
        if stats is None:
            stats = together(stats_of(features()))
            if ranks.rank() == 0:
                cache.write(about, stats)
        return stats

    def state_dict(self) -> dict[str, int]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._validations = state_dict["validations"]


def together(stats: FeatureStats) -> FeatureStats:
    """The statistics of what all processes have seen."""
    return functools.reduce(FeatureStats.plus, ranks.gather(stats))
