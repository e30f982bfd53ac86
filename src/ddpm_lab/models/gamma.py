"""Γ of a diffusion model, from which its analytic variance follows: how it is measured, and what records say of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ddpm_lab.core.analytic import Analytic, Gamma
from ddpm_lab.core.guidance import conditioned
from ddpm_lab.core.variance import ReverseVariance
from ddpm_lab.errors import UserError
from ddpm_lab.likelihood.gamma import GammaMeter, GammaTally
from ddpm_lab.models.measurement import Conditions, Plain

if TYPE_CHECKING:
    from ddpm_lab.models.diffusion import Diffusion


class GammaAtTimes:
    """Γ over the first n training data (Bao et al. 2022 section 3.1) at every time of the chains that are measured or sampled.
    Times are independent of each other: their `sums` are columns."""

    def __init__(self, model: "Diffusion", conditions: Conditions, n: int) -> None:
        self.model, self.conditions, self.n = model, conditions, n
        full, sampled = model.diffusion.chain, model.sampler.chain(model.diffusion.schedule)
        self.times = sorted({*sampled.times, *(() if conditions.likelihood.chain == "sampler" else full.times)})

    def sums(self, times: Sequence[int], x0: Tensor, labels: Tensor | None = None) -> Tensor:
        """4×len(times), from all n data."""
        meter = self._meter(times)
        meter.add(conditioned(self.model.network, labels), x0, 0)
        return meter.tally.sums

    def result(self, sums: Tensor) -> Gamma:
        """Γ from the sums at all times, in order. Raises UserError where it is not finite, as no variance follows from it."""
        meter = self._meter(self.times)
        meter.tally = GammaTally(sums, self.n)
        gamma = meter.result()
        if bad := [t for t, finite in zip(self.times, gamma.cov.isfinite().tolist(), strict=True) if not finite]:
            where = f"t = {', '.join(map(str, bad[:5]))}{' …' if len(bad) > 5 else ''}"
            raise UserError(f"variance=analytic: Γ is not finite at {where}, as the output of this network is not")
        return gamma

    def _meter(self, times: Sequence[int]) -> GammaMeter:
        return GammaMeter(self.model.diffusion, tuple(times), self.conditions.seed, self.conditions.batch)


def variance_record(variance: ReverseVariance) -> dict[str, Plain]:
    """The settings of an analytic variance; from how many data and times Γ was estimated; and at how many times Cov(x_0 | x_t)
    was clipped at 0 and 1."""
    if not isinstance(variance, Analytic):
        return {}
    gamma, clipped = variance.gamma, variance.clipped
    return {
        "gamma_n": gamma.n,
        "gamma_times": len(gamma.times),
        "clip_cov": variance.clip_cov,
        "cov_clipped_at_0": clipped.low,
        "cov_clipped_at_1": clipped.high,
    }


def gamma_columns(gamma: Gamma) -> dict[str, Tensor]:
    """Γ at every time it was measured, and the variance of x_0 that follows, not clipped, as columns of a table."""
    return {
        "t": torch.tensor(gamma.times),
        "gamma": gamma.mean,
        "standard_error": gamma.se,
        "cov": gamma.cov,
        "cov_standard_error": gamma.cov_se,
    }
