"""What the network predicts. A prediction knows its target, and how x̂_0 follows from the network's output."""

from typing import Protocol, runtime_checkable

from ddpm_lab.core.schedule import Step
from ddpm_lab.core.types import Data


@runtime_checkable
class Prediction(Protocol):
    """`target`: what the network should say; `x0`: the x̂_0 that follows from what it says. `needs_signal`: x̂_0 is not defined
    where ᾱ_t = 0."""

    needs_signal: bool

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data: ...
    def x0(self, out: Data, xt: Data, step: Step) -> Data: ...


class Eps:
    """The noise, DDPM section 3.2; x̂_0 by Eq. 15. It is amplified by 1/√ᾱ_t: up to 157 for linear, 20,000 for cosine."""

    needs_signal = True

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return eps

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        return (xt - step.at_t.noise_scale * out) / step.at_t.signal_scale


class V:
    """The velocity, Salimans & Ho 2022 appendix D: v = √ᾱ ε − √(1−ᾱ) x_0."""

    needs_signal = False

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return step.at_t.signal_scale * eps - step.at_t.noise_scale * x0

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        return step.at_t.signal_scale * xt - step.at_t.noise_scale * out
