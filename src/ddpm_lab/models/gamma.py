"""Γ of a diffusion model, from which its analytic variance follows: how it is measured."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm_lab.core.analytic import Gamma
from ddpm_lab.likelihood.gamma import GammaMeter
from ddpm_lab.models.at_times import AtTimes


class GammaAtTimes(AtTimes):
    """Γ (Bao et al. 2022 section 3.1)."""

    argument, kind, what = "gamma", "gamma", "variance=analytic: Γ"

    def meter(self, times: Sequence[int]) -> GammaMeter:
        return GammaMeter(self.model.diffusion, tuple(times), self.conditions.seed, self.conditions.batch)

    def result(self, sums: Tensor) -> Gamma:
        return self.of_sums(sums)

    def tables(self, result: Gamma) -> dict[str, dict[str, Tensor]]:
        """Γ at every time it was measured, and the variance of x_0 that follows, not clipped."""
        columns = {
            "t": torch.tensor(result.times),
            "gamma": result.mean,
            "standard_error": result.se,
            "cov": result.cov,
            "cov_standard_error": result.cov_se,
        }
        return {"gamma": columns}
