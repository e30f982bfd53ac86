"""The analytic reverse variance, Bao et al. 2022 ("Analytic-DPM"): the best σ² that one number per time can give.

It rests on Γ_t = E‖ε̂(x_t, t)‖²/d, whose ε̂ stands for −√(1−ᾱ_t) ∇ log q(x_t). It is the optimum as far as the network is
E[x_0 | x_t]; the paper measures it with the average of the weights, on training data, for each schedule and checkpoint.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion, Network, beta_tilde, implied_eps
from ddpm_lab.core.schedule import Step
from ddpm_lab.core.types import Coefficient, Data


@dataclass(frozen=True)
class Gamma:
    """Γ at some times, and the mean variance of x_0 given x_t that follows; errors are over n data."""

    times: tuple[int, ...]
    alphas_bar: Float64[Tensor, " N"]
    mean: Float64[Tensor, " N"]
    """Γ_t = E‖ε̂‖²/d."""
    se: Float64[Tensor, " N"]
    cov: Float64[Tensor, " N"]
    """E tr Cov(x_0 | x_t)/d as estimated, not clipped: it may lie outside what is possible."""
    cov_se: Float64[Tensor, " N"]
    n: int

    def state(self) -> dict[str, Tensor]:
        """Tensors alone, for a file."""
        floats = {name: getattr(self, name) for name in ("alphas_bar", "mean", "se", "cov", "cov_se")}
        return {"times": torch.tensor(self.times), "n": torch.tensor(self.n), **floats}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> "Gamma":
        times, n = tuple(state["times"].tolist()), int(state["n"])
        return cls(**{**state, "times": times, "n": n})  # pyright: ignore[reportArgumentType]


class GammaTally(NamedTuple):
    """What has been measured so far, as sums that add up over parts of the data."""

    sums: Float64[Tensor, "4 N"]
    """Per time: of ‖ε̂‖²/d, of its square, of (‖x_0‖² − ‖x̂_0‖²)/d, of its square."""
    n: int

    def plus(self, other: "GammaTally") -> "GammaTally":
        return GammaTally(self.sums + other.sums, self.n + other.n)


@dataclass
class GammaMeter:
    """Estimates Γ (Bao et al. 2022, Eq. 8) at the times asked for, increasing in 1..T, over data that come in batches.

    One call per datum and time. ε̂ is what the unclipped x̂_0 implies, whatever the network predicts. The noise of datum i
    at t depends on (seed, t, i) alone.
    """

    diffusion: GaussianDiffusion
    times: tuple[int, ...]
    seed: int = 0
    batch: int = 512
    tally: GammaTally = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.diffusion.schedule.chain(self.times)  # raises ValueError for times that do not rise within 1..T
        self.tally = GammaTally(torch.zeros(4, len(self.times), dtype=torch.float64), 0)

    @torch.inference_mode()
    def add(self, net: Network, x0: Data, first: int) -> None:
        """Measure x0, whose data have the indices first, first + 1, …"""
        for start, stop in rng.parts(first, first + len(x0)):
            part, together = x0[start - first : stop - first], max(1, self.batch // (stop - start))
            groups = [self._sums(net, part, start, times) for times in torch.tensor(self.times).split(together)]
            self.tally = self.tally.plus(GammaTally(torch.cat(groups, 1), len(part)))

    def _sums(self, net: Network, x0: Data, start: int, times: Tensor) -> Float64[Tensor, "4 M"]:
        """One network call for all of x0 at all of `times`."""
        stop = start + len(x0)
        eps = torch.cat([rng.normal(x0.shape[1:], self.seed, "gamma", t, start, stop) for t in times.tolist()])
        t = times.repeat_interleave(len(x0))
        noised = self.diffusion.noised(x0.repeat(len(times), *[1] * (x0.ndim - 1)), eps.to(x0), t)
        out = net(noised.xt, t.to(x0.device)).to(x0.dtype)
        x0_hat = self.diffusion.prediction.x0(self.diffusion.split(out, noised.xt)[0], noised.xt, noised.step)
        eps_hat = implied_eps(x0_hat, noised.xt, noised.step).double()
        norm = (eps_hat**2).flatten(1).mean(1)
        lost = (noised.x0.double() ** 2 - x0_hat.double() ** 2).flatten(1).mean(1)
        return torch.stack([norm, norm**2, lost, lost**2]).cpu().reshape(4, len(times), -1).sum(2)

    def result(self) -> Gamma:
        """Γ so far. Raises ValueError for fewer than two data: there is no error to give."""
        sums, n = self.tally
        if n < 2:
            raise ValueError(f"the standard error of Γ needs at least 2 data, and there are {n}.")
        norm, norm2, lost, lost2 = sums / n
        (se, lost_se) = (((square - mean**2).clamp(min=0) / (n - 1)).sqrt() for mean, square in ((norm, norm2), (lost, lost2)))
        ab = self.diffusion.schedule.alphas_bar[torch.tensor(self.times)]
        odds = (1 - ab) / torch.where(ab > 0, ab, 1.0)
        cov, cov_se = torch.where(ab > 0, odds * (1 - norm), lost), torch.where(ab > 0, odds * se, lost_se)
        return Gamma(self.times, ab, norm, se, cov, cov_se, n)


class Clipped(NamedTuple):
    """At how many times the covariance was cut, at 0 and at 1."""

    low: int
    high: int


class Analytic:
    """σ² = β̃ + c² Cov(x_0 | x_t), c the share of x_0 in the mean of q(x_s | x_t, x_0): Bao et al. 2022, Theorem 1 and Eq. 9
    with λ² = β̃, for any s < t. `gamma` must have every t of the chain.

    β̃ is the true one, 0 in a chain's first step; where nothing is left of σ², its log is that of the β̃ which `Step` carries.
    `clip_cov` limits the covariance to [0, 1], which data in [−1, 1] cannot leave. `max_last_noise`, the paper's y, limits the
    noise of the last step that has any, when sampling: σ ≤ y · 2/255 · √(π/2), so that its mean size is y grey levels.
    """

    n_outputs = 1

    def __init__(self, gamma: Gamma, clip_cov: bool = True, max_last_noise: float | None = None) -> None:
        self.gamma = gamma
        self.max_last_std = math.inf if max_last_noise is None else max_last_noise * 2 / 255 * math.sqrt(math.pi / 2)
        low, high = gamma.cov < 0, gamma.cov > 1
        self.clipped = Clipped(int(low.sum()), int(high.sum())) if clip_cov else Clipped(0, 0)
        self._table = torch.full((2, max(gamma.times) + 1), math.nan, dtype=torch.float64)
        cov = gamma.cov.clamp(0, 1) if clip_cov else gamma.cov
        self._table[:, torch.tensor(gamma.times)] = torch.stack([cov, gamma.alphas_bar])

    def x0_cov(self, step: Step) -> Coefficient:
        """E tr Cov(x_0 | x_t)/d. Raises ValueError for a t that Γ was not measured at, or a schedule it was not measured on."""
        t = step.t.long().cpu()
        found, alphas_bar = self._table[:, t.clamp(max=self._table.shape[1] - 1)]
        on = (t < self._table.shape[1]) & ~found.isnan()
        if not on.all():
            raise ValueError(f"Γ was not measured at t = {sorted(set(t[~on].tolist()))}.")
        if not torch.allclose(alphas_bar, step.at_t.signal_scale.double().cpu() ** 2, rtol=1e-4, atol=1e-8):
            raise ValueError("Γ was measured on another schedule.")
        return found.to(step.t)

    def log_var(self, raw: Data | None, step: Step) -> Coefficient:
        var = beta_tilde(step) + step.x0_coef**2 * self.x0_cov(step)
        return torch.where(var > 0, var.log(), step.log_beta_tilde)
