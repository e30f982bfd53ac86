"""What the network predicts. A prediction knows its target, and how x̂_0 follows from the network's output."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from ddpm_lab.core.path import Step
from ddpm_lab.core.types import Coefficient, Data


@runtime_checkable
class Prediction(Protocol):
    """`target`: what the network should say; `x0`: the x̂_0 that follows from what it says; `x0_weight`: how many times
    the squared error of x̂_0 that of the output is.

    `needs_signal`: x̂_0 is not defined where ᾱ_t = 0. `clips`: x̂_0 is limited to [−1, 1] unless told otherwise.
    `weighable`: which weights of losses (`loss.Weighted.weighs`) stay finite in it.
    """

    needs_signal: bool
    clips: bool
    weighable: Sequence[str]

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data: ...
    def x0(self, out: Data, xt: Data, step: Step) -> Data: ...
    def x0_weight(self, step: Step) -> Coefficient: ...


def snr(step: Step) -> Coefficient:
    """ᾱ_t / (1 − ᾱ_t)."""
    return (step.at_t.signal_scale / step.at_t.noise_scale) ** 2


class Eps:
    """The noise, DDPM section 3.2; x̂_0 by Eq. 15. It is amplified by 1/√ᾱ_t: up to 157 for linear, 20,000 for cosine."""

    needs_signal = True
    clips = True
    weighable = ("snr",)

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return eps

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        return (xt - step.at_t.noise_scale * out) / step.at_t.signal_scale

    def x0_weight(self, step: Step) -> Coefficient:
        return snr(step)


class X0:
    """The data, DDPM section 3.2 ("predicting x_0")."""

    needs_signal = False
    clips = True
    weighable = ("snr", "x0")

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return x0

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        return out

    def x0_weight(self, step: Step) -> Coefficient:
        return torch.ones_like(step.at_t.signal_scale)


class V:
    """The velocity, Salimans & Ho 2022 appendix D: v = √ᾱ ε − √(1−ᾱ) x_0."""

    needs_signal = False
    clips = True
    weighable = ("snr", "x0")

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return step.at_t.signal_scale * eps - step.at_t.noise_scale * x0

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        return step.at_t.signal_scale * xt - step.at_t.noise_scale * out

    def x0_weight(self, step: Step) -> Coefficient:
        return snr(step) + 1


class Mu:
    """The mean of q(x_{t−1} | x_t, x_0), DDPM Eq. 8. Its x̂_0 magnifies errors and is not clipped: Ho et al. use the mean as
    it comes."""

    needs_signal = False
    clips = False
    weighable = ()

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return step.mu_x0_coef * x0 + step.mu_xt_coef * xt

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        return (out - step.mu_xt_coef * xt) / step.mu_x0_coef

    def x0_weight(self, step: Step) -> Coefficient:
        return step.mu_x0_coef**2
