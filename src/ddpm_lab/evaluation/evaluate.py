"""Everything that is measured of one model under one choice of its parts."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ddpm_lab import ranks
from ddpm_lab.core.grey import scale
from ddpm_lab.evaluation.check import Band
from ddpm_lab.evaluation.quality import Quality, scores
from ddpm_lab.evaluation.samples import drawn
from ddpm_lab.evaluation.store import Piece
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.likelihood.bound import Bound
from ddpm_lab.metrics.extractors import Extractor
from ddpm_lab.metrics.published import PublishedStats
from ddpm_lab.metrics.record import Result, record
from ddpm_lab.models.measurement import Likelihood, Measurement, PerDatum
from ddpm_lab.pictures import save_grid

log = logging.getLogger("ddpm_lab")
BOUND, DISTANCE = "bound", "distance"
"""The scores of the tables over choices."""


class Arm(NamedTuple):
    """One choice to measure, checked. `subject` loads the model and `choice` completes it when its turn comes."""

    subject: Callable[[], Subject]
    choice: Callable[[Subject], Choice]
    names: dict[str, str]
    steps: int
    setting: str
    nll: Likelihood
    quality: Quality
    extractor: Extractor
    stats: PublishedStats | None
    bands: Sequence[Band]
    run_folder: Path

    @property
    def line(self) -> str:
        sampled = [f"sampler {self.names['sampler']}"] if "sampler" in self.names else []
        others = [f"{group} {name}" for group, name in self.names.items() if group not in ("sampler", "metrics")]
        return ", ".join([*sampled, f"{self.steps} steps", *others, *filter(None, [self.setting])])


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


def evaluate(arm: Arm, subject: Subject, folder: Path) -> Evaluated:
    """Likelihoods, then scores of samples; their picture goes to `folder`."""
    choice, quality, run = arm.choice(subject), arm.quality, subject.run
    origin = {"checkpoint": str(subject.checkpoint), "weights": run.weights, "step": run.step, "seed": subject.seed}
    evaluated = Evaluated(choice, arm.setting, origin)
    _add_likelihoods(evaluated, subject, choice.model.measurements(subject.conditions(arm.nll, choice.parts)))
    if choice.model.guided and ranks.rank() == 0:
        log.info("bits/dim are left out: guided samples are of no model whose likelihood is known (guidance=none measures it)")
    if quality.n:
        with TemporaryDirectory(dir=subject.store.folder) as scratch:
            of_samples = scores(subject, choice, quality, arm.extractor, arm.stats, Path(scratch))
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
    meters: dict[Measurement, Any] = {}
    for measurement in measurements:
        meter = _measured(subject, measurement, meters)
        fields: dict[str, Any] = {**subject.record, **subject.data.label_record, **measurement.fields(meter)}
        how = record(n=measurement.n, split=measurement.split, **fields)
        parts = measurement.numbers(meter, *(meters[other] for other in measurement.requires))
        results = [Result(part.key, part.label, part.value, part.se, how, part.level) for part in parts]
        evaluated.results += results
        if measurement.of_samples:
            evaluated.scores.setdefault(BOUND, results[0])
        if measurement.per_datum is not None:
            evaluated.per_datum[measurement.key] = measurement.per_datum(meter)
        if measurement.is_bound:
            evaluated.bounds.append(meter.result())


def _measured(subject: Subject, measurement: Measurement, meters: dict[Measurement, Any]) -> Any:
    """The meter of a measurement with all its data, piece by piece through the store; those in `meters` are not read again."""
    if measurement in meters:
        return meters[measurement]
    required = [_measured(subject, other, meters) for other in measurement.requires]

    def work(start: int, stop: int) -> Piece:
        meter = measurement.meter(*required)
        span = measurement.split, start, stop
        meter.add(subject.x0(*span), start, *subject.condition(*span))
        return meter.state()

    whole, identity = measurement.meter(*required), subject.identity | dict(measurement.identity)
    pieces = subject.store.pieces(measurement.kind, identity, measurement.n, measurement.piece, work, measurement.title)
    for piece in pieces:
        whole.merge(piece)
    meters[measurement] = whole
    return whole
