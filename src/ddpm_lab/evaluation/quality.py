"""How good the samples are, by every score that the extractor allows, each with its record; and what real data score beside
them at the same n."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from ddpm_lab import ranks
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.samples import Seen, of_data, of_samples
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.metrics.classifier import Classifier, class_shares
from ddpm_lab.metrics.extractors import Extractor, Metric
from ddpm_lab.metrics.fd_infinity import fd_infinity
from ddpm_lab.metrics.frechet import Moments, frechet_distance, stats_of
from ddpm_lab.metrics.inception_score import ClassSums, inception_score
from ddpm_lab.metrics.kid import kid
from ddpm_lab.metrics.precision_recall import precision_recall
from ddpm_lab.metrics.published import PublishedStats, check_size, read_published
from ddpm_lab.metrics.record import Record, Result, record
from ddpm_lab.metrics.score import Score

KID_SIZE = 1000
SPLITS = 10
OTHER = {"train": "val", "val": "train"}
SPOKEN = {"train": "training", "val": "held-out"}


class Against(NamedTuple):
    """What samples are compared with: real data, or (for the Fréchet distance) statistics that others published."""

    split: str
    real: Seen
    published: PublishedStats | None

    @property
    def moments(self) -> Moments:
        return self.published or self.real.stats


def published(statistics: str | None, subject: Subject, extractor: Extractor) -> PublishedStats | None:
    """Read and held against the extractor, before any long work. Raises UserError for a file that is not such statistics."""
    if statistics is None:
        return None
    stats = read_published(statistics, "quality.statistics")
    dim = extractor(subject.x0("train", 0, 1).float()).shape[1]
    check_size(stats, dim, extractor.name, f"quality.statistics={statistics}")
    return stats


def scores(
    subject: Subject, choice: Choice, n: int, extractor: Extractor, split: str, stats: PublishedStats | None, scratch: Path
) -> list[Result]:
    """Every score of n samples; process 0 has them all, the others none. None where samples are not finite."""
    samples = of_samples(subject, choice, n, extractor, scratch)
    if samples is None:
        return []
    data, other = subject.data, OTHER[split]
    real = of_data(subject, split, len(data.raw(split)), extractor, scratch)
    n_floor = min(n, len(data.raw(other)))
    floor = of_data(subject, other, n_floor, extractor, scratch) if n_floor > 1 else None
    if ranks.rank() > 0:
        return []
    against = Against(split, real, stats)
    make = _records(subject, choice, extractor, against)
    results = [_frechet(samples, against, extractor, make)]
    if floor is not None:
        results += _floor(samples, floor, other, against, extractor, make)
    for part in (_extrapolated, _kernel, _manifolds, _by_class):
        results += part(samples, against, extractor, make)
    return results


Make = Callable[..., Record]


def _records(subject: Subject, choice: Choice, extractor: Extractor, against: Against) -> Make:
    """What fills in all that the records of one network's samples have in common."""
    trained, stats = subject.run.diffusion, against.published
    identity = subject.identity
    common = {
        "weights": subject.run.weights, "checkpoint_sha256": identity["checkpoint_sha256"], "step": subject.run.step,
        "precision": subject.precision, "quantised_levels": trained.levels,
    }  # fmt: skip
    own = {
        "seed": subject.seed, "split": "samples", "sampler": choice.sampler_name, "steps": len(choice.chain(trained)),
        "spacing": choice.sampler.spacing, "eta": getattr(choice.sampler, "eta", None), "clip": choice.clips(trained),
        "variance": choice.variance_name if choice.sampler.uses(choice.variance) else None,
    }  # fmt: skip
    own |= choice.clipped() if own["variance"] else {}
    reference = {
        "reference": "published" if stats else against.split, "n_reference": stats.n if stats else against.real.n,
        "reference_sha256": stats.sha256 if stats else identity["data"],
    }  # fmt: skip

    def make(n: int, real_split: str | None = None, with_reference: bool = True, **settings: object) -> Record:
        about = common | (own if real_split is None else {"split": real_split}) | (reference if with_reference else {})
        return record(extractor, n=n, **about, **settings)  # type: ignore[arg-type]

    return make


def _to(against: Against) -> str:
    return "published statistics" if against.published else f"{against.real.n:,} {SPOKEN[against.split]} data"


def _result(extractor: Extractor, n: int, metric: Metric, label: str, score: Score, about: Record) -> Result:
    about = about if score.std is None else about | {"std": score.std}
    return Result(extractor.key(n, metric), f"{extractor.label(n, metric)}{label}", score.value, score.se, about)


def _frechet(samples: Seen, against: Against, extractor: Extractor, make: Make) -> Result:
    n, distance = samples.n, frechet_distance(samples.stats, against.moments)
    return _result(extractor, n, "fd", f" to {_to(against)} ({n:,} samples)", Score(distance, None), make(n))


def _extrapolated(samples: Seen, against: Against, extractor: Extractor, make: Make) -> Iterator[Result]:
    n = samples.n
    try:
        score = fd_infinity(samples.features, against.moments)
    except UserError:  # too few samples for a line: there is nothing to say
        return
    yield _result(extractor, n, "fd_inf", f" (from {n:,} samples)", score, make(n, fd_inf_points=15))


def _floor(samples: Seen, floor: Seen, split: str, against: Against, extractor: Extractor, make: Make) -> Iterator[Result]:
    """What real data score; where there are fewer of them, what as many samples score."""
    n = floor.n
    distance = frechet_distance(floor.stats, against.moments)
    label = f"    the same of {n:,} real {SPOKEN[split]} data"
    yield Result(f"{extractor.key(n)}_real", label, distance, None, make(n, real_split=split))
    if n < samples.n:
        fewer = frechet_distance(stats_of(samples.features[:n].split(4096)), against.moments)
        yield Result(f"{extractor.key(n)}_first_{n}", f"    the same of the first {n:,} samples", fewer, None, make(n))


def _kernel(samples: Seen, against: Against, extractor: Extractor, make: Make) -> Iterator[Result]:
    size = min(KID_SIZE, samples.n, against.real.n)
    if size >= 2:
        score = kid(samples.features, against.real.features, size=size)
        yield _result(extractor, samples.n, "kid", "", score, make(samples.n, kid_subsets=100, kid_subset_size=size))


def _manifolds(samples: Seen, against: Against, extractor: Extractor, make: Make) -> Iterator[Result]:
    n = min(samples.n, against.real.n)
    if n <= 3:
        return
    found = precision_recall(samples.features[:n], against.real.features[:n])
    about = make(n, neighbours=3)
    yield _result(extractor, n, "precision", f" ({n:,} samples, as many data)", found.precision, about)
    yield _result(extractor, n, "recall", "", found.recall, about)


def _by_class(samples: Seen, against: Against, extractor: Extractor, make: Make) -> Iterator[Result]:
    """What needs classes: the Inception Score, and of a classifier of the data's own classes, which it recognises."""
    if samples.logits is None or samples.n < SPLITS:
        return
    splits = ClassSums.empty(samples.logits.shape[1], SPLITS).add(samples.logits, 0)
    about = make(samples.n, with_reference=False, is_splits=SPLITS)
    yield _result(extractor, samples.n, "is", "", inception_score(splits), about)
    if isinstance(extractor, Classifier) and samples.recognised is not None:
        sure, shares = samples.recognised.double().mean(), class_shares(samples.logits)
        about, key = make(samples.n, with_reference=False), extractor.key(samples.n).replace("_fd", "")
        label = f"{extractor.name} recognises"
        yield Result(f"{key}_recognised", label, float(sure), _binomial(sure, samples.n), about)
        for name, value in (("smallest", shares.min()), ("largest", shares.max())):
            label = f"{extractor.name} {name} share of a class"
            yield Result(f"{key}_{name}_class", label, float(value), _binomial(value, samples.n), about)


def _binomial(share: torch.Tensor, n: int) -> float:
    return float((share * (1 - share) / n).sqrt())
