"""Which trainings with further seeds would settle the open comparisons, and what they cost."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ddpm_lab.compare.choices import ComparedChoice, flat_config
from ddpm_lab.compare.comparison import Comparison, Verdict
from ddpm_lab.compare.measures import SECONDS
from ddpm_lab.compare.report import ComparisonReport
from ddpm_lab.compare.run_folder import RunFolder

MOST = 100
"""Further seeds up to which a comparison is planned."""


@dataclass
class Training:
    """One configuration with seeds that it was not trained with yet."""

    run: RunFolder
    """Its configuration but for the seed."""
    label: str
    seeds: set[int] = field(default_factory=set)
    choices: list[ComparedChoice] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """Of one seed: training, and the samples of each choice that was evaluated. None where the training was not timed."""
        return seconds_of(self.choices)


def seconds_of(choices: Sequence[ComparedChoice]) -> float | None:
    """What one seed of choices of one training took on average."""
    trained = [s for c in choices[:1] for r in c.runs.values() if (s := _seconds(r.run.summary.get("train_seconds")))]
    records = [[r.numbers[SECONDS].record for r in c.runs.values() if SECONDS in r.numbers] for c in choices]
    sampled = [_mean([s for record in each if (s := _seconds(record.get("seconds")))]) for each in records]
    return _mean(trained) + sum(sampled) if trained else None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def trainings(report: ComparisonReport) -> tuple[list[Training], list[Comparison]]:
    """Of every comparison for which seeds are needed, the choice and the baseline; and comparisons that need more than MOST. Of
    open ones that share one seed or none, the seeds that the other has: then they are paired."""
    found: dict[str, Training] = {}
    too_many = []
    for study in report.studies:
        for c in study.comparisons:
            more = _more(c)
            if more > MOST:
                too_many.append(c)
            if not 0 < more <= MOST:
                continue
            wanted = set(itertools.islice(_order(c), len(c.seeds) + more))
            for choice in (c.choice, c.baseline):
                run = choice.first.run
                made = found.setdefault(json.dumps(flat_config(run.config), default=str), Training(run, choice.label))
                made.seeds |= wanted - choice.runs.keys()
                made.choices += [choice] * (choice not in made.choices)
    return [each for each in found.values() if each.seeds], too_many


def _more(comparison: Comparison) -> int:
    """Seeds of both beyond those there are."""
    if comparison.apart is not None and comparison.verdict is Verdict.OPEN:
        return len(comparison.choice.runs.keys() | comparison.baseline.runs.keys())
    return 0 if comparison.needed is None else comparison.needed.seeds.n - len(comparison.seeds)


def _order(comparison: Comparison) -> Iterator[int]:
    """Seeds of both, those of one alone, which need one training, then new ones."""
    ours, theirs = comparison.choice.runs.keys(), comparison.baseline.runs.keys()
    yield from comparison.seeds
    yield from sorted((ours | theirs) - set(comparison.seeds))
    yield from itertools.count(max(ours | theirs) + 1)
