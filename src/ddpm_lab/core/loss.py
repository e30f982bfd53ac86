"""Losses, one value per example. `parts` names the summands of a loss, so that a NaN can be traced to its part."""

import math
from abc import ABC, abstractmethod
from dataclasses import replace

import torch

from ddpm_lab.core.diffusion import GaussianDiffusion, Noised
from ddpm_lab.core.gamma import LearnedSchedule, ReadOff, marginal_of
from ddpm_lab.core.terms import prior_at_bpd, prior_bpd, rounding_bpd, term_bpd
from ddpm_lab.core.types import Coefficient, Data, Incompatible, PerExample
from ddpm_lab.core.variance import Beta, BetaTilde, LearnedRange, ReverseVariance
from ddpm_lab.domains import NonNegativeFloat, PositiveFloat, checked


class Loss(ABC):
    """A loss per example from the network's output at x_t."""

    trains_variance: bool = False
    """Whether a variance that the network supplies gets a gradient."""
    trains_schedule: bool = False
    """Whether it is a bound, so that a learned schedule may follow its gradient."""
    of_rate: bool = False
    """Whether it needs the derivative of γ, which discrete time has not."""
    of_steps: bool = False
    """Whether it needs the step from t to t − 1, which continuous time has not."""
    needs_learned_variance: bool = False
    paper_variance: type[ReverseVariance] | None = None
    """The reverse variance of the paper that the loss is from."""

    @abstractmethod
    def parts(self, diffusion: GaussianDiffusion, out: Data, noised: Noised) -> dict[str, PerExample]:
        """Named summands."""

    def __call__(self, diffusion: GaussianDiffusion, out: Data, noised: Noised) -> PerExample:
        return torch.stack(list(self.parts(diffusion, out, noised).values())).sum(0)

    def check(self, diffusion: GaussianDiffusion) -> None:
        """Raises Incompatible where this loss cannot train a network for the diffusion."""
        loss, variance = type(self).__name__, type(diffusion.variance).__name__
        learned = diffusion.variance.n_outputs == 2
        if learned and not self.trains_variance:
            raise Incompatible(f"{loss} leaves the output for {variance} untrained", "loss", "variance")
        if self.needs_learned_variance and not learned:
            raise Incompatible(
                f"{loss} trains a variance that the network supplies, and {variance} is fixed", "loss", "variance"
            )
        if isinstance(diffusion.schedule, LearnedSchedule) and not self.trains_schedule:
            raise Incompatible(f"{loss} is no bound, and a learned schedule follows the gradient of one", "loss", "schedule")


def target_mse(diffusion: GaussianDiffusion, out: Data, noised: Noised) -> PerExample:
    """DDPM Eq. 14 for one t: mean over dimensions, in the network's own target."""
    prediction, _ = diffusion.split(out, noised.x0)
    target = diffusion.prediction.target(noised.x0, noised.eps, noised.xt, noised.step)
    return ((prediction - target) ** 2).flatten(1).mean(1)


class Simple(Loss):
    """L_simple, DDPM Eq. 14."""

    paper_variance = Beta

    def parts(self, diffusion: GaussianDiffusion, out: Data, noised: Noised) -> dict[str, PerExample]:
        return {"mse": target_mse(diffusion, out, noised)}


class Weighted(Loss):
    """Squared error of x̂_0 times a weight that depends on the signal-to-noise ratio, whatever the network predicts.

    `check` refuses a weight that vanishes with the signal where ᾱ_T = 0, since the step from pure noise would not be trained,
    and one that does not vanish on a network that predicts ε, whose error is SNR times that of x̂_0.
    """

    paper_variance = Beta

    @abstractmethod
    def weight(self, snr: Coefficient) -> Coefficient:
        """Of the squared error of x̂_0."""

    def check(self, diffusion: GaussianDiffusion) -> None:
        super().check(diffusion)
        loss, prediction = type(self).__name__, type(diffusion.prediction).__name__
        vanishes = bool(self.weight(torch.zeros(())) == 0)
        if ("snr" if vanishes else "x0") not in diffusion.prediction.weighable:
            raise Incompatible(
                f"{loss} weighs the error of x̂_0, and on the output of {prediction} its weight is unbounded as ᾱ_t → 0",
                "loss",
                "prediction",
            )
        if vanishes and diffusion.schedule.reaches_zero:
            raise Incompatible(f"{loss} gives no weight to t = T where ᾱ_T = 0, and sampling starts there", "loss", "schedule")

    def parts(self, diffusion: GaussianDiffusion, out: Data, noised: Noised) -> dict[str, PerExample]:
        weight = self.weight(noised.step.at_t.snr) / diffusion.prediction.x0_weight(noised.step)
        return {"mse": weight.flatten() * target_mse(diffusion, out, noised)}


@checked
class MinSNR(Weighted):
    """Hang et al. 2023, Eq. 8: min(SNR, γ) on x̂_0."""

    def __init__(self, gamma: PositiveFloat = 5.0) -> None:
        self.gamma = gamma

    def weight(self, snr: Coefficient) -> Coefficient:
        return snr.clamp(max=self.gamma)


@checked
class P2(Weighted):
    """Choi et al. 2022, Eq. 8: 1 / (k + SNR)^γ on ε̂, which is SNR / (k + SNR)^γ on x̂_0."""

    def __init__(self, gamma: NonNegativeFloat = 1.0, k: PositiveFloat = 1.0) -> None:
        self.gamma, self.k = gamma, k

    def weight(self, snr: Coefficient) -> Coefficient:
        return snr / (self.k + snr) ** self.gamma


@checked
class TruncatedSNR(Weighted):
    """Salimans & Ho 2022, section 4: max(SNR, `floor`) on x̂_0, the paper's floor being 1."""

    def __init__(self, floor: PositiveFloat = 1.0) -> None:
        self.floor = floor

    def weight(self, snr: Coefficient) -> Coefficient:
        return snr.clamp(min=self.floor)


class ConstantWeight(Weighted):
    """The squared error of x̂_0 itself, at every t alike."""

    def weight(self, snr: Coefficient) -> Coefficient:
        return torch.ones_like(snr)


@checked
class EDM(Weighted):
    """EDM (Karras et al. 2022) Table 1: λ(σ) = (σ² + σ_d²) / (σ σ_d)² = SNR + 1/σ_d² on x̂_0, of data of standard deviation
    `sigma_data`, σ_d. With prediction EDM of the same σ_d its weight on F is 1 (EDM Eq. 8): there it is L_simple."""

    def __init__(self, sigma_data: PositiveFloat = 0.5) -> None:
        self.sigma_data = sigma_data

    def check(self, diffusion: GaussianDiffusion) -> None:
        super().check(diffusion)
        other = getattr(diffusion.prediction, "sigma_data", self.sigma_data)
        if other != self.sigma_data:
            raise Incompatible(
                f"sigma_data={self.sigma_data} of the loss and sigma_data={other} of the prediction are of the same data: set "
                "both alike",
                "loss",
                "prediction",
            )

    def weight(self, snr: Coefficient) -> Coefficient:
        return snr + self.sigma_data**-2


@checked
class VLB(Loss):
    """The term of DDPM Eq. 5 at t, in bits/dim, mean and variance both trained. Its mean over t is the bound / T, as Ho
    trains it; `scale` = T makes it the bound itself, as iDDPM does."""

    trains_variance = True
    trains_schedule = True
    of_steps = True
    paper_variance = Beta

    def __init__(self, scale: PositiveFloat = 1.0) -> None:
        self.scale = scale

    def of(self, diffusion: GaussianDiffusion) -> GaussianDiffusion:
        """The process whose bound it is."""
        return diffusion

    def parts(self, diffusion: GaussianDiffusion, out: Data, noised: Noised) -> dict[str, PerExample]:
        terms = {"vlb": self.scale * term_bpd(self.of(diffusion), out, noised)}
        if diffusion.schedule.trained_ends:
            terms["prior"] = self.scale / diffusion.schedule.T * prior_bpd(diffusion.chain, noised.x0).to(out.dtype)
        return terms


class Likelihood(VLB):
    """VDM (Kingma et al. 2021) Eq. 14: ½ (e^{γ_t − γ_s} − 1) ‖ε − ε̂‖² in bits/dim, s = t − 1: L_{t−1} of DDPM Eq. 5 for σ² = β̃,
    whatever variance samples have. It is the likelihood weighting of Song et al. 2021 ("Maximum likelihood training of
    score-based diffusion models") in discrete time. At t = 1, where γ_0 = −∞, it is the decoder's term L_0 of that bound.
    `scale` as in VLB."""

    trains_variance = False
    paper_variance = BetaTilde

    def of(self, diffusion: GaussianDiffusion) -> GaussianDiffusion:
        return replace(diffusion, variance=BetaTilde())


class VDM(Loss):
    """VDM (Kingma et al. 2021), Eq. 17: the bound in continuous time, ½ γ'(u) ‖ε − ε̂‖² in bits/dim for u uniform in [0, 1],
    whatever the network predicts. With ends that are learned, L_T at γ_1 and the decoder at γ_0 too."""

    trains_schedule = True
    of_rate = True
    paper_variance = BetaTilde

    def parts(self, diffusion: GaussianDiffusion, out: Data, noised: Noised) -> dict[str, PerExample]:
        assert noised.rate is not None, "of_rate"
        weight = 0.5 * noised.rate * noised.step.at_t.snr / diffusion.prediction.x0_weight(noised.step)
        parts = {"vdm": weight.flatten() / math.log(2) * target_mse(diffusion, out, noised)}
        if isinstance(diffusion.schedule, ReadOff) and diffusion.schedule.trained_ends:
            first, last = (marginal_of(gamma) for gamma in diffusion.schedule.ends)
            parts["prior"] = prior_at_bpd(last.signal_scale**2, noised.x0).to(out.dtype)
            parts["decoder"] = rounding_bpd(noised.x0, noised.eps, first, diffusion.levels)
        if noised.by_variance is not None:
            noised.by_variance.loss = parts["vdm"].detach()
        return parts


@checked
class Hybrid(Loss):
    """iDDPM Eq. 16: L_simple + λ L_vlb, L_vlb the sum over t (T times the term at t), its mean held fixed."""

    trains_variance = True
    needs_learned_variance = True
    of_steps = True
    paper_variance = LearnedRange

    def __init__(self, weight: PositiveFloat = 0.001) -> None:
        self.weight = weight

    def parts(self, diffusion: GaussianDiffusion, out: Data, noised: Noised) -> dict[str, PerExample]:
        self.check(diffusion)
        prediction, raw = diffusion.split(out, noised.x0)
        assert raw is not None, "check refuses a fixed variance"
        held = torch.cat([prediction.detach(), raw], dim=1)
        vlb = self.weight * diffusion.schedule.T * term_bpd(diffusion, held, noised)
        return {"mse": target_mse(diffusion, out, noised), "vlb": vlb}
