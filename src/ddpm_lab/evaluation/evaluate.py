"""Everything that is measured of one model under one choice of its parts."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from ddpm_lab import ranks
from ddpm_lab.core.grey import scale
from ddpm_lab.evaluation import likelihood
from ddpm_lab.evaluation.quality import Quality, scores
from ddpm_lab.evaluation.samples import drawn
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.likelihood.bound import Bound
from ddpm_lab.metrics.extractors import Extractor
from ddpm_lab.metrics.published import PublishedStats
from ddpm_lab.metrics.record import Result
from ddpm_lab.models.measurement import Likelihood, Measurement, PerDatum
from ddpm_lab.pictures import save_grid

BOUND, DISTANCE = "bound", "distance"
"""The scores of the tables over choices."""


@dataclass
class Evaluated:
    """The numbers of one choice with their records."""

    choice: Choice
    setting: str
    """What distinguishes it from another choice with the same names and steps, as "seed=1"."""
    origin: dict[str, object]
    """Checkpoint, weights, step and seed."""
    results: list[Result] = field(default_factory=list)
    scores: dict[str, Result] = field(default_factory=dict)
    """The numbers of the tables over choices: `BOUND` of the chain on which samples are drawn, `DISTANCE` of all samples."""
    bounds: list[Bound] = field(default_factory=list)
    per_datum: dict[str, PerDatum] = field(default_factory=dict)
    """By the key of the number that they add up to."""
    grid: Path | None = None

    @property
    def steps(self) -> int:
        return self.choice.steps

    def file_name(self, name: str) -> str:
        """A name for a file of this choice alone."""
        return (f"{name}_{self.setting}" if self.setting else name).replace("/", "_").replace(" ", "_")


def evaluate(
    subject: Subject,
    choice: Choice,
    nll: Likelihood,
    quality: Quality,
    extractor: Extractor,
    stats: PublishedStats | None,
    folder: Path,
    setting: str = "",
) -> Evaluated:
    """Likelihoods, then scores of samples; their picture goes to `folder`."""
    run = subject.run
    origin = {"checkpoint": str(subject.checkpoint), "weights": run.weights, "step": run.step, "seed": subject.seed}
    evaluated = Evaluated(choice, setting, origin)
    _add_likelihoods(evaluated, subject, choice.model.measurements(subject.conditions(nll, choice.parts)))
    if quality.n:
        with TemporaryDirectory(dir=subject.store.folder) as scratch:
            of_samples = scores(subject, choice, quality, extractor, stats, Path(scratch))
        evaluated.results += of_samples
        if of_samples:
            evaluated.scores[DISTANCE] = of_samples[0]
    if shown := min(quality.grid, quality.n):
        samples = drawn(subject, choice, quality.n)  # by all processes
        if ranks.rank() == 0:
            names = [*choice.names_of_samples.values()]
            name = evaluated.file_name("_".join(["samples", *names[:1], str(evaluated.steps), *names[1:]])) + ".png"
            evaluated.grid = save_grid(scale(samples[0]["x"][:shown], choice.model.levels), folder / name)
    return evaluated


def _add_likelihoods(evaluated: Evaluated, subject: Subject, measurements: list[Measurement]) -> None:
    done: likelihood.Meters = {}
    for measurement in measurements:
        results = likelihood.results(subject, measurement, done)
        meter = done[id(measurement)]
        evaluated.results += results
        if measurement.of_samples and BOUND not in evaluated.scores:
            evaluated.scores[BOUND] = results[0]
        if (per_datum := measurement.per_datum(meter)) is not None:
            evaluated.per_datum[measurement.key] = per_datum
        if (bound := measurement.bound(meter)) is not None:
            evaluated.bounds.append(bound)
