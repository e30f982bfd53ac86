"""The likelihood by the probability flow, Song et al. 2021 ("Score-based generative modeling through SDEs"), section 4.3.

The flow is the ODE whose marginals are those of the diffusion. In log-SNR λ = log ᾱ/(1−ᾱ) it is
    dx/dλ = ½ √ᾱ (x̂_0(x, t) − √ᾱ x),
finite for every prediction and every t. A discrete schedule is made continuous by interpolating λ linearly in t between whole
times, and the network is called at fractional t; it was trained at whole ones, so this is one model of several that fit it.

The model is the flow from N(0, 1) at the last t with any signal down to t = 1, the first that the network knows: there it ends,
without a last denoising. Grey levels are dequantised uniformly. The number is an upper bound on the negative log-likelihood of
that model. It is not comparable with the variational bound of the discrete chain: another model with another decoder.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion, Network
from ddpm_lab.core.path import Marginal, Mean, Step
from ddpm_lab.core.types import Data, PerExample
from ddpm_lab.likelihood.meter import NO_DATA, NO_INDEX, Meter, plus, summary


@dataclass(frozen=True)
class Path:
    """λ along t: the whole times from 1 to the last with any signal. Raises ValueError for fewer than two."""

    diffusion: GaussianDiffusion

    def __post_init__(self) -> None:
        if len(self.log_snr) < 2:
            raise ValueError("the flow needs two times with 0 < ᾱ_t < 1, and the schedule has one: T must be 2 or more")

    @cached_property
    def log_snr(self) -> Float64[Tensor, " M"]:
        """λ_1, λ_2, …, falling."""
        ab = self.diffusion.schedule.alphas_bar[1:]
        return torch.logit(ab[ab > 0])

    def time(self, log_snr: float) -> float:
        """t between 1 and the last, linear in λ between whole times."""
        known = self.log_snr
        above = int((known > log_snr).sum().clamp(1, len(known) - 1))  # λ lies between those of times `above` and `above` + 1
        high, low = float(known[above - 1]), float(known[above])
        return above + (high - log_snr) / (high - low)

    def step(self, log_snr: float, t: float) -> Step:
        """What a prediction reads of a `Step`, at fractional t: the marginal there, and μ̃'s shares, linear between whole t."""
        chain = self.diffusion.chain
        low = min(max(int(t), 1), len(chain) - 1)
        one, other, share = chain[low], chain[low + 1], min(t - low, 1.0)
        mu = Mean(*(torch.lerp(a, b, share) for a, b in zip(one.mu, other.mu, strict=True)))
        ab = torch.tensor(log_snr, dtype=torch.float64).sigmoid()
        at = Marginal(ab.sqrt(), torch.tensor(-log_snr, dtype=torch.float64).sigmoid().sqrt())
        return one._replace(at_t=at, mu=mu)

    def drift(self, net: Network, log_snr: float, x: Data) -> Data:
        """dx/dλ = ½ √ᾱ (x̂_0 − √ᾱ x): Song et al. 2021 Eq. 13 for the variance-preserving diffusion, in log-SNR."""
        t = self.time(log_snr)
        step = self.step(log_snr, t)
        times = torch.full((len(x),), t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        out, _ = self.diffusion.split(self.diffusion.output(net, x, times, step), x)
        x0 = self.diffusion.prediction.x0(out, x, step)
        return 0.5 * step.at_t.signal_scale * (x0 - step.at_t.signal_scale * x)


def exact_trace(y: Data, x: Data) -> PerExample:
    """tr ∂y/∂x of each example, one backward pass per dimension."""
    columns = y.flatten(1).T
    rows = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0].flatten(1)[:, i] for i, column in enumerate(columns)]
    return torch.stack(rows).sum(0)


def hutchinson_trace(y: Data, x: Data, probes: Float64[Tensor, "P B ..."]) -> PerExample:
    """Mean of vᵀ (∂y/∂x) v over probes of ±1: unbiased for the trace. Hutchinson 1990; Song et al. 2021 App. D.2."""
    products = [torch.autograd.grad((y * v).sum(), x, retain_graph=True)[0] * v for v in probes.to(x)]
    return torch.stack(products).flatten(2).sum(2).mean(0)


def dequantised(x0: Data, u: Data, levels: int) -> Data:
    """Grey levels spread evenly over their bins of width 2/(levels−1), from u in [0, 1)."""
    return x0 + (2 * u - 1) / (levels - 1)


@dataclass(frozen=True)
class FlowLikelihood:
    """−log₂ p per dimension over n data; for grey levels −log₂ P from above. Not comparable with the variational bound."""

    total_bpd: float
    total_se: float
    per_datum_bpd: Float64[Tensor, " n"]
    """In order of the data's indices."""
    n: int
    calls: float
    """Network calls per datum, not counting backward passes."""
    probes: int | None


class FlowTally(NamedTuple):
    """Lists of data."""

    index: Int[Tensor, " n"] = NO_INDEX
    bpd: Float64[Tensor, " n"] = NO_DATA
    calls: Float64[Tensor, " n"] = NO_DATA
    plus = plus


@dataclass
class FlowMeter(Meter):
    """Song et al. 2021 Eq. 39: measures the likelihood by the probability flow.

    `probes`: of Hutchinson's estimate of the trace, the same along a datum's whole path; None takes the exact trace, a backward
    pass per dimension. Where the data have grey levels they are dequantised by one draw. Draws of datum i depend on (seed, i)
    alone; but up to 64 data share the solver's steps, so a datum's number depends on its neighbours within the tolerance.
    `rtol` and `atol` are scipy's, for RK45.
    """

    diffusion: GaussianDiffusion
    probes: int | None = 1
    rtol: float = 1e-5
    atol: float = 1e-5
    seed: int = 0
    differentiates = True

    def __post_init__(self) -> None:
        self.tally = FlowTally()
        if self.probes is not None and self.probes < 1:
            raise ValueError(f"probes={self.probes}: allowed is int >= 1, or null for the exact trace")
        self.path = Path(self.diffusion)

    def _part(self, net: Network, x0: Data, start: int, stop: int) -> Callable[[], FlowTally]:
        """The solver computes on the host: it waits for every call of the network. Raises RuntimeError where it fails."""
        levels, shape = self.diffusion.levels, x0.shape[1:]
        x, probes = x0.detach().cpu().double(), None
        if levels is not None:
            x = dequantised(x, rng.uniform(self.seed, "dequantise", 0, start, stop, shape), levels)
        if self.probes is not None:
            probes = torch.stack([rng.signs(self.seed, "probe", j, start, stop, shape) for j in range(self.probes)])
        log_p, calls = self._log_density(net, x, probes, like=x0)
        offset = 0.0 if levels is None else math.log2((levels - 1) / 2)  # of a density into a probability of a bin
        bpd = offset - log_p / (shape.numel() * math.log(2))
        tally = FlowTally(torch.arange(start, stop), bpd, torch.full_like(bpd, calls))
        return lambda: tally

    def _log_density(self, net: Network, x: Data, probes: Tensor | None, like: Data) -> tuple[PerExample, int]:
        """log p(x) in nats at t = 1: log N(x_T; 0, 1) + ∫ tr(∂f/∂x) dλ along the path of x (Song et al. 2021 Eq. 39)."""
        from scipy.integrate import solve_ivp

        def slope(log_snr: float, state):
            now = torch.tensor(state).reshape(len(x), -1)[:, :-1].reshape(x.shape).to(like.device, like.dtype).requires_grad_()
            y = self.path.drift(net, float(log_snr), now)
            trace = exact_trace(y, now) if probes is None else hutchinson_trace(y, now, probes)
            return torch.cat([y.detach().flatten(1), trace[:, None]], 1).double().cpu().flatten().numpy()

        begin = torch.cat([x.flatten(1), torch.zeros(len(x), 1, dtype=x.dtype)], 1).flatten().numpy()
        span = float(self.path.log_snr[0]), float(self.path.log_snr[-1])
        solved = solve_ivp(slope, span, begin, method="RK45", rtol=self.rtol, atol=self.atol)
        if not solved.success:
            raise RuntimeError(f"the probability flow could not be solved: {solved.message}")
        end = torch.tensor(solved.y[:, -1]).reshape(len(x), -1)
        prior = -0.5 * (end[:, :-1] ** 2 + math.log(2 * math.pi)).sum(1)
        return prior + end[:, -1], int(solved.nfev)

    def result(self) -> FlowLikelihood:
        """The likelihood so far. Raises ValueError for fewer than two data."""
        index, bpd, calls = self.tally
        return FlowLikelihood(*summary(bpd), bpd[index.argsort()], len(index), float(calls.mean()), self.probes)
