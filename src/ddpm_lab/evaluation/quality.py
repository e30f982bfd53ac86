"""Quality of samples by every score that the extractor allows, each with its record, and of real data at the same n."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.domains import File, NonNegativeInt, PositiveInt
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.samples import Features, finite, of_data, of_samples
from ddpm_lab.evaluation.sets import SampleSet, mean_of_sets
from ddpm_lab.evaluation.subject import Choice, Subject
from ddpm_lab.metrics.classifier import Classifier, class_shares
from ddpm_lab.metrics.copies import copies
from ddpm_lab.metrics.extractors import Extractor, Metric
from ddpm_lab.metrics.frechet import Moments, frechet_distance, stats_of
from ddpm_lab.metrics.published import PublishedStats, check_size, read_published
from ddpm_lab.metrics.record import Record, Result, record
from ddpm_lab.metrics.scores import ClassSums, Score, fd_infinity, inception_score, kid, precision_recall, share_of, subset
from ddpm_lab.metrics.sliced import mind
from ddpm_lab.models.measurement import SPLITS

KID_SIZE = 1000
PROJECTIONS = 1000
IS_SPLITS = 10
ENOUGH = 50
"""Samples, and data, of a class whose distance is measured."""
OTHER = {"train": "val", "val": "train"}


class Quality(NamedTuple):
    """The keys of `quality` in conf/evaluate/config.yaml."""

    n: NonNegativeInt = 1000
    reference: Literal["train", "val"] = "train"
    statistics: File | None = None
    grid: NonNegativeInt = 64
    sets: PositiveInt = 1


def published(statistics: str | None, subject: Subject, extractor: Extractor) -> PublishedStats | None:
    """Published statistics, checked against the extractor. Raises UserError for a file that does not hold such statistics."""
    if statistics is None:
        return None
    stats = read_published(statistics, "quality.statistics")
    dim = extractor(subject.x0("train", 0, 1).float()).shape[1]
    check_size(stats, dim, extractor.name, f"quality.statistics={statistics}")
    return stats


def scores(
    sets: Sequence[SampleSet], quality: Quality, extractor: Extractor, stats: PublishedStats | None, scratch: Path
) -> list[Result]:
    """Every score of n samples, the Fréchet distance first; of several sets of n their means. Empty where samples of a set are
    not finite, and on processes but 0."""
    n, split, other, subject = quality.n, quality.reference, OTHER[quality.reference], sets[0].subject
    which = [f"set {j} (sampling seed {one.subject.seed}): " if len(sets) > 1 else "" for j, one in enumerate(sets)]
    usable = [finite(*one, n, words) for one, words in zip(sets, which, strict=True)]
    if not all(usable):
        return []
    real = of_data(subject, split, subject.size(split), extractor, scratch)
    n_floor = min(n, subject.size(other))
    floor = of_data(subject, other, n_floor, extractor, scratch) if n_floor > 1 else None
    held_out = None if floor is None else floor.rows
    if split == "train" and held_out is not None and (whole := subject.size(other)) > n_floor:
        held_out = subset(of_data(subject, other, whole, extractor, scratch / "all").rows, n_floor)
    each = []
    for j, one in enumerate(sets):
        samples = of_samples(*one, n, extractor, scratch / str(j))
        if ranks.rank() == 0:
            scored = _Scored(*one, extractor, samples, split, real, stats)
            each.append([result for part in scored.parts(floor, held_out, other, j == 0) for result in part])
    return mean_of_sets(each) if each else []


def drawn_from(what: str, n: int, size: int) -> Record:
    """The field of a record that says that n of `size` data were drawn at random; none where all were taken."""
    return {f"{what}_subset": "random"} if n < size else {}


class _Scored(NamedTuple):
    """Samples, and the real data or published moments that they are compared with."""

    subject: Subject
    choice: Choice
    extractor: Extractor
    samples: Features
    split: str
    real: Features
    stats: PublishedStats | None

    @property
    def n(self) -> int:
        return self.samples.n

    @property
    def classes(self) -> Tensor | None:
        """Of the samples of a conditional model."""
        return self.choice.model.sample_classes(0, self.n, self.subject.seed)

    @property
    def moments(self) -> Moments:
        return self.stats or self.real.stats

    def reference(self, metric: Metric, n: int) -> Record:
        """The fields of the record that name what the first n samples are compared with. Published statistics are moments, and
        stand in for the data where moments are compared alone; precision, recall and MIND take as many data as samples."""
        if metric == "is":
            return {}
        if self.stats is not None and metric in ("fd", "fd_inf"):
            return {"reference": "published", "n_reference": self.stats.n, "reference_sha256": self.stats.sha256}
        n_data = n if metric in ("precision", "recall", "mind") else self.real.n
        return {"reference": self.split, "n_reference": n_data, "reference_sha256": self.subject.identity["data"]}

    def record(self, n: int, **settings: Any) -> Record:
        """Of a score of the first n samples."""
        fields = self.subject.record | self.choice.record_of_samples
        return record(self.extractor, n=n, split="samples", **fields, **settings)

    def result(self, metric: Metric, score: Score, suffix: str = "", n: int | None = None, **settings: Any) -> Result:
        """A score of the first n samples (None: of all)."""
        n = n or self.n
        how = self.record(n, **self.reference(metric, n), **settings) | ({} if score.std is None else {"std": score.std})
        key, label = self.extractor.key(n, metric), f"{self.extractor.label(n, metric)}{suffix}"
        return Result(key, label, score.value, score.se, how)

    def parts(self, first: Features | None, held_out: Tensor | None, other: str, floor: bool) -> list[Iterator[Result]]:
        """All scores in order. `first`: the first real data of the `other` split; `held_out`: as many, drawn at random; None
        where there are none. `floor`: whether the distance of `first` is measured."""
        distances = [self.frechet(), *([self.floor(first, other)] if floor else []), self.of_first(first), self.extrapolated()]
        of_features = [self.kernel(), self.manifolds(), self.sliced(), self.copied(held_out, other)]
        return [*distances, *of_features, self.within_classes(), self.by_class(), self.asked()]

    def frechet(self) -> Iterator[Result]:
        to = "published statistics" if self.stats else f"{self.real.n:,} {SPLITS[self.split]} data"
        distance = frechet_distance(self.samples.stats, self.moments)
        yield self.result("fd", Score(distance, None), f" to {to} ({self.n:,} samples)")

    def floor(self, held_out: Features | None, split: str) -> Iterator[Result]:
        """The distance of real data."""
        if held_out is not None:
            yield self.of_real("fd", Score(frechet_distance(held_out.stats, self.moments), None), held_out.n, split)

    def of_first(self, held_out: Features | None) -> Iterator[Result]:
        """Where there are fewer held-out data than samples, the distance of as many samples."""
        if held_out is not None and (n := held_out.n) < self.n:
            fewer = frechet_distance(stats_of(self.samples.rows[:n].split(4096)), self.moments)
            label, how = f"the same of the first {n:,} samples", self.record(n, **self.reference("fd", n))
            yield Result(f"{self.extractor.key(n)}_first_{n}", label, fewer, None, how, 1)

    def of_real(self, metric: Metric, score: Score, n: int, split: str) -> Result:
        """The score of n real data of a split in place of samples."""
        fields = self.reference(metric, n) | {"levels": self.subject.data.levels, "data_sha256": self.subject.identity["data"]}
        key, label = f"{self.extractor.key(n, metric)}_real", f"the same of {n:,} real {SPLITS[split]} data"
        return Result(key, label, score.value, score.se, record(self.extractor, n=n, split=split, **fields), 1)

    def extrapolated(self) -> Iterator[Result]:
        with suppress(UserError):  # too few samples for a line
            score = fd_infinity(self.samples.rows, self.moments)
            yield self.result("fd_inf", score, f" (from {self.n:,} samples)", fd_inf_points=15)

    def kernel(self) -> Iterator[Result]:
        size = min(KID_SIZE, self.n, self.real.n)
        if size >= 2:
            score = kid(self.samples.rows, self.real.rows, size=size)
            yield self.result("kid", score, kid_subsets=100, kid_subset_size=size)

    def manifolds(self) -> Iterator[Result]:
        n = min(self.n, self.real.n)
        if n > 3:
            both = precision_recall(self.samples.rows[:n], self.real.rows[:n])
            yield self.result("precision", both.precision, f" ({n:,} samples, as many data)", n, neighbours=3)
            yield self.result("recall", both.recall, "", n, neighbours=3)

    def sliced(self) -> Iterator[Result]:
        n = min(self.n, self.real.n)
        if n > 1:
            score, of = (
                mind(self.samples.rows[:n], subset(self.real.rows, n), PROJECTIONS),
                drawn_from("reference", n, self.real.n),
            )
            yield self.result("mind", score, f" ({n:,} samples, as many data)", n, mind_projections=PROJECTIONS, **of)

    def copied(self, held_out: Tensor | None, split: str) -> Iterator[Result]:
        """Whether samples are copies of training data; left out where the reference is not the training data."""
        if held_out is None or self.split != "train" or self.real.n < 2:
            return
        n, found = len(held_out), copies(self.samples.rows, held_out, self.real.rows)
        of = drawn_from("held_out", n, self.subject.size(split))
        words = f" against {n:,} held-out data, below 0 for copies ({self.n:,} samples)"
        yield self.result("c_t", found.c_t, words, None, n_held_out=n, **of)
        yield self.result("authenticity", found.authenticity, f" ({self.n:,} samples)")
        real = self.of_real("authenticity", found.of_held_out, n, split)
        yield real._replace(record=real.record | of)

    def within_classes(self) -> Iterator[Result]:
        """Of a conditional model the distance of each class's samples to the data of that class, where there are enough of
        both, after the mean of these distances."""
        if (classes := self.classes) is None:
            return
        labels, key, found = self.subject.data.labels(self.split), self.extractor.key(self.n, "fd_class"), []
        for label in range(int(labels.max()) + 1):
            samples, real = self.samples.rows[classes == label], self.real.rows[labels == label]
            if min(len(samples), len(real)) >= ENOUGH:
                distance = frechet_distance(stats_of(samples.split(4096)), stats_of(real.split(4096)))
                how = self.record(len(samples), **self.reference("fd_class", len(samples)), **self.subject.data.label_record)
                how |= {"n_reference": len(real), "within_class": label}
                found.append(Result(f"{key}_{label}", f"class {label} ({len(samples)} samples)", distance, None, how, 1))
        if found:
            mean = Score(sum(result.value for result in found) / len(found), None)
            words = f", mean of {len(found)} of {int(labels.max()) + 1} ({self.n:,} samples)"
            yield self.result("fd_class", mean, words, classes_measured=len(found), **self.subject.data.label_record)
            yield from found

    def asked(self) -> Iterator[Result]:
        """The share of samples of a conditional model that a classifier of the data's own classes takes for the class that was
        asked for; and of each class."""
        classes, logits, extractor = self.classes, self.samples.logits, self.extractor
        if classes is None or logits is None or not isinstance(extractor, Classifier):
            return
        right, key = logits.argmax(1) == classes, extractor.share_key(self.n, "asked_class")
        of_all = share_of(float(right.double().mean()), self.n)
        yield Result(key, f"{extractor.name} finds the class asked for", of_all.value, of_all.se, self.record(self.n))
        for label in classes.unique().tolist():
            of_class = right[classes == label]
            share, how = (
                share_of(float(of_class.double().mean()), len(of_class)),
                self.record(len(of_class), within_class=label),
            )
            yield Result(f"{key}_{label}", f"class {label} ({len(of_class)} samples)", share.value, share.se, how, 1)

    def by_class(self) -> Iterator[Result]:
        """The Inception Score; of a classifier of the data's own classes also the share of samples that it recognises."""
        logits, recognised, extractor = self.samples.logits, self.samples.recognised, self.extractor
        if logits is None or self.n < IS_SPLITS:
            return
        yield self.result(
            "is", inception_score(ClassSums.empty(logits.shape[1], IS_SPLITS).add(logits, 0)), is_splits=IS_SPLITS
        )
        if isinstance(extractor, Classifier) and recognised is not None:
            fields, shares = self.record(self.n), class_shares(logits)
            for name, label, share in (
                ("recognised", "recognises", recognised.double().mean()),
                ("smallest_class", "smallest share of a class", shares.min()),
                ("largest_class", "largest share of a class", shares.max()),
            ):
                score, key = share_of(float(share), self.n), extractor.share_key(self.n, name)
                yield Result(key, f"{extractor.name} {label}", score.value, score.se, fields)
