"""Γ_t = E‖ε̂(x_t, t)‖²/d, from which the analytic reverse variance follows (Bao et al. 2022, Eq. 8)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.analytic import Gamma
from ddpm_lab.core.diffusion import Noised, implied_eps
from ddpm_lab.core.types import Data
from ddpm_lab.likelihood.at_times import AtTimesMeter
from ddpm_lab.likelihood.meter import standard_error


class GammaMeter(AtTimesMeter):
    """Analytic-DPM Eq. 8 (Bao et al. 2022): estimates Γ at `times`. ε̂ is what the unclipped x̂_0 implies, whatever the network
    predicts."""

    @property
    def rows(self) -> int:
        return 4

    def address(self, t: int) -> tuple[rng.Stream, int]:
        return "gamma", t

    def summands(self, noised: Noised, x0_hat: Data) -> Float64[Tensor, "4 B"]:
        """‖ε̂‖²/d, its square, (‖x_0‖² − ‖x̂_0‖²)/d, its square."""
        eps_hat = implied_eps(x0_hat, noised.xt, noised.step.at_t).double()
        norm = (eps_hat**2).flatten(1).mean(1)
        lost = (noised.x0.double() ** 2 - x0_hat.double() ** 2).flatten(1).mean(1)
        return torch.stack([norm, norm**2, lost, lost**2])

    def result(self) -> Gamma:
        """Γ so far. Raises ValueError for fewer than two data."""
        sums, n = self.tally
        if n < 2:
            raise ValueError(f"the standard error of Γ needs at least 2 data, and there are {n}.")
        norm, norm2, lost, lost2 = sums / n
        se, lost_se = standard_error(norm, norm2, n), standard_error(lost, lost2, n)
        ab = self.diffusion.schedule.alphas_bar[torch.tensor(self.times)]
        odds = (1 - ab) / torch.where(ab > 0, ab, 1.0)
        cov, cov_se = torch.where(ab > 0, odds * (1 - norm), lost), torch.where(ab > 0, odds * se, lost_se)
        return Gamma(self.times, ab, norm, se, cov, cov_se, n)
