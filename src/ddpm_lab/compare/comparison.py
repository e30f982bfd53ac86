"""One choice against another on one measure, and what follows from it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.construction import Copy
from ddpm_lab.compare.measures import Measure, NumberKind
from ddpm_lab.compare.needed import Needed
from ddpm_lab.compare.statistics import Interval


class NeededSeeds(NamedTuple):
    """How many paired seeds in all would tell a difference of `size` from 0."""

    size: float
    observed: bool
    """Whether `size` is that of the difference itself, which was found to be small or large by chance as well."""
    seeds: Needed


class Verdict(StrEnum):
    """In the order in which sentences are shown."""

    BETTER = "better"
    AHEAD = "ahead"
    """Better at the one seed there is."""
    WORSE = "worse"
    BEHIND = "behind"
    OPEN = "open"
    """Not distinguishable."""
    SAME = "same"
    """Not distinguishable, and within the margin that was asked for."""
    CONSTRUCTION = "equal_by_construction"
    IDENTICAL = "identical"
    """Equal in every seed, for no reason that the records state."""
    NONE = "none"
    """Nothing is supported."""
    REFUSED = "refused"


@dataclass
class Comparison:
    """One choice against the baseline, on one measure. Differences are choice − baseline."""

    measure: Measure
    choice: ComparedChoice
    baseline: ComparedChoice
    seeds: list[int]
    """Those of both, by which it is paired; empty where `apart`."""
    wins: int = 0
    """Seeds in which the choice is the better one."""
    over_seeds: Interval | None = None
    over_images: Interval | None = None
    """Paired where `paired`; else, at one seed, from both standard errors; at one seed, of numbers on several sets of samples,
    over those `sets`."""
    sets: int = 0
    over_both: Interval | None = None
    """Over training and sampling seeds, where there are several of both: of `over_seeds` the sampling seeds are given."""
    paired: bool = False
    apart: tuple[list[int], list[int]] | None = None
    """Seeds of the choice and of the baseline, two or more each, where they share at most one: `over_seeds` is Welch's then."""
    lacking: dict[ComparedChoice, list[int]] = field(default_factory=dict)
    """Of either choice, the seeds without the number. Nothing is supported then: samples may have diverged."""
    copy: Copy | None = None
    p: float | None = None
    """After Holm's correction over all comparisons that can differ."""
    holds: bool = False
    """Whether `p` is at most 1 − level."""
    differences: list[float] = field(default_factory=list)
    """By the seeds of both."""
    improvement: Interval | None = None
    """Probability that one run of the choice is better than one of the baseline; of replicated numbers with a direction."""
    floor: float | None = None
    """Least difference of two single, unpaired runs that is not chance, where the study tells."""
    margin: float | None = None
    """Differences below it are nothing in practice, as the user says."""
    same_p: float | None = None
    """Of a difference of `margin` or more, after Holm's correction over all comparisons with a margin."""
    same: bool = False
    """Whether `same_p` is at most 1 − level, and the interval over images lies within the margin."""
    needed: NeededSeeds | None = None

    @property
    def replicated(self) -> bool:
        return len(self.seeds) > 1 or self.apart is not None

    @property
    def deciding(self) -> Interval | None:
        """What the p-value is of: seeds where replicated, else images."""
        return self.over_seeds if self.replicated else self.over_images

    @property
    def identical(self) -> bool:
        """No seed differs at all."""
        if self.apart is not None:
            return self.over_seeds is not None and self.over_seeds.value == 0 and self.over_seeds.se == 0
        return bool(self.differences) and not any(self.differences)

    @property
    def below_floor(self) -> bool:
        """Of samples at one seed, without any interval: whether two runs of one choice differ by as much."""
        single = len(self.seeds) == 1 and self.over_images is None and self.measure.kind is NumberKind.SAMPLES
        return single and self.floor is not None and abs(self.differences[0]) < self.floor

    @property
    def images_object(self) -> bool:
        """Whether the difference over seeds might vanish over other images."""
        return self.replicated and self.over_images is not None and not self.over_images.excludes_zero

    @property
    def uncorrected_p(self) -> float | None:
        """None where the comparison is outside the family that is corrected: there is no interval, or nothing can differ."""
        return None if self.deciding is None or self.identical or self.copy is not None else self.deciding.p

    @property
    def verdict(self) -> Verdict:
        if self.copy is not None:
            return Verdict.CONSTRUCTION
        if self.identical and not self.lacking:
            return Verdict.IDENTICAL
        if self.below_floor and not self.lacking:
            return Verdict.OPEN
        if self.deciding is None or self.p is None or self.lacking:
            return Verdict.NONE
        if not self.holds or self.images_object:
            return Verdict.SAME if self.same else Verdict.OPEN
        better = self.deciding.value * self.measure.better > 0
        if self.replicated:
            return Verdict.BETTER if better else Verdict.WORSE
        return Verdict.AHEAD if better else Verdict.BEHIND
