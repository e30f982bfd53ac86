"""Fréchet distance of samples to training data, in the features of an extractor."""

import functools
import logging
import math
from collections.abc import Iterator
from typing import Annotated, Any

from annotated_types import Ge
from lightning import Callback, Trainer
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
from ddpm_lab.pictures import diverged, not_finite
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.results import how_measured, log

logger = logging.getLogger("ddpm_lab")
TwoOrMore = Annotated[int, Ge(2)]


class Distance(Callback):
    """Of n samples to all training data. Statistics of real data come from the disk where computing them is slow."""

    needs = "samples"

    def __init__(self, n: int, seed: int, extractor: Extractor) -> None:
        self.n, self.seed, self.extractor = n, seed, extractor
        self._train: FeatureStats | None = None

    def check_shares(self, name: str) -> None:
        """Raises UserError where a process would have no sample."""
        if self.n < ranks.world():
            needed = f"{ranks.world()} processes share them, so at least as many are needed"
            raise UserError(f"callbacks.{name}.n={self.n}: {needed}")

    def train(self, module: TrainingModule) -> FeatureStats:
        """Of all training data, without flips."""
        if self._train is None:
            self._train = self.stats(module, "train", None)
        return self._train

    def stats(self, module: TrainingModule, split: str, n: int | None) -> FeatureStats:
        """Of the first n of a split; None takes all."""
        data, extractor = module.data, self.extractor

        def computed() -> FeatureStats:
            batches = data.in_order(split, extractor.batch, n)
            return together(stats_of(extractor(batch.x0.to(module.device)) for batch in batches))

        if not extractor.slow:
            return computed()
        identity = {"data": data.fingerprint(), "levels": data.levels, "split": split, "first": n}
        identity |= {"extractor": extractor.name} | extractor.record
        stats = ranks.agreed(cache.read(identity))
        if stats is None:
            stats = computed()
            if ranks.rank() == 0:
                cache.write(identity, stats)
        return stats

    def distance(self, module: TrainingModule, model: Model) -> tuple[float, int]:
        """Of samples quantised to the data's grey levels, and how many are not finite: then it is NaN, and a line says so."""
        broken = 0

        def features() -> Iterator[Tensor]:
            nonlocal broken
            for x in model.sample_batches(self.n, seed=self.seed):
                broken += not_finite(x)
                yield self.extractor(quantise(x, model.levels))

        stats = stats_of(features())
        if broken := sum(ranks.gather(broken)):
            logger.warning(diverged(broken, self.n, model.levels))
            return math.nan, broken
        return frechet_distance(together(stats), self.train(module)), 0


@checked
class FrechetDistance(Distance):
    """The final measurement: n samples as the run draws them against all training data; beside it the distance of as many real
    validation data, or of all there are: what a perfect model would score at that n, which says little about another. The
    extractor names it. Samples and data come in batches, and of their features only the moments are kept."""

    def __init__(self, n: TwoOrMore = 256, seed: NonNegativeInt = 1, *, extractor: Extractor) -> None:
        super().__init__(n, seed, extractor)

    def on_fit_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self.check_shares("frechet")

    def final(self, trainer: Trainer, module: TrainingModule) -> list[Result]:
        """The distance, and the floor beside it."""
        extractor, data = self.extractor, module.data
        distance, broken = self.distance(module, module.eval_model)
        held, train = self.stats(module, "val", self.n), self.train(module)
        how = how_measured(module, self.seed)
        sha256 = how["data_sha256"]
        against: dict[str, Any] = {"reference": "train", "n_reference": train.n, "reference_sha256": sha256}
        fields = how | module.model.numerics(samples=True) | module.model.sample_record() | against
        fields |= {"not_finite": broken} if broken else {}
        of_samples = record(extractor, n=self.n, split="samples", **fields)
        of_data = record(extractor, n=held.n, split="val", levels=data.levels, data_sha256=sha256, **against)
        label = f"{extractor.label(self.n)} to {train.n} training data ({self.n} samples)"
        other = "" if held.n == self.n else " (another n: not comparable)"
        of_real, floor = f"the same of {held.n} real validation data{other}", frechet_distance(held, train)
        return [
            Result(extractor.key(self.n), label, distance, None, of_samples),
            Result(f"{extractor.key(held.n)}_real", of_real, floor, None, of_data, level=1),
        ]


@checked
class FrechetCurve(Distance):
    """The distance at every so many validations (0: never), as val/…@n: a curve to watch, with fewer and cheaper samples than
    the final measurement has. `steps` and `eta` replace those of the run's sampler (an eta makes it DDIM); None leaves it as it
    is."""

    of_samples = ("steps", "eta")

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
        super().__init__(n, seed, extractor)
        self.every = every
        self.settings = {"steps": steps, "eta": eta}

    @property
    def key(self) -> str:
        """Of the curve: always with its n."""
        key = self.extractor.key(self.n)
        return key if "@" in key else f"{key}@{self.n}"

    def check(self, model: Model) -> None:
        """Raises UserError for steps or an eta that samples of this model do not have. Called before a run has a folder."""
        try:
            model.sampling(**self.settings if self.every else {})
        except ValueError as error:
            raise UserError(f"callbacks.frechet_curve: {error}") from error

    def on_fit_start(self, trainer: Trainer, module: TrainingModule) -> None:
        if self.every:
            self.check_shares("frechet_curve")

    def on_validation_epoch_end(self, trainer: Trainer, module: TrainingModule) -> None:
        validations = trainer.global_step * trainer.accumulate_grad_batches // (trainer.val_check_batch or 1)
        if self.every and validations % self.every == 0:
            distance, broken = self.distance(module, module.eval_model.sampling(**self.settings))
            if not broken:
                log(trainer, {f"val/{self.key}": distance})


def together(stats: FeatureStats) -> FeatureStats:
    """The statistics of what all processes have seen."""
    return functools.reduce(FeatureStats.plus, ranks.gather(stats))
