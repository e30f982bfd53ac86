"""The schedule card: what a noise schedule does, before any time is spent on it."""

import math

import torch
from torch import Tensor

from ddpm_lab.core.density import Density, log_sigma
from ddpm_lab.core.diffusion import GaussianDiffusion, eps_weight
from ddpm_lab.core.fitted import FittedSchedule
from ddpm_lab.core.loss import VLB, Loss
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.prediction import Eps
from ddpm_lab.core.schedule import ShiftedSchedule
from ddpm_lab.core.terms import prior_bpd
from ddpm_lab.core.timesteps import Timesteps
from ddpm_lab.core.variance import Seen
from ddpm_lab.models.contract import Curve, named

POINTS = 400
"""Of a curve, at most."""
LIKE = 1.5
"""Ratio of standard deviations up to which data are like those that a prediction is for."""


def vlb_weights(diffusion: GaussianDiffusion) -> Tensor:
    """DDPM Eq. 12 for t = 2..T: what multiplies ‖ε − ε̂‖² in L_{t−1}. A variance that the network supplies counts as at its
    start, raw = 0. Empty where T = 1."""
    t = torch.arange(2, diffusion.schedule.T + 1)
    step = diffusion.chain.step(t, torch.zeros(len(t), 1, dtype=torch.float64))
    none = torch.zeros_like(step.t)
    return eps_weight(step, diffusion.variance.covariance(Seen(none, step, none, none)).log_var()).squeeze(1)


def schedule_card(diffusion: GaussianDiffusion, loss: Loss, x0: Tensor) -> list[str]:
    """Lines to print. x0: some training data, for the size of L_T and their standard deviation."""
    schedule = diffusion.schedule
    ab_T, snr, prior = float(schedule.alphas_bar[-1]), schedule.snr, float(prior_bpd(diffusion.chain, x0).mean())
    weights = vlb_weights(loss.of(diffusion) if isinstance(loss, VLB) else diffusion)
    lines = [
        f"T = {schedule.T}   ᾱ_T = {ab_T:.3g}   L_T = {prior:.3g} bits/dim",
        f"SNR from {snr[1]:.4g} at t = 1 to {snr[-1]:.3g} at T   β clipped at {schedule.clipped} of {schedule.T} t",
    ]
    if isinstance(schedule, FittedSchedule):
        lines.append(schedule.fit)
    if len(weights):
        at = int(weights.argmax())
        lines.append(f"largest weight of ‖ε−ε̂‖² in the bound: {weights[at]:.4g} at t = {at + 2}")
    cautions = [*_cautions(diffusion, loss, ab_T, weights), *_of_size(schedule, x0)]
    if (sigma_data := getattr(diffusion.prediction, "sigma_data", None)) is not None:
        std = float(x0.std())
        lines.append(f"standard deviation of data: {std:.3g} (prediction.sigma_data={sigma_data:g})")
        if not 1 / LIKE <= std / sigma_data <= LIKE:
            cautions.append(
                f"prediction.sigma_data={sigma_data:g}: the data have {std:.3g}; what the network sees and learns would "
                "have variance 1 if both were alike."
            )
    return lines + [f"warning: {text}" for text in cautions]


def density_card(timesteps: Timesteps, schedule: NoiseSchedule) -> list[str]:
    """Where training is by a density of the noise level: the median and the middle 90% of t, and the largest weight."""
    if not isinstance(timesteps, Density):
        return []
    p, sigma = timesteps.probabilities(schedule), log_sigma(schedule).exp()
    shares = torch.tensor([0.05, 0.5, 0.95], dtype=p.dtype)
    low, median, high = (
        f"t = {row + 1} (σ = {float(sigma[row]):.3g})" for row in torch.searchsorted(p.cumsum(0), shares).tolist()
    )
    weights = f"; a loss weighs up to {1 / (len(p) * float(p.min())):.3g}" if timesteps.unbiased else ""
    return [f"half of the t that training draws are up to {median}, 90% from {low} to {high}{weights}"]


def _cautions(diffusion: GaussianDiffusion, loss: Loss, ab_T: float, weights: Tensor) -> list[str]:
    warnings = []
    if ab_T > 0.01:
        warnings.append(
            f"ᾱ_T = {ab_T:.2g}: at T the data still make up {math.sqrt(ab_T):.0%} of the amplitude, but sampling starts from "
            "pure noise. Use schedule.rescale=true (linear) or a larger schedule.T."
        )
    if isinstance(diffusion.prediction, Eps) and ab_T < 1e-6 and diffusion.levels is None:
        warnings.append(
            f"1/√ᾱ_T = {1 / math.sqrt(ab_T):,.0f} amplifies errors of ε̂ in x̂_0 near T, and vectors are not clipped: "
            "prediction=v avoids it."
        )
    if isinstance(loss, VLB) and len(weights) and weights.max() > 10:
        steadier = "loss=hybrid or prediction=v is" if isinstance(diffusion.prediction, Eps) else "loss=hybrid is"
        warnings.append(
            f"loss={named(loss)}: one t weighs {weights.max():.3g} where the median weighs {weights.median():.2g}, so its "
            f"gradient is mostly noise. {steadier} steadier."
        )
    return warnings


def _of_size(schedule: NoiseSchedule, x0: Tensor) -> list[str]:
    """Where a schedule that is shifted for the side of images is given other data."""
    if not isinstance(schedule, ShiftedSchedule) or (x0.ndim == 4 and schedule.size == x0.shape[-1]):
        return []
    data, advice = "vectors, which have no side", "choose another schedule"
    if x0.ndim == 4:
        data, advice = f"images of side {x0.shape[-1]}", f"schedule.size={x0.shape[-1]} is their shift"
    return [f"schedule.size={schedule.size}: the data are {data}, and the shift is for another: {advice}."]


def curves(schedule: NoiseSchedule) -> list[Curve]:
    """ᾱ and the log signal-to-noise ratio over t/T."""
    kept = torch.linspace(0, schedule.T, min(schedule.T + 1, POINTS), dtype=torch.float64).round().long()
    u, ab = kept / schedule.T, schedule.alphas_bar[kept]
    log_snr = ab.log() - torch.log1p(-ab)
    inner = log_snr.isfinite()

    def curve(title: str, alt: str, x: Tensor, label: str, y: Tensor) -> Curve:
        across = {"label": "t / T", "values": x.double().numpy().round(5).tolist()}
        return Curve(title, f"{alt} against t/T.", across, {"label": label, "values": [float(f"{v:.6g}") for v in y.tolist()]})

    return [
        curve("ᾱ: what is left of the signal's variance", "ᾱ", u, "ᾱ", ab),
        curve("Signal-to-noise ratio", "Log signal-to-noise ratio", u[inner], "log ᾱ / (1 − ᾱ)", log_snr[inner]),
    ]
