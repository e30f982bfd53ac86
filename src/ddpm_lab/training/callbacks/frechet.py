"""Fréchet distance of samples to training data, in the features of an extractor."""

from lightning import Callback, LightningModule, Trainer

from ddpm_lab.metrics.extractors import Pixels
from ddpm_lab.metrics.frechet import FeatureStats, frechet_distance
from ddpm_lab.training.images import quantise
from ddpm_lab.training.results import Result, log, parts


class FrechetDistance(Callback):
    """<extractor>_fd: n samples by the run's sampler, quantised to the data's grey levels, against all training data without
    flips. Beside it the same distance of as many real validation data: what a perfect model would score at this n."""

    def __init__(self, n: int, every: int, seed: int, extractor: Pixels) -> None:
        self.n, self.every, self.seed, self.extractor = n, every, seed, extractor
        self._validations = 0
        self._train: FeatureStats | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validations += 1
        if self.every and self._validations % self.every == 0:
            distance = self.final(trainer, pl_module)[0]
            log(trainer, {f"val/{distance.key}": distance.value})

    def final(self, trainer: Trainer, pl_module: LightningModule) -> list[Result]:
        """The distance, and the floor beside it."""
        module, data = parts(trainer, pl_module)
        name, levels = self.extractor.name, module.diffusion.levels
        if self._train is None:
            self._train = self._stats(data.scaled("train"))
        samples = quantise(module.sample(self.n, seed=self.seed).cpu(), levels)
        held = data.scaled("val")[: self.n]
        sampler = module.sampler
        record = {
            "extractor": name, "reference": "train", "n_reference": self._train.n, "quantised_levels": levels,
        }  # fmt: skip
        own = {
            "n": self.n, "seed": self.seed, "weights": module.weights, "sampler": type(sampler).__name__,
            "steps": len(sampler.chain(module.diffusion.schedule)), "spacing": sampler.spacing,
            "clip": module.diffusion.clips if sampler.clip is None else sampler.clip,
            "variance": type(module.diffusion.variance).__name__,
        }  # fmt: skip
        label = f"{name} Fréchet distance to {self._train.n} training data"
        return [
            Result(f"{name}_fd", f"{label} ({self.n} samples)", self._distance(samples), None, record | own),
            Result(f"{name}_fd_real", f"    the same of {len(held)} real validation data", self._distance(held), None,
                   record | {"n": len(held), "split": "validation"}),
        ]  # fmt: skip

    def _stats(self, x) -> FeatureStats:
        features = self.extractor(x)
        return FeatureStats(features.shape[1]).add(features)

    def _distance(self, x) -> float:
        assert self._train is not None
        return frechet_distance(self._stats(x), self._train)

    def state_dict(self) -> dict[str, int]:
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._validations = state_dict["validations"]
