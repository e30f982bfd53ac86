"""`sweep=search`: optuna proposes each next run from the results of those before; the sweep trains it like any other.

The state of a search is its runs: their overrides in sweep.json and the number in each summary.json. The study is built from
them at every start, and nothing else is stored. Each proposal has its own seed: one run at a time, a search that was stopped
proposes what it would have proposed.
"""

import math
from collections.abc import Sequence
from typing import Any

from ddpm_lab.errors import UserError, require
from ddpm_lab.files import read_json
from ddpm_lab.sweeps.plan import PlannedRun, SearchPlan, Span
from ddpm_lab.sweeps.report import say
from ddpm_lab.sweeps.state import Entry, Sweep

ATTEMPTS = 200
"""Proposals in a row that were tried before, or cannot be trained, after which a search ends."""
DIGITS = 5
"""Significant digits of a proposed number."""


def check_search(corners: Sequence[PlannedRun], search: SearchPlan) -> None:
    """Raises UserError for a search that can find nothing. `corners`: every listed value with every end of an interval."""
    metric, values = search.metric, _varied(corners)
    require("optuna", "search", "sweep=search: ")
    if search.direction(metric) == 0:
        raise UserError(
            f"sweep.metric={metric}: neither side of this number is known to be better; allowed are bound_bpd, or "
            "as summary.json names them pixels_fd, fid@5000, …"
        )
    if any(run.fast_dev_run for run in corners):
        raise UserError("trainer.fast_dev_run=true measures nothing that a search could rank by: use trainer.max_steps")
    if "seed" in values:
        raise UserError("seed: the best of several seeds is luck: search with one, then train the best with others")
    for key in values:
        if search.changes_measurement(key):
            raise UserError(f"{key}: changes what is measured or how, and such numbers are no better or worse: search with one")
    _check_size(corners, search, values)


def _check_size(corners: Sequence[PlannedRun], search: SearchPlan, values: dict[str, list[str]]) -> None:
    if not values:
        raise UserError(
            "sweep=search: nothing to choose among: add values, as schedule=linear,cosine optim.lr=interval(1e-4,1e-2)"
        )
    if math.prod(map(len, values.values())) != len({frozenset(run.overrides) for run in corners}):
        raise UserError("sweep=search: sweep.arms of a search is one line: every value of it goes with every other")
    n = math.prod(_count(words, search.spans.get(key)) for key, words in values.items())
    if n <= search.trials:
        listed = ", with a range() in place of each interval," if search.spans else ""
        raise UserError(f"sweep.trials={search.trials}: these are {n} runs in all: sweep=none{listed} trains each of them once")


def _varied(runs: Sequence[PlannedRun]) -> dict[str, list[str]]:
    """The arguments that set each key, for keys with several."""
    words: dict[str, list[str]] = {}
    for word in dict.fromkeys(word for run in runs for word in run.overrides):
        words.setdefault(_key(word), []).append(word)
    return {key: several for key, several in words.items() if len(several) > 1}


def _count(words: Sequence[str], span: Span | None) -> float:
    """Number of values."""
    if span is None:
        return len(words)
    return int((span.high - span.low) // span.step) + 1 if span.whole else math.inf


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


class Search:
    """Proposes runs until there are `sweep.trials` of them. `sweep` may hold some of an earlier start."""

    def __init__(self, sweep: Sweep, corners: Sequence[PlannedRun], search: SearchPlan) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.search = sweep, search
        self.trials, self.metric = search.trials, search.metric
        self.better = search.direction(self.metric)
        self._order, self._varied = corners[0].overrides, _varied(corners)
        self._distributions = {key: _distribution(words, search.spans.get(key)) for key, words in self._varied.items()}
        self._study = optuna.create_study(direction="minimize" if self.better < 0 else "maximize")
        self._open: dict[int, Any] = {}
        self._first: Entry | None = None
        self._exhausted = False
        self._tried = {frozenset(entry.overrides) for entry in sweep.entries}
        for entry in sweep.entries:
            self._open[entry.number] = self._trial(self._params(entry.overrides))
            if entry.state == "done":
                self.tell(entry)

    def ask(self) -> PlannedRun | None:
        """The next run; None if there are to be no more."""
        number, refused = len(self.sweep.entries), ""
        if number >= self.trials or self._exhausted:
            return None
        for attempt in range(ATTEMPTS):
            params = self._proposed(number, attempt)
            overrides = self._overrides(params)
            if (words := frozenset(overrides)) in self._tried:
                continue
            self._tried.add(words)
            try:
                run = self.search.plan(overrides)
            except UserError as error:
                refused = str(error)
                say(f"passed over, as it cannot be trained: {' '.join(overrides)}: {refused}")
                continue
            self._open[number] = self._trial(params)
            return run
        if number == 0:
            raise UserError(f"sweep=search: none of {ATTEMPTS} proposed runs can be trained; the last: {refused}")
        say(f"nothing new was proposed {ATTEMPTS} times, so the search ends at {number} of {self.trials}")
        self._exhausted = True
        return None

    def tell(self, entry: Entry) -> None:
        """The outcome of a run. Nothing is learnt from one that failed, or whose number is missing. Raises UserError if its
        configuration does not measure the number at all, or measures it otherwise than the first run did."""
        value = self._value(entry)
        self._end(self._open.pop(entry.number), value)
        if value is None and entry.state == "done" and self.metric not in (scores := self._scores(entry)):
            rankable = ", ".join(key for key in scores if self.search.direction(key)) or "none to rank by"
            raise UserError(f"sweep.metric={self.metric}: {self.sweep.place(entry)} has no such number; it has {rankable}")
        if value is not None:
            self._first = self._first or entry
            self._check_alike(self._first, entry)

    def _check_alike(self, first: Entry, other: Entry) -> None:
        """Raises UserError where the numbers of two runs may not be held against each other."""
        a, b = (
            {key: field for key, field in self._scores(entry)[self.metric].items() if key not in ("value", "standard_error")}
            for entry in (first, other)
        )
        if wrong := self.search.incomparable(a, b):
            places = f"{self.sweep.place(first)} against {self.sweep.place(other)}"
            raise UserError(f"sweep.metric={self.metric}: {places}: these cannot be ranked: {'; '.join(map(str, wrong))}")

    def _scores(self, entry: Entry) -> dict[str, dict[str, Any]]:
        """The numbers of a finished run with their records, by key."""
        return read_json(self.sweep.place(entry) / "summary.json").get("metrics", {})

    def _value(self, entry: Entry) -> float | None:
        value = self._scores(entry).get(self.metric, {}).get("value") if entry.state == "done" else None
        return value if value is not None and math.isfinite(value) else None

    def ranking(self) -> list[tuple[Entry, float]]:
        """Runs that have the number, the best first."""
        known = [(entry, value) for entry in self.sweep.entries if (value := self._value(entry)) is not None]
        return sorted(known, key=lambda pair: -self.better * pair[1])

    def _proposed(self, number: int, attempt: int) -> dict[str, Any]:
        from optuna.samplers import RandomSampler, TPESampler

        seed = (self.search.seed * 1_000_003 + number * ATTEMPTS + attempt) % 2**32
        if self.search.method == "tpe":
            self._study.sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True)
        else:
            self._study.sampler = RandomSampler(seed=seed)
        trial = self._study.ask(self._distributions)
        self._end(trial, None)  # no evidence: the run that is trained has rounded numbers
        return {key: self._rounded(key, value) for key, value in trial.params.items()}

    def _rounded(self, key: str, value: Any) -> Any:
        """To DIGITS, within its interval."""
        if not isinstance(value, float):
            return value
        span = self.search.spans[key]
        return min(max(float(f"{value:.{DIGITS}g}"), span.low), span.high)

    def _trial(self, params: dict[str, Any]) -> Any:
        """A trial of just these, under way."""
        self._study.enqueue_trial(params)
        return self._study.ask(self._distributions)

    def _end(self, trial: Any, value: float | None) -> None:
        """Of a trial, with its value or without evidence."""
        from optuna.trial import TrialState

        self._study.tell(trial, value, TrialState.FAIL if value is None else TrialState.COMPLETE)

    def _overrides(self, params: dict[str, Any]) -> list[str]:
        """The whole command line of a run. Choices are words already, numbers are written behind their key."""

        def word(of_corner: str) -> str:
            key, typed = _key(of_corner), of_corner.partition("=")[0]
            return f"{typed}={params[key]}" if key in self.search.spans else params.get(key, of_corner)

        return list(map(word, self._order))

    def _params(self, overrides: Sequence[str]) -> dict[str, Any]:
        """What `_overrides` made a command line of."""
        words = {_key(word): word for word in overrides if _key(word) in self._varied}
        spans = {key: span for key, span in self.search.spans.items() if key in words}
        numbers = {key: (int if span.whole else float)(words[key].partition("=")[2]) for key, span in spans.items()}
        return {key: numbers.get(key, words[key]) for key in self._varied}


def _distribution(words: Sequence[str], span: Span | None) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if span is None:
        return CategoricalDistribution(tuple(words))
    if span.whole:
        return IntDistribution(int(span.low), int(span.high), log=span.log, step=span.step)
    return FloatDistribution(span.low, span.high, log=span.log)
