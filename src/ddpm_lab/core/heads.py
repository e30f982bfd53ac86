"""The diagonal of Cov(x_0 | x_t), as a trained head knows it: NPR and SN (Bao et al. 2022b, "Estimating the Optimal Covariance
with Imperfect Mean in Diffusion Probabilistic Models") and OCM (Ou et al. 2025, optimal covariance matching).

With α = √ᾱ_t and σ = √(1−ᾱ_t), x_0 = (x_t − σ ε)/α, so Cov(x_0 | x_t) = (σ²/α²) Cov(ε | x_t). A head h(x_t, t) is trained by
the squared error of a target whose mean given x_t yields Var(ε | x_t), the diagonal. ε̂ is what the x̂_0 of the network implies,
whatever it predicts; the network stays as it is.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ddpm_lab.core.diffusion import Noised, implied_eps
from ddpm_lab.core.types import Data, PerExample
from ddpm_lab.core.variance import ReverseVariance
from ddpm_lab.domains import PositiveFloat, Text, checked


class Observed(NamedTuple):
    """What a target is made of."""

    noised: Noised
    eps_hat: Data
    signs: Data
    """v, each ±1 with the same probability (Rademacher)."""
    pullback: Data | None
    """(∂x̂_0/∂x_t)ᵀ v, where `differentiates`."""


class HeadVariance(ReverseVariance):
    """σ² = β̃ + c² Cov(x_0 | x_t) with the diagonal of a head (`raw`).

    `clip_cov` limits it to [0, 1], which data in [−1, 1] cannot leave; off, to no less than 0. `max_last_noise` as of
    `analytic.Analytic`. `head`: the folder of the run that trained the head, for whoever loads it; None where evaluation looks
    for it beside the network.
    """

    n_outputs = 2
    differentiates = False
    """Whether the target needs a derivative of the network."""

    def __init__(self, head: Text | None = None, clip_cov: bool = True, max_last_noise: PositiveFloat | None = None) -> None:
        self.head, self.clip_cov, self.max_last_noise = head, clip_cov, max_last_noise

    @abstractmethod
    def target(self, seen: Observed) -> Data:
        """What h is trained to be."""

    @abstractmethod
    def eps_var(self, h: Data, eps_hat: Data) -> Data:
        """Var(ε | x_t) by dimension."""


def head_loss(h: Data, target: Data) -> PerExample:
    """‖target − h‖² over the number of dimensions; the target has no gradient."""
    return ((h - target.detach()) ** 2).flatten(1).mean(1)


@checked
class NPR(HeadVariance):
    """Bao et al. 2022b, noise prediction residual: the target is (ε − ε̂)², whose mean is Var(ε | x_t) where ε̂ = E[ε | x_t], and
    else that plus the squared error of ε̂: the best variance for the mean that there is."""

    def target(self, seen: Observed) -> Data:
        return (seen.noised.eps - seen.eps_hat) ** 2

    def eps_var(self, h: Data, eps_hat: Data) -> Data:
        return h


@checked
class SN(HeadVariance):
    """Bao et al. 2022b, squared noise: the target is ε², and Var(ε | x_t) = E[ε² | x_t] − ε̂² where ε̂ = E[ε | x_t]. A difference
    of two numbers near 1: where it is small, the errors of both are not."""

    def target(self, seen: Observed) -> Data:
        return seen.noised.eps**2

    def eps_var(self, h: Data, eps_hat: Data) -> Data:
        return h - eps_hat**2


@checked
class OCM(HeadVariance):
    """Ou et al. 2025, optimal covariance matching: Var(ε | x_t) = 1 + σ² (∇² log q(x_t))_ii, the second order of Tweedie's
    formula. The target is v ⊙ σ² H v, H v = ∇(s·v) with s = −ε̂/σ for ∇ log q: as E v vᵀ = I, its mean is the diagonal of σ² H.

    By s = (α x̂_0 − x_t)/σ² it is v ⊙ α (∂x̂_0/∂x_t)ᵀ v − 1.
    """

    differentiates = True

    def target(self, seen: Observed) -> Data:
        assert seen.pullback is not None, "differentiates"
        return seen.noised.step.at_t.signal_scale * seen.signs * seen.pullback - 1

    def eps_var(self, h: Data, eps_hat: Data) -> Data:
        return 1 + h


def pullback(prediction: Prediction, product: Data, v: Data, step: Step) -> Data:
    """(∂x̂_0/∂x_t)ᵀ v from (∂out/∂x_t)ᵀ v: x̂_0 is linear in the output and x_t together."""
    return prediction.x0(product, v, step)
