"""`sweep=search`: optuna proposes each next run by what came of those before; the sweep trains it like any other.

What a search knows is its runs: their overrides in sweep.json and the number in each summary.json. So a study is built anew
from them at every start, and nothing else is kept. Each proposal has a seed of its own: one run at a time, a search that was
stopped proposes what it would have proposed.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_lab.compare.choices import IGNORED_KEYS as IGNORED
from ddpm_lab.compare.judge import OF_TRAINING
from ddpm_lab.compare.measures import measure_of as named
from ddpm_lab.config.grammar import Span
from ddpm_lab.config.preflight import Arm, preflight
from ddpm_lab.errors import UserError, require
from ddpm_lab.sweeps.record import Entry, Sweep
from ddpm_lab.sweeps.report import say

ATTEMPTS = 200
"""Proposals in a row that were tried before, or cannot be, after which a search ends."""
NOT_COMPARED = ("data.", *(key for key in IGNORED if key not in ("resume", "seed")))
DIGITS = 5
"""Of a number that is proposed."""


def is_search(arms: Sequence[Arm]) -> bool:
    return "trials" in arms[0].config.sweep


def check(arms: Sequence[Arm]) -> None:
    """Refuse what nothing can be found by. `arms` are the corners of what is searched."""
    settings, varied, distinct = arms[0].config.sweep, _varied(arms), {frozenset(arm.overrides) for arm in arms}
    require("optuna", "search", "sweep=search: ")
    if named(settings.metric).better == 0:
        raise UserError(
            f"sweep.metric={settings.metric}: not a number of which one side is known to be better; allowed are bound_bpd, or "
            "as summary.json names them pixels_fd, fid@5000, …"
        )
    if any(arm.config.trainer.fast_dev_run for arm in arms):
        raise UserError("trainer.fast_dev_run=true measures nothing that a search could go by: use trainer.max_steps")
    if any(arm.config.resume is not None for arm in arms):
        raise UserError("resume: a search trains runs from the start: leave resume out")
    if "seed" in varied:
        raise UserError("seed: a search over seeds finds luck: search with one, then train what it found with others")
    for key in varied:
        if key in ("data", "metrics", "callbacks", "logger") or (key.startswith(NOT_COMPARED) and key not in OF_TRAINING):
            raise UserError(f"{key}: changes what is measured or how, and such numbers are no better or worse: search with one")
    if not varied:
        raise UserError(
            "sweep=search: nothing to choose among: add values, as schedule=linear,cosine optim.lr=interval(1e-4,1e-2)"
        )
    if math.prod(map(len, varied.values())) != len(distinct):
        raise UserError("sweep=search: sweep.arms of a search is one line: every value of it goes with every other")
    n = math.prod(_values(words, arms[0].spans.get(key)) for key, words in varied.items())
    if n <= settings.trials:
        listed = "" if not arms[0].spans else ", with a range() in place of each interval,"
        raise UserError(
            f"sweep.trials={settings.trials}: these are {n} runs in all: sweep=none{listed} trains each of them once"
        )


def _varied(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """By key, the arguments that give it a value, where there are several."""
    words = dict.fromkeys(word for arm in arms for word in arm.overrides)
    found: dict[str, list[str]] = {}
    for word in words:
        found.setdefault(_key(word), []).append(word)
    return {key: own for key, own in found.items() if len(own) > 1}


def _values(words: Sequence[str], span: Span | None) -> float:
    """How many there are."""
    if span is None:
        return len(words)
    return int((span.high - span.low) // span.step) + 1 if span.whole else math.inf


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


class Search:
    """Proposes arms until there are `sweep.trials` of them. `found` may hold some of an earlier start."""

    def __init__(self, found: Sweep, arms: Sequence[Arm], passed_on: Sequence[str]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        settings = arms[0].config.sweep
        self.sweep, self.passed_on, self.trials, self.metric = found, list(passed_on), settings.trials, settings.metric
        self.better, self._seed, self._method = named(settings.metric).better, settings.seed, settings.method
        self._order, self._varied, self._spans = arms[0].overrides, _varied(arms), arms[0].spans
        self._distributions = {key: _distribution(words, self._spans.get(key)) for key, words in self._varied.items()}
        self._study = optuna.create_study(direction="minimize" if self.better < 0 else "maximize")
        self._open: dict[int, Any] = {}
        self._exhausted = False
        self._tried = {frozenset(entry.overrides) for entry in found.entries}
        for entry in found.entries:
            self._open[entry.number] = self._trial(self._params(entry.overrides))
            if entry.state == "done":
                self.tell(entry)

    def ask(self) -> Arm | None:
        """The next arm; None where there shall be no more."""
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
                arm = self.arm(overrides)
            except UserError as error:
                refused = str(error)
                say(f"passed over, as it cannot be: {' '.join(overrides)}: {refused}")
                continue
            self._open[number] = self._trial(params)
            return arm
        if number == 0:
            raise UserError(f"sweep=search: none of {ATTEMPTS} runs that were proposed can be; the last: {refused}")
        say(f"nothing new was proposed {ATTEMPTS} times, so the search ends at {number} of {self.trials}")
        self._exhausted = True
        return None

    def arm(self, overrides: Sequence[str]) -> Arm:
        """Checked. Raises UserError for one that cannot be."""
        (arm,) = preflight([*overrides, "sweep=none", "sweep.arms=[]", "launcher=local", *self.passed_on])
        return arm

    def tell(self, entry: Entry) -> None:
        """What became of an arm: nothing is learnt from one that failed, or whose samples were too bad for a score. Raises
        UserError where the number was not to be measured at all."""
        from optuna.trial import TrialState

        trial, value = self._open.pop(entry.number), self._value(entry)
        if value is not None:
            self._study.tell(trial, value)
            return
        self._study.tell(trial, state=TrialState.FAIL)
        place = self.sweep.place(entry)
        if entry.state == "done" and self.metric not in metrics_of(place):
            there = ", ".join(key for key in metrics_of(place) if named(key).better)
            raise UserError(f"sweep.metric={self.metric}: {place} has no such number; it has {there}")

    def _value(self, entry: Entry) -> float | None:
        found = metrics_of(self.sweep.place(entry)).get(self.metric, {}).get("value") if entry.state == "done" else None
        return found if found is not None and math.isfinite(found) else None

    def ranking(self) -> list[tuple[Entry, float]]:
        """Arms that have the number, the best first."""
        known = [(entry, value) for entry in self.sweep.entries if (value := self._value(entry)) is not None]
        return sorted(known, key=lambda pair: -self.better * pair[1])

    def _proposed(self, number: int, attempt: int) -> dict[str, Any]:
        from optuna.samplers import RandomSampler, TPESampler
        from optuna.trial import TrialState

        seed = (self._seed * 1_000_003 + number * ATTEMPTS + attempt) % 2**32
        tpe = self._method == "tpe"
        self._study.sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True) if tpe else RandomSampler(seed=seed)
        trial = self._study.ask(self._distributions)
        self._study.tell(trial, state=TrialState.FAIL)  # it counts for nothing: what is trained has rounded numbers
        return {key: self._rounded(key, value) for key, value in trial.params.items()}

    def _rounded(self, key: str, value: Any) -> Any:
        """To digits that can be read, within its interval."""
        if not isinstance(value, float):
            return value
        span = self._spans[key]
        return min(max(float(f"{value:.{DIGITS}g}"), span.low), span.high)

    def _trial(self, params: dict[str, Any]) -> Any:
        """A trial of just these, under way."""
        self._study.enqueue_trial(params)
        return self._study.ask(self._distributions)

    def _overrides(self, params: dict[str, Any]) -> list[str]:
        chosen = {key: self._varied[key][0].partition("=")[0] + f"={value}" if key in self._spans else value
                  for key, value in params.items()}  # fmt: skip
        return [chosen.get(_key(word), word) for word in self._order]

    def _params(self, overrides: Sequence[str]) -> dict[str, Any]:
        given = {_key(word): word for word in overrides}

        def value(key: str) -> Any:
            span, text = self._spans.get(key), given[key].partition("=")[2]
            return given[key] if span is None else int(text) if span.whole else float(text)

        return {key: value(key) for key in self._varied}


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text()).get("metrics", {})


def _distribution(words: Sequence[str], span: Span | None) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if span is None:
        return CategoricalDistribution(tuple(words))
    if span.whole:
        return IntDistribution(int(span.low), int(span.high), log=span.log, step=span.step)
    return FloatDistribution(span.low, span.high, log=span.log)
