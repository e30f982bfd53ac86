"""All results of one stage: of runs as they were trained, or as they were evaluated."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from ddpm_lab.compare.choices import ComparedChoice, ComparedChoices
from ddpm_lab.compare.effects import Effect
from ddpm_lab.compare.judge import Column, Judgement
from ddpm_lab.compare.numerals import decimals
from ddpm_lab.compare.statistics import Interval


class Stage(Enum):
    TRAINED = "As trained"
    EVALUATED = "As evaluated"


@dataclass
class Study:
    """The choices of one stage with all results."""

    stage: Stage
    compared: ComparedChoices
    baseline: ComparedChoice
    judged: Judgement
    level: float
    effects: list[Effect] = field(default_factory=list)

    @property
    def main(self) -> list[Column]:
        """The columns of the table: judged numbers, or all where none is."""
        columns = self.judged.columns
        return [column for column in columns if column.measure.judged] or columns

    @property
    def shared_training(self) -> list[list[ComparedChoice]]:
        """Trained choices that were measured on the same networks (one training under several names)."""
        by_network: dict[Path, list[ComparedChoice]] = {}
        for choice in self.compared.choices if self.stage is Stage.TRAINED else ():
            networks = [run.run.network for run in choice.runs.values()]
            alike = next((by_network[network] for network in networks if network in by_network), [])
            alike.append(choice)
            by_network |= dict.fromkeys(networks, alike)
        return [choices for choices in {id(c): c for c in by_network.values()}.values() if len(choices) > 1]


def digits_of(column: Column) -> int:
    """Decimals of a column, from its intervals or standard errors."""
    values = [estimate.value for estimate in column.estimates.values()]
    errors = [n.se for numbers in column.numbers.values() for n in numbers.values() if n.se]
    return min(decimals(values, half_widths(column.estimates.values()) or errors), decimals(values, []) + 1)


def effect_digits(effects: Sequence[Effect]) -> int:
    """Decimals of the effects on one measure, to be read side by side."""
    values, spans = [effect.estimate.value for effect in effects], half_widths([effect.estimate for effect in effects])
    return max(decimals(values, spans), decimals(values, []) - 2) if spans else decimals(values, []) - 1


def half_widths(estimates: Iterable[Interval | None]) -> list[float]:
    """Half-widths of the intervals that there are."""
    return [(e.high - e.low) / 2 for e in estimates if e is not None and e.low is not None and e.high is not None]
