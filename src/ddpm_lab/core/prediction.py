"""What the network predicts: ε, x_0, v or μ̃. Each gives its training target, and x̂_0 from the network's output."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm_lab.core.path import Step
from ddpm_lab.core.types import Coefficient, Data


class Prediction(ABC):
    """`needs_signal`: x̂_0 is not defined where ᾱ_t = 0.
    `clips`: x̂_0 is limited to [−1, 1] by default, on data with grey levels.
    `weighable`: weights on the error of x̂_0 that are bounded on the output's: "snr", those that vanish with the signal, and
    "x0", those that do not.
    """

    needs_signal = False
    clips = True
    weighable: Sequence[str] = ("snr", "x0")

    def inputs(self, xt: Data, told: Tensor, step: Step) -> tuple[Data, Tensor]:
        """What the network gets for x_t, and for the times that the schedule tells it, shape [B]: both as they are."""
        return xt, told

    @abstractmethod
    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        """The training target."""

    @abstractmethod
    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        """x̂_0 from the network's output."""

    @abstractmethod
    def x0_weight(self, step: Step) -> Coefficient:
        """Ratio of the output's squared error to that of x̂_0."""


class Eps(Prediction):
    """The noise ε, DDPM section 3.2; x̂_0 by Eq. 15. Errors in x̂_0 are 1/√ᾱ_t times larger: up to 157 for linear, 20,000 for
    cosine."""

    needs_signal = True
    weighable = ("snr",)

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return eps

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        x0 = xt - step.at_t.noise_scale * out
        x0 /= step.at_t.signal_scale
        return x0

    def x0_weight(self, step: Step) -> Coefficient:
        return step.at_t.snr


class X0(Prediction):
    """The data, DDPM section 3.2 ("predicting x_0")."""

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return x0

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        return out

    def x0_weight(self, step: Step) -> Coefficient:
        return torch.ones_like(step.at_t.signal_scale)


class V(Prediction):
    """The velocity, Salimans & Ho 2022 appendix D: v = √ᾱ ε − √(1−ᾱ) x_0."""

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return step.at_t.signal_scale * eps - step.at_t.noise_scale * x0

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        return step.at_t.signal_scale * xt - step.at_t.noise_scale * out

    def x0_weight(self, step: Step) -> Coefficient:
        return step.at_t.snr + 1


class Mu(Prediction):
    """The mean of q(x_{t−1} | x_t, x_0), the target of DDPM Eq. 8. x̂_0 magnifies errors and is not clipped by default: Ho et
    al. use the mean itself."""

    clips = False
    weighable = ()

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        return step.mu(x0, xt)

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        return (out - step.mu.xt_coef * xt) / step.mu.x0_coef

    def x0_weight(self, step: Step) -> Coefficient:
        return step.mu.x0_coef**2
