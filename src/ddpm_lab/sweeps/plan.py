"""What a sweep is given: command lines that were checked, what starting them needs to know, and how a search scores them."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Span(NamedTuple):
    """All numbers from `low` to `high`; integers, every `step`-th of them, where `whole`; by their logarithm where `log`."""

    low: float
    high: float
    whole: bool
    step: int
    log: bool


@dataclass(frozen=True)
class PlannedRun:
    """One command line of a sweep."""

    overrides: list[str]
    identity: str
    """Hash of its configuration. The same for runs that differ in nothing but where they are written."""
    training: str
    """Hash of all that its training depends on. Runs that share it train the same network; empty if it is never shared."""
    max_steps: int
    fast_dev_run: bool
    devices: int | None
    """Processes of the run; None if it takes all devices of its machine."""
    on_gpu: bool
    unnamed: tuple[str, ...] = ()
    """Which of "group" and "name" its logger has and nobody gave."""


@dataclass(frozen=True)
class SearchPlan:
    """A search. The runs of its plan are the corners of what is searched: every listed value with every end of an interval."""

    trials: int
    metric: str
    method: str
    """tpe: Parzen estimators (Bergstra et al. 2011); random: draws without a model."""
    seed: int
    spans: Mapping[str, Span]
    plan: Callable[[Sequence[str]], PlannedRun]
    """From overrides to a run. Raises UserError for a combination that cannot be trained."""
    direction: Callable[[str], int]
    """−1 if lower values of a number are better, 1 if higher, 0 if neither."""
    changes_measurement: Callable[[str], bool]
    """Whether a key changes what is measured, or how, so that numbers under its values cannot be ranked."""
    incomparable: Callable[[dict[str, Any], dict[str, Any]], Sequence[object]]
    """The differences of two records for which their numbers cannot be ranked, in words."""


@dataclass(frozen=True)
class Plan:
    """What `python train.py -m` starts. `name`, `n_jobs` and `show` are keys of conf/sweep/none.yaml."""

    runs: list[PlannedRun]
    place: Path
    """Folder of the sweep folders."""
    program: list[str]
    """Command that trains one run, up to its overrides."""
    alone: Sequence[str]
    """Arguments behind the overrides, by which a run is no sweep itself."""
    name: str | None = None
    n_jobs: int | None = None
    show: bool = False
    again: Sequence[str] = ()
    """Arguments to repeat in a command line shown to the user, as --config-dir=FOLDER."""
    search: SearchPlan | None = None
    notes: Sequence[str] = ()
    """Lines printed before the first run starts."""


def hashed(content: Any) -> str:
    """Hash of plain containers, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
