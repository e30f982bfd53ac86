"""Fréchet distance of samples to training data, in the features of an extractor."""

import functools
import logging
import math
from collections.abc import Iterator
from typing import Annotated

from annotated_types import Ge
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.core.grey import quantise
from ddpm_lab.domains import ClosedUnit, NonNegativeInt, PositiveInt, checked
from ddpm_lab.errors import UserError
from ddpm_lab.metrics import cache
from ddpm_lab.metrics.extractors import Extractor
from ddpm_lab.metrics.frechet import FeatureStats, frechet_distance, stats_of
from ddpm_lab.metrics.record import Result, record
from ddpm_lab.models.contract import Model
from ddpm_lab.pictures import DIVERGED, not_finite
from ddpm_lab.training.results import Parts, log, numerics, parts

logger = logging.getLogger("ddpm_lab")
TwoOrMore = Annotated[int, Ge(2)]


class Reference:
    """Features of real data, of a training run: from the disk where computing them is slow."""

    def __init__(self, extractor: Extractor) -> None:
        self.extractor = extractor
        self._train: FeatureStats | None = None

    def train(self, measured: Parts) -> FeatureStats:
        """Of all training data, without flips."""
        if self._train is None:
            self._train = self.stats(measured, "train", None)
        return self._train

    def stats(self, measured: Parts, split: str, n: int | None) -> FeatureStats:
        """Of the first n of a split; None takes all."""
        module, data = measured

        def features() -> Iterator[Tensor]:
            for batch in data.in_order(split, self.extractor.batch, n):
                yield self.extractor(batch.x0.to(module.device))

        if not self.extractor.slow:
            return together(stats_of(features()))
        identity = {"data": data.fingerprint(), "levels": data.levels, "split": split, "first": n}
        identity |= {"extractor": self.extractor.name} | self.extractor.record
        stats = ranks.agreed(cache.read(identity))
        if stats is None:
            stats = together(stats_of(features()))
            if ranks.rank() == 0:
                cache.write(identity, stats)
        return stats

    def distance(self, measured: Parts, model: Model, n: int, seed: int) -> tuple[float, int]:
        """Of n samples, quantised to the data's grey levels, and how many are not finite: then it is NaN, and a line says
        so."""
        broken = 0

        def features() -> Iterator[Tensor]:
            nonlocal broken
            for x in model.sample_batches(n, seed=seed):
                broken += not_finite(x)
                yield self.extractor(quantise(x, model.levels))

        stats = stats_of(features())
        if broken := sum(ranks.gather(broken)):
            logger.warning(DIVERGED, broken, n)
            return math.nan, broken
        return frechet_distance(together(stats), self.train(measured)), 0


@checked
class FrechetDistance(Callback):
    """The final measurement: n samples as the run draws them against all training data; beside it the distance of as many real
    validation data, or of all there are: what a perfect model would score at that n, which says little about another. The
    extractor names it. Samples and data come in batches, and of their features only the moments are kept."""

    def __init__(self, n: TwoOrMore = 256, seed: NonNegativeInt = 1, *, extractor: Extractor) -> None:
        self.n, self.seed, self.reference = n, seed, Reference(extractor)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_shares("frechet", self.n)

    def final(self, trainer: Trainer, pl_module: LightningModule) -> list[Result]:
        """The distance, and the floor beside it."""
        measured = parts(trainer, pl_module)
        module, data = measured
        extractor = self.reference.extractor
        distance, broken = self.reference.distance(measured, module.eval_model, self.n, self.seed)
        held, train = self.reference.stats(measured, "val", self.n), self.reference.train(measured)
        sha256 = data.state_dict()["sha256"]
        against = {"reference": "train", "n_reference": train.n, "reference_sha256": sha256, "data_sha256": sha256}
        of_samples = record(
            extractor,
            n=self.n,
            split="samples",
            seed=self.seed,
            weights=module.weights,
            step=trainer.global_step,
            **against,
            **numerics(module, samples=True),
            **module.model.sample_record(),
            **({"not_finite": broken} if broken else {}),
        )
        of_data = record(extractor, n=held.n, split="val", levels=data.levels, **against)
        label = f"{extractor.label(self.n)} to {train.n} training data ({self.n} samples)"
        other = "" if held.n == self.n else " (another n: not comparable)"
        of_real, floor = f"the same of {held.n} real validation data{other}", frechet_distance(held, train)
        return [
            Result(extractor.key(self.n), label, distance, None, of_samples),
            Result(f"{extractor.key(held.n)}_real", of_real, floor, None, of_data, level=1),
        ]


@checked
class FrechetCurve(Callback):
    """The distance at every so many validations (0: never), as val/…@n: a curve to watch, with fewer and cheaper samples than
    the final measurement has. `steps` and `eta` replace those of the run's sampler (an eta makes it DDIM); None leaves it as it
    is."""

    def __init__(
        self,
        n: TwoOrMore = 256,
        every: NonNegativeInt = 0,
        seed: NonNegativeInt = 1,
        steps: PositiveInt | None = None,
        eta: ClosedUnit | None = None,
        *,
        extractor: Extractor,
    ) -> None:
        self.n, self.every, self.seed, self.reference = n, every, seed, Reference(extractor)
        self.settings = {"steps": steps, "eta": eta}

    @property
    def key(self) -> str:
        """Of the curve: always with its n."""
        key = self.reference.extractor.key(self.n)
        return key if "@" in key else f"{key}@{self.n}"

    def check(self, model: Model) -> None:
        """Raises UserError for steps or an eta that samples of this model do not have. Called before a run has a folder."""
        try:
            model.sampling(**self.settings if self.every else {})
        except ValueError as error:
            raise UserError(f"callbacks.frechet_curve: {error}") from error

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every:
            check_shares("frechet_curve", self.n)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        validations = trainer.global_step * trainer.accumulate_grad_batches // (trainer.val_check_batch or 1)
        if self.every and validations % self.every == 0:
            measured = parts(trainer, pl_module)
            model = measured.module.eval_model.sampling(**self.settings)
            distance, broken = self.reference.distance(measured, model, self.n, self.seed)
            if not broken:
                log(trainer, {f"val/{self.key}": distance})


def check_shares(name: str, n: int) -> None:
    """Raises UserError where a process would have no sample."""
    if n < ranks.world():
        raise UserError(f"callbacks.{name}.n={n}: {ranks.world()} processes share them, so at least as many are needed")


def together(stats: FeatureStats) -> FeatureStats:
    """The statistics of what all processes have seen."""
    return functools.reduce(FeatureStats.plus, ranks.gather(stats))
