"""Schedules side by side."""

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from matplotlib.figure import Figure

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.prediction import X0
from ddpm_lab.core.variance import Beta
from ddpm_lab.domains import Given, checked
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.figures.figure import Drawn, PaperFigure, Trained
from ddpm_lab.models.card import vlb_weights

OF_RUN = "this run"
COLOURS, STYLES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"), ("-", "--", ":")


@checked
class Schedules(PaperFigure):
    """ᾱ_t, the log signal-to-noise ratio, and the weight of ‖ε − ε̂‖² in the bound (DDPM Eq. 12) of every schedule; with a run
    that of the run too, as fitted or learned."""

    needs_run, of_vectors, of_classes = False, True, True

    def __init__(self, schedules: Given[dict[str, NoiseSchedule]], T: Annotated[int, Ge(2), Le(10**6)] = 1000) -> None:
        """`schedules`: by the name of the option, each with this T."""
        self.schedules, self.T = schedules, T

    def check(self, of: Trained) -> None:
        if (T := of.diffusion.schedule.T) != self.T:
            raise UserError(f"figure.T={self.T}: the schedule of this run has T = {T}; type figure.T={T}")

    def draw(self, of: Trained | None) -> Drawn:
        shown = self.schedules | ({} if of is None else {OF_RUN: of.diffusion.schedule})
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        bar, ratio, weight = figure.subplots(1, 3)
        for i, (name, schedule) in enumerate(shown.items()):
            style = {"color": COLOURS[i % len(COLOURS)], "linestyle": STYLES[i // len(COLOURS) % len(STYLES)], "linewidth": 1.3}
            style |= {"color": "black", "linestyle": "-", "linewidth": 2} if name == OF_RUN else {}
            ab, t = schedule.alphas_bar, np.arange(schedule.T + 1)
            log_snr = (ab.log() - (-ab).log1p()).numpy()
            bar.plot(t, ab, label=name, **style)
            ratio.plot(t[np.isfinite(log_snr)], log_snr[np.isfinite(log_snr)], **style)
            weights = vlb_weights(GaussianDiffusion(schedule, X0(), Beta(), levels=None)).numpy()
            weight.plot(t[2:][np.isfinite(weights)], weights[np.isfinite(weights)], **style)
        bar.set(xlabel="t", ylabel="ᾱ_t")
        ratio.set(xlabel="t", ylabel="log ᾱ_t / (1 − ᾱ_t)", ylim=(-15, 12))
        weight.set(xlabel="t", ylabel="weight of ‖ε − ε̂‖² in L_(t−1)", yscale="log")
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
        caption = (
            f"Noise schedules, T = {self.T}: the signal's share of the variance ᾱ_t, the log signal-to-noise ratio, and the "
            "weight of ‖ε − ε̂‖² in the variational bound for σ² = β (Eq. 12 of Ho et al. 2020)."
        )
        fit = getattr(of.diffusion.schedule, "fit", "") if of is not None else ""
        return Drawn(figure, caption + (f" {OF_RUN.capitalize()}: {fit}." if fit else ""), sampled=False)
