"""`sweep=search`: optuna proposes each next run by what came of those before; the sweep trains it like any other.

What a search knows is its runs: their overrides in sweep.json and the number in each summary.json. So a study is built anew
from them at every start, and nothing else is kept. Each proposal has a seed of its own: one run at a time, a search that was
stopped proposes what it would have proposed.
"""

import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm_lab.cli.overrides import Span
from ddpm_lab.cli.preflight import Arm, preflight
from ddpm_lab.cli.sweep_record import Entry, Sweep
from ddpm_lab.cli.sweep_report import say
from ddpm_lab.compare.measures import named
from ddpm_lab.errors import UserError

ATTEMPTS = 200
"""Proposals in a row that were tried before, or cannot be, after which a search ends."""
DIGITS = 5
"""Of a number that is proposed."""


def is_search(arms: Sequence[Arm]) -> bool:
    return "trials" in arms[0].config.sweep


def check(arms: Sequence[Arm]) -> None:
    """Refuse what nothing can be found by. `arms` are the corners of what is searched."""
    settings, varied = arms[0].config.sweep, _varied(arms)
    if importlib.util.find_spec("optuna") is None:
        raise UserError("sweep=search: the package optuna is not installed: pip install 'ddpm-lab[search]'")
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
    if not varied:
        raise UserError(
            "sweep=search: nothing to choose among: add values, as schedule=linear,cosine optim.lr=interval(1e-4,1e-2)"
        )
    n = math.prod(map(len, varied.values()))
    if n != len(arms):
        raise UserError("sweep=search: sweep.arms of a search is one line: every value of it goes with every other")
    if not arms[0].spans and n <= settings.trials:
        raise UserError(f"sweep.trials={settings.trials}: these are {n} runs in all: sweep=none trains each of them once")


def _varied(arms: Sequence[Arm]) -> dict[str, list[str]]:
    """By key, the arguments that give it a value, where there are several."""
    words = dict.fromkeys(word for arm in arms for word in arm.overrides)
    found: dict[str, list[str]] = {}
    for word in words:
        found.setdefault(_key(word), []).append(word)
    return {key: own for key, own in found.items() if len(own) > 1}


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
        self._tried = {frozenset(entry.overrides) for entry in found.entries}
        for entry in found.entries:
            self._open[entry.number] = self._trial(self._params(entry.overrides))
            if entry.state == "done":
                self.tell(entry)

    def ask(self) -> Arm | None:
        """The next arm; None where there shall be no more."""
        number = len(self.sweep.entries)
        if number >= self.trials:
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
                say(f"passed over, as it cannot be: {error}")
                continue
            self._open[number] = self._trial(params)
            return arm
        say(f"nothing new was proposed {ATTEMPTS} times, so the search ends at {number} of {self.trials}")
        return None

    def arm(self, overrides: Sequence[str]) -> Arm:
        """Checked. Raises UserError for one that cannot be."""
        (arm,) = preflight([*overrides, "sweep=none", "sweep.arms=[]", "launcher=local", *self.passed_on])
        return arm

    def tell(self, entry: Entry) -> None:
        """What became of an arm. Raises UserError where its summary has no such number."""
        from optuna.trial import TrialState

        trial = self._open.pop(entry.number)
        if entry.state == "done":
            self._study.tell(trial, self.value(entry))
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def value(self, entry: Entry) -> float:
        metrics = _metrics(self.sweep.place(entry))
        if self.metric not in metrics:
            raise UserError(
                f"sweep.metric={self.metric}: {self.sweep.place(entry)} has no such number; it has "
                f"{', '.join(key for key in metrics if named(key).better)}"
            )
        return metrics[self.metric]["value"]

    def ranking(self) -> list[tuple[Entry, float]]:
        """Done arms, the best first."""
        done = [(entry, self.value(entry)) for entry in self.sweep.entries if entry.state == "done"]
        return sorted(done, key=lambda pair: -self.better * pair[1])

    def _proposed(self, number: int, attempt: int) -> dict[str, Any]:
        from optuna.samplers import RandomSampler, TPESampler
        from optuna.trial import TrialState

        seed = (self._seed * 1_000_003 + number * ATTEMPTS + attempt) % 2**32
        tpe = self._method == "tpe"
        self._study.sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True) if tpe else RandomSampler(seed=seed)
        trial = self._study.ask(self._distributions)
        self._study.tell(trial, state=TrialState.FAIL)  # it counts for nothing: what is trained has rounded numbers
        return {key: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for key, value in trial.params.items()}

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


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())["metrics"]


def _distribution(words: Sequence[str], span: Span | None) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if span is None:
        return CategoricalDistribution(tuple(words))
    if span.whole:
        return IntDistribution(int(span.low), int(span.high), log=span.log, step=span.step)
    return FloatDistribution(span.low, span.high, log=span.log)
