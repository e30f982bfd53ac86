"""Which trainings with further seeds would settle the open comparisons, and what they cost."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from ddpm_lab.compare.choices import ComparedChoice, flat_config
from ddpm_lab.compare.comparison import Comparison
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
        """Of one seed: training, and the samples of each choice that was evaluated, as the runs of the choices took on average.
        None where the training was not timed."""
        trained = [s for c in self.choices[:1] for r in c.runs.values() if (s := _seconds(r.run.summary.get("train_seconds")))]
        records = [[r.numbers[SECONDS].record for r in c.runs.values() if SECONDS in r.numbers] for c in self.choices]
        sampled = [_mean([s for record in each if (s := _seconds(record.get("seconds")))]) for each in records]
        return _mean(trained) + sum(sampled) if trained else None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def trainings(report: ComparisonReport) -> tuple[list[Training], list[Comparison]]:
    """Of every comparison for which seeds are needed, the choice and the baseline; and comparisons that need more than MOST."""
    found: dict[str, Training] = {}
    too_many = []
    for study in report.studies:
        for c in study.comparisons:
            if c.needed is None or (more := c.needed.seeds.n - len(c.seeds)) < 1:
                continue
            if more > MOST:
                too_many.append(c)
                continue
            wanted = set(itertools.islice(_order(c), c.needed.seeds.n))
            for choice in (c.choice, c.baseline):
                run = choice.first.run
                made = found.setdefault(json.dumps(flat_config(run.config), default=str), Training(run, choice.label))
                made.seeds |= wanted - choice.runs.keys()
                made.choices += [choice] * (choice not in made.choices)
    return [each for each in found.values() if each.seeds], too_many


def _order(comparison: Comparison) -> Iterator[int]:
    """Seeds of both, those of one alone, which need one training, then new ones."""
    ours, theirs = comparison.choice.runs.keys(), comparison.baseline.runs.keys()
    yield from comparison.seeds
    yield from sorted((ours | theirs) - set(comparison.seeds))
    yield from itertools.count(max(ours | theirs) + 1)
