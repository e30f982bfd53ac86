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
from ddpm_lab.evaluation.cost import sampling_seconds
from ddpm_lab.evaluation.quality import Quality, scores
from ddpm_lab.evaluation.samples import drawn
from ddpm_lab.evaluation.sets import SampleSet
from ddpm_lab.evaluation.store import Piece
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.likelihood.bound import Bound
from ddpm_lab.metrics.extractors import Extractor
from ddpm_lab.metrics.published import PublishedStats
from ddpm_lab.metrics.record import Result, record
from ddpm_lab.models.measurement import Likelihood, Measurement, PerDatum
from ddpm_lab.pictures import save_grid

log = logging.getLogger("ddpm_lab")
BOUND, DISTANCE, SECONDS = "bound", "distance", "seconds"
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
    """The numbers of the tables over choices: `BOUND` of the chain on which samples are drawn; `DISTANCE` of all samples, and
    the `SECONDS` that they took, where known."""
    bounds: list[Bound] = field(default_factory=list)
    per_datum: dict[str, PerDatum] = field(default_factory=dict)
    """By the key of the number that they add up to."""
    grid: Path | None = None
    length: float | None = None
    """As `Run.length`."""

    @property
    def steps(self) -> int:
        return self.choice.steps

    def file_name(self, name: str) -> str:
        """A name for a file of this choice alone."""
        return "_".join(filter(None, [name, self.beside])).replace("/", "_").replace(" ", "_")

    @property
    def beside(self) -> str:
        """The weights, where those of the evaluation differ, and the setting."""
        return " ".join(filter(None, [self.choice.names.get("weights"), self.setting]))


Scored = dict[str, tuple[str, list[Result]]]
"""The scores of samples that were measured so far, and of which arm, by all that they depend on."""


def evaluate(arm: Arm, subject: Subject, folder: Path, scored: Scored) -> Evaluated:
    """Likelihoods, then scores of samples and what they cost; their picture goes to `folder`, their scores to `scored` too."""
    choice, quality, run = arm.choice(subject), arm.quality, subject.run
    origin = {"checkpoint": str(subject.checkpoint), "weights": run.weights, "step": run.step, "seed": subject.seed}
    evaluated = Evaluated(choice, arm.setting, origin, length=run.length)
    _add_likelihoods(evaluated, subject, choice.model.measurements(subject.conditions(arm.nll, choice.parts)))
    if choice.model.no_likelihood and ranks.rank() == 0:
        log.info("no bits/dim: %s", choice.model.no_likelihood)
    if choice.model.guided and ranks.rank() == 0:
        log.info("bits/dim are left out: guided samples are of no model whose likelihood is known (guidance=none measures it)")
    if quality.n:
        later = map(subject.of_set, range(1, quality.sets))
        sets = [SampleSet(subject, choice), *(SampleSet(one, arm.choice(one)) for one in later)]
        _add_samples(evaluated, arm, sets, folder, scored)
    return evaluated


def _add_samples(evaluated: Evaluated, arm: Arm, sets: Sequence[SampleSet], folder: Path, scored: Scored) -> None:
    """Their scores, what they cost, and the picture of the first set."""
    (subject, choice), n = sets[0], arm.quality.n
    evaluated.results += (of_samples := _scores(arm, sets, scored))
    if of_samples:
        evaluated.scores[DISTANCE] = of_samples[0]
    samples = [piece for one in sets for piece in drawn(*one, n)]  # by all processes
    if ranks.rank() == 0:
        evaluated.results.append(seconds := sampling_seconds(subject, choice, samples, n, len(sets)))
        if seconds.known is not None:
            evaluated.scores[SECONDS] = seconds
        if shown := min(arm.quality.grid, n):
            names = [name for group, name in choice.names_of_samples.items() if group != "weights"]
            name = evaluated.file_name("_".join(["samples", *names[:1], str(evaluated.steps), *names[1:]])) + ".png"
            evaluated.grid = save_grid(scale(samples[0]["x"][:shown], choice.model.levels), folder / name)


def _scores(arm: Arm, sets: Sequence[SampleSet], scored: Scored) -> list[Result]:
    """Of samples; those of an arm that cannot differ are not measured again."""
    subject, choice = sets[0]
    key = f"{subject.identity} {choice.of_samples} {arm.quality} {id(arm.extractor)}"
    if key in scored:
        if ranks.rank() == 0:
            log.info("the samples, and their scores, are those of %s: equal by construction", scored[key][0])
        return scored[key][1]
    with TemporaryDirectory(dir=subject.store.folder) as scratch:
        of_samples = scores(sets, arm.quality, arm.extractor, arm.stats, Path(scratch))
    scored[key] = arm.line, of_samples
    return of_samples


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
