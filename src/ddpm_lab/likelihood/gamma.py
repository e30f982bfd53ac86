"""Γ_t = E‖ε̂(x_t, t)‖²/d, from which the analytic reverse variance follows (Bao et al. 2022, Eq. 8)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.analytic import Gamma
from ddpm_lab.core.diffusion import GaussianDiffusion, implied_eps
from ddpm_lab.core.guidance import Network, of_rows
from ddpm_lab.core.transfer import OnItsWay, like, to_device
from ddpm_lab.core.types import Data
from ddpm_lab.likelihood.meter import Meter, plus, standard_error


class GammaTally(NamedTuple):
    """Sums over data."""

    sums: Float64[Tensor, "4 N"]
    """Per time: of ‖ε̂‖²/d, of its square, of (‖x_0‖² − ‖x̂_0‖²)/d, of its square."""
    n: int
    plus = plus


@dataclass
class GammaMeter(Meter):
    """Analytic-DPM Eq. 8 (Bao et al. 2022): estimates Γ at `times`, increasing in 1..T.

    One call per datum and time. ε̂ is what the unclipped x̂_0 implies, whatever the network predicts. The noise of datum i
    at t depends on (seed, t, i) alone.
    """

    diffusion: GaussianDiffusion
    times: tuple[int, ...]
    seed: int = 0
    batch: int = 512

    def __post_init__(self) -> None:
        self.diffusion.schedule.chain(self.times)  # raises ValueError for times that do not rise within 1..T
        self.tally = GammaTally(torch.zeros(4, len(self.times), dtype=torch.float64), 0)

    def _part(self, net: Network, x0: Data, start: int, stop: int) -> Callable[[], GammaTally]:
        together = max(1, self.batch // (stop - start))
        groups = [OnItsWay(self._measured(net, x0, start, times)) for times in torch.tensor(self.times).split(together)]
        return lambda: GammaTally(torch.cat([group.arrived().sum(2) for group in groups], 1), len(x0))

    def _measured(self, net: Network, x0: Data, start: int, times: Tensor) -> Float64[Tensor, "4 M B"]:
        """One network call for all of x0 at all of `times`: the summands of `GammaTally.sums`."""
        stop = start + len(x0)
        eps = torch.cat([rng.normal(x0.shape[1:], self.seed, "gamma", t, start, stop) for t in times.tolist()])
        t = times.repeat_interleave(len(x0))
        rows = to_device(torch.arange(len(x0)).repeat(len(times)), x0.device)
        noised = self.diffusion.noised(x0[rows], like(eps, x0), t)
        out = of_rows(net, rows)(noised.xt, to_device(t, x0.device)).to(x0.dtype)
        x0_hat = self.diffusion.prediction.x0(self.diffusion.split(out, noised.xt)[0], noised.xt, noised.step)
        eps_hat = implied_eps(x0_hat, noised.xt, noised.step.at_t).double()
        norm = (eps_hat**2).flatten(1).mean(1)
        lost = (noised.x0.double() ** 2 - x0_hat.double() ** 2).flatten(1).mean(1)
        return torch.stack([norm, norm**2, lost, lost**2]).reshape(4, len(times), -1)

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
