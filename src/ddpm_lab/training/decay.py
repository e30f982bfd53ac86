"""The learning rate over a run, as a share of its largest: a linear rise, then a decay. t counts steps from 0."""

import math
from typing import Literal

Decay = Literal["none", "cosine", "linear", "inverse_sqrt"]


def warm_up(t: int, steps: int) -> float:
    """min(t / steps, 1), and 1 without a warm-up (Ho et al., code: lr · step / warmup)."""
    return min(t / steps, 1.0) if steps else 1.0


def cosine(done: float, final: float) -> float:
    """final + (1 − final) (1 + cos π·done)/2: SGDR (Loshchilov & Hutter 2017) Eq. 5 without restarts. `done`: the share of the
    decay that is over, 0 to 1."""
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def linear(done: float, final: float) -> float:
    """1 − (1 − final)·done."""
    return 1 - (1 - final) * done


def inverse_sqrt(t: int, start: int) -> float:
    """1/√max(t/start, 1): EDM2 (Karras et al. 2024), whose t_ref is `start`; with `start` at the end of the warm-up that of
    Vaswani et al. 2017 §5.3."""
    return max(t / start, 1.0) ** -0.5


OVER_RUN = {"cosine": cosine, "linear": linear}
"""Decays that end where the run does: runs of other lengths have other rates from the first step of the decay on."""


class Rate:
    """Warm-up, then a decay: the share of the largest learning rate in the update after t others.

    `start`: the step from which it falls; None is the end of the warm-up. `final`: the share at the end of a cosine or a line,
    None is 0; it is reached at t = `steps`, one step after the last update of a run of so many. Raises ValueError for settings
    that this decay does not have, and for a decay that begins before the warm-up ends or not before the run does.
    """

    def __init__(self, warmup: int, decay: Decay, final: float | None, start: int | None, steps: int | None) -> None:
        self.warmup, self.decay, self.final, self.steps = warmup, decay, final or 0.0, steps
        self.start = warmup if start is None else start
        if start is not None and decay == "none":
            raise ValueError(f"decay_start={start}: decay=none falls nowhere: leave it null, or choose a decay")
        if final is not None and decay not in OVER_RUN:
            raise ValueError(f"decay_final={final}: decay={decay} has no end: leave it null, or choose decay=cosine or linear")
        if decay != "none":
            self._check_start("warmup" if start is None else "decay_start")

    def _check_start(self, name: str) -> None:
        if self.start < self.warmup:
            raise ValueError(
                f"decay_start={self.start}: the learning rate rises until warmup={self.warmup}: allowed is no less"
            )
        if self.decay in OVER_RUN and self.steps is None:
            raise ValueError(f"steps=None: decay={self.decay} needs the number of steps of the run")
        if self.decay == "inverse_sqrt" and self.start == 0:
            raise ValueError("decay_start=null: decay=inverse_sqrt falls from the end of the warm-up; without one type a step")
        if self.steps is not None and self.start >= self.steps:
            raise ValueError(
                f"{name}={self.start}: from there on decay={self.decay} lets the learning rate fall, and the run has "
                f"trainer.max_steps={self.steps}: allowed is less than that"
            )

    @property
    def of_length(self) -> bool:
        """Whether a longer run has other rates from the beginning of the decay on."""
        return self.decay in OVER_RUN

    def in_words(self) -> str:
        """How the learning rate falls; empty where it does not."""
        if self.decay == "none":
            return ""
        end = f" to step {self.steps} and {self.final:g} of it" if self.of_length else ""
        return f"learning rate falls by {self.decay} from step {self.start}{end}"

    def __call__(self, t: int) -> float:
        rise = warm_up(t, self.warmup)
        if self.decay == "none":
            return rise
        if self.decay == "inverse_sqrt":
            return rise * inverse_sqrt(t, self.start)
        assert self.steps is not None
        done = min(max((t - self.start) / (self.steps - self.start), 0.0), 1.0)
        return rise * OVER_RUN[self.decay](done, self.final)
