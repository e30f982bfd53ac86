"""What the network predicts: ε, x_0, v, μ̃ or F of EDM. Each gives what the network sees, its training target, and x̂_0 from its
output."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm_lab.core.path import Marginal, Step, by_row
from ddpm_lab.core.types import Coefficient, Data
from ddpm_lab.domains import PositiveFloat, checked


class Prediction(ABC):
    """`needs_signal`: x̂_0, or what the network is told, is not defined where ᾱ_t = 0.
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


@checked
class EDM(Prediction):
    """F of EDM (Karras et al. 2022) Eq. 7, 8 and Table 1: x̂_0 = c_skip x̃ + c_out F(c_in x̃, c_noise), x̃ = x_t/√ᾱ_t = x_0 + σ ε.

    For data of standard deviation `sigma_data`, σ_d, the network's input and its target have variance 1 at every t. It is told
    c_noise = ¼ ln σ and no t: the paper's number, some −1.2 to 2.5 on the schedules here, in the sinusoids that serve t, as in
    the paper's own networks; `net.time_scale` of a UNet multiplies it. σ_d = 1 is V with the opposite sign.

    All is written in α = √ᾱ_t and s = √(1−ᾱ_t), with σ = s/α: nothing overflows where α is small.
    """

    needs_signal = True

    def __init__(self, sigma_data: PositiveFloat = 0.5) -> None:
        self.sigma_data = sigma_data

    def std(self, at_t: Marginal) -> Coefficient:
        """√(s² + α² σ_d²), the standard deviation of x_t."""
        return (at_t.noise_scale**2 + (self.sigma_data * at_t.signal_scale) ** 2).sqrt()

    def inputs(self, xt: Data, told: Tensor, step: Step) -> tuple[Data, Tensor]:
        """EDM Table 1: c_in x̃ = x_t / √(s² + α² σ_d²), and c_noise = ¼ ln σ."""
        c_noise = (step.at_t.noise_scale.log() - step.at_t.signal_scale.log()) / 4
        return xt / self.std(step.at_t), by_row(c_noise, xt)

    def target(self, x0: Data, eps: Data, xt: Data, step: Step) -> Data:
        """EDM Eq. 8: (x_0 − c_skip x̃) / c_out, which is (s x_0 − α σ_d² ε) / (σ_d √(s² + α² σ_d²))."""
        alpha, s, sigma_d = step.at_t.signal_scale, step.at_t.noise_scale, self.sigma_data
        return (s * x0 - alpha * sigma_d**2 * eps) / (sigma_d * self.std(step.at_t))

    def x0(self, out: Data, xt: Data, step: Step) -> Data:
        """EDM Eq. 7: c_skip x̃ = α σ_d² x_t / (s² + α² σ_d²), c_out = s σ_d / √(s² + α² σ_d²)."""
        (alpha, s), std = step.at_t, self.std(step.at_t)
        x0 = alpha * (self.sigma_data / std) ** 2 * xt
        x0 += s * self.sigma_data / std * out
        return x0

    def x0_weight(self, step: Step) -> Coefficient:
        """1/c_out²."""
        return step.at_t.snr + self.sigma_data**-2
