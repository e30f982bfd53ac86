"""Runs that train the same network. One of them trains it; the others wait, and measure it under their own choices."""

from collections.abc import Mapping, Sequence

from ddpm_lab.sweeps.plan import PlannedRun
from ddpm_lab.sweeps.state import Entry, Sweep


class Sharing:
    """`runs`: the planned run of each entry, by its hash."""

    def __init__(self, sweep: Sweep, runs: Mapping[str, PlannedRun]) -> None:
        self.sweep, self.runs = sweep, runs

    def _alike(self, entry: Entry) -> list[Entry]:
        """The other entries with the same training; none if it is never shared."""
        training = self._training(entry)
        return [other for other in self.sweep.entries if training and other is not entry and self._training(other) == training]

    def source(self, entry: Entry) -> Entry | None:
        """The entry whose network this one measures: it has trained it, and its checkpoint is there."""
        trained = [other for other in self._alike(entry) if other.state == "done" and other.network_of is None]
        return next((other for other in trained if self.sweep.checkpoint(other).exists()), None)

    def must_wait(self, entry: Entry, waiting: Sequence[Entry]) -> bool:
        """Whether another entry trains the network now, or will before this one. `waiting`: entries to be started. After a
        failure the next entry trains."""
        if self.source(entry) is not None:
            return False
        alike = self._alike(entry)
        first = min([entry, *(other for other in alike if other in waiting)], key=self._order)
        return first is not entry or any(other.state == "running" for other in alike)

    def _order(self, entry: Entry) -> tuple[bool, bool, int]:
        """What has begun to train goes first."""
        return entry.state != "stopped", not self.sweep.checkpoint(entry).exists(), entry.number

    def measured_alone(self) -> int:
        """How many entries train no network of their own, if none fails."""
        trainings = [training for entry in self.sweep.entries if (training := self._training(entry))]
        return len(trainings) - len(set(trainings))

    def _training(self, entry: Entry) -> str:
        return self.runs[entry.config].training if entry.config in self.runs else ""
