"""The diagonal of Cov(x_0 | x_t), as a trained head knows it: NPR and SN (Bao et al. 2022b, "Estimating the Optimal Covariance
with Imperfect Mean in Diffusion Probabilistic Models") and OCM (Ou et al. 2025, optimal covariance matching).

With α = √ᾱ_t and σ = √(1−ᾱ_t), x_0 = (x_t − σ ε)/α, so Cov(x_0 | x_t) = (σ²/α²) Cov(ε | x_t). A head h(x_t, t) is trained by
the squared error of a target whose mean given x_t yields Var(ε | x_t), the diagonal. The network stays as it is.
"""

from abc import abstractmethod

from ddpm_lab.core.covariance import DataCovariance, DiagonalOfData, limited_var
from ddpm_lab.core.diffusion import implied_eps
from ddpm_lab.core.types import Data, PerExample, Settings
from ddpm_lab.core.variance import OfData, Seen
from ddpm_lab.domains import Text, checked


class OfHead(OfData):
    """`raw` is a head's h. `clip_cov` limits variances to [0, 1], which data in [−1, 1] cannot leave; else they are at least 0.
    `head`: the folder of the run that trained the head, for whoever loads it."""

    n_outputs = 2
    needs_signal = True
    learns_jacobian = False
    """Whether the target needs a product with the network's Jacobian."""

    def __init__(self, head: Text | None = None, clip_cov: bool = True) -> None:
        self.head, self.clip_cov = head, clip_cov

    @property
    def settings(self) -> Settings:
        return {"clip_cov": self.clip_cov}

    @abstractmethod
    def target(self, eps: Data, seen: Seen, v: Data | None) -> Data:
        """What h is trained to be at x_t = α x_0 + σ ε. `v`: of ±1 with equal chance, where `learns_jacobian`."""

    def eps_var(self, h: Data, seen: Seen) -> Data:
        """Var(ε | x_t) of each dimension."""
        return h

    def data_covariance(self, seen: Seen) -> DataCovariance:
        assert seen.raw is not None, "n_outputs is 2: GaussianDiffusion.split gives raw"
        var = seen.step.at_t.sigma**2 * self.eps_var(seen.raw, seen)
        return DiagonalOfData(limited_var(var, self.clip_cov))


def predicted_eps(seen: Seen) -> Data:
    """ε̂, as x̂_0 implies it."""
    return implied_eps(seen.x0, seen.xt, seen.step.at_t)


def head_loss(h: Data, target: Data) -> PerExample:
    """‖target − h‖² over the number of dimensions; the target has no gradient."""
    return ((h - target.detach()) ** 2).flatten(1).mean(1)


@checked
class NPR(OfHead):
    """Noise prediction residual (Bao et al. 2022b, NPR-DPM): the target is (ε − ε̂)². Its mean is Var(ε | x_t) where ε̂ is
    E[ε | x_t], and else that plus the squared error of ε̂, which is the best variance for that mean."""

    def target(self, eps: Data, seen: Seen, v: Data | None) -> Data:
        return (eps - predicted_eps(seen)) ** 2


@checked
class SN(OfHead):
    """Squared noise (Bao et al. 2022b, SN-DPM). ε̂² + h learns E[ε² | x_t] by the squared error of ε², and Var(ε | x_t) is that
    less ε̂², where ε̂ is E[ε | x_t]. The head so learns the difference alone, and not ε̂², whose error would be that of a small
    difference. The noise of ε² remains, and is more than that of (ε − ε̂)²."""

    def target(self, eps: Data, seen: Seen, v: Data | None) -> Data:
        return eps**2 - predicted_eps(seen) ** 2


@checked
class SNSquare(OfHead):
    """SN as it was published (Bao et al. 2022b, SN-DPM): h learns E[ε² | x_t] itself, and ε̂² is taken from it afterwards. Where
    Var(ε | x_t) is small beside ε̂², so may be an error of h that decides it, or makes it negative, which counts as 0."""

    def target(self, eps: Data, seen: Seen, v: Data | None) -> Data:
        return eps**2

    def eps_var(self, h: Data, seen: Seen) -> Data:
        return h - predicted_eps(seen) ** 2


@checked
class OCM(OfHead):
    """Optimal covariance matching (Ou et al. 2025, Theorem 1): Cov(x_0 | x_t) = (σ² I + σ⁴ ∇² log q(x_t))/α², so Var(ε | x_t)
    is 1 + σ² (∇² log q(x_t))_ii. The target is v ⊙ σ² H v with H v = ∇(s·v), s = −ε̂/σ for ∇ log q: as E v vᵀ = I, its mean
    is the diagonal of σ² H.

    As s = (α x̂_0 − x_t)/σ², the target is v ⊙ (α (∂x̂_0/∂x_t)ᵀ v − v)."""

    learns_jacobian = True

    def target(self, eps: Data, seen: Seen, v: Data | None) -> Data:
        assert seen.pullback is not None, "learns_jacobian"
        assert v is not None
        return v * (seen.step.at_t.signal_scale * seen.pullback(v) - v)

    def eps_var(self, h: Data, seen: Seen) -> Data:
        return 1 + h
