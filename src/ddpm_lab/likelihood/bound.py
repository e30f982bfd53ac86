"""The variational bound, DDPM Eq. 5, measured over data: the meter, sums that add up over parts of the data, and the result."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.guidance import Network, of_rows
from ddpm_lab.core.path import Chain
from ddpm_lab.core.terms import alike, measure, prior_bpd
from ddpm_lab.core.transfer import OnItsWay, to_device
from ddpm_lab.core.types import Data
from ddpm_lab.likelihood.meter import NO_DATA, NO_INDEX, Meter, plus, quarters, standard_error

GREY = 127.5
"""Grey levels of 0..255 per unit of data in [−1, 1]."""


class RateDistortion(NamedTuple):
    """From the chain's last time down to its first: bits/dim sent before x_t is known, and the RMSE of x̂_0 from x_t, of 255."""

    rate_bpd: Float64[Tensor, " N"]
    rmse: Float64[Tensor, " N"]


@dataclass(frozen=True)
class Bound:
    """The bound over n data. Standard errors are over data; arrays run along `times`."""

    times: tuple[int, ...]
    terms_bpd: Float64[Tensor, " N"]
    terms_se: Float64[Tensor, " N"]
    terms_n: Float64[Tensor, " N"]
    prior_bpd: float
    total_bpd: float
    total_se: float
    n: int
    stride: int
    mean_bpd: Float64[Tensor, " N"]
    """The share of each divergence due to the means (DDPM Eq. 8); nan for L_0, which is not a divergence."""
    variance_bpd: Float64[Tensor, " N"]
    """The share of each divergence due to the variances; nan for L_0."""
    rmse: Float64[Tensor, " N"]
    """Root mean square of x̂_0 − x_0 over data and dimensions, in grey levels of 0..255, x̂_0 clipped as in the bound."""
    per_datum_bpd: Float64[Tensor, " n"] | None
    """The bound of each datum, in order of their indices, to pair over; None if stride > 1, where no datum has all terms."""

    @property
    def decoder_bpd(self) -> float:
        """L_0."""
        return float(self.terms_bpd[0])

    @property
    def kl_bpd(self) -> float:
        """Σ_{t≥2} L_{t−1}."""
        return float(self.terms_bpd[1:].sum())

    @property
    def quarters_bpd(self) -> Float64[Tensor, " 4"]:
        """The summands of `kl_bpd` by quarter of t."""
        return torch.zeros(4, dtype=torch.float64).index_add_(0, quarters(self.times)[1:], self.terms_bpd[1:])

    @property
    def mismatch_bpd(self) -> float:
        """Σ_{t≥2} L_{t−1} if every mean were exact: the cost of the reverse variance."""
        return float(self.variance_bpd[1:].sum())

    @property
    def second_moments(self) -> Float64[Tensor, " N"]:
        """E L_t², over data and noise."""
        return self.terms_se**2 * (self.terms_n - 1) + self.terms_bpd**2

    @property
    def calls(self) -> float:
        """Network calls per datum."""
        return len(self.times) / self.stride

    @property
    def cost_variance(self) -> float:
        """Squared standard error × n × calls per datum: the squared error that one network call would leave."""
        return self.total_se**2 * self.n * self.calls

    def rate_distortion(self) -> RateDistortion:
        """Ho et al. 2020 section 4.3, Fig. 5 and Table 4: to know x_t, L_T + Σ_{u>t} L_{u−1} must be sent."""
        sent = torch.cat([torch.tensor([self.prior_bpd], dtype=torch.float64), self.terms_bpd.flip(0)])
        return RateDistortion(sent.cumsum(0)[:-1], self.rmse.flip(0))


class Tally(NamedTuple):
    """Sums over data and lists of data."""

    sums: Float64[Tensor, "6 N"]
    """Per time: of the terms, of their squares, how many, of the terms' shares by means and by variances, of (x̂_0 − x_0)²."""
    per_datum: Float64[Tensor, " n"] = NO_DATA
    index: Int[Tensor, " n"] = NO_INDEX
    priors: Float64[Tensor, " n"] = NO_DATA
    plus = plus

    def bound(self, times: tuple[int, ...], stride: int) -> Bound:
        """The bound so far. Raises ValueError where a time has fewer than two data."""
        (total, square, n, mean, variance, error), sums, index, priors = self
        if bool((n < 2).any()):
            raise ValueError(f"stride={stride} needs at least {2 * stride} data, and there are {len(priors)}.")
        terms, prior = total / n, float(priors.mean())
        return Bound(
            times=times,
            terms_bpd=terms,
            terms_se=standard_error(terms, square / n, n),
            terms_n=n,
            prior_bpd=prior,
            total_bpd=float(prior + terms.sum()),
            total_se=math.sqrt(self._variance(stride)),
            n=len(priors),
            stride=stride,
            mean_bpd=mean / n,
            variance_bpd=variance / n,
            rmse=GREY * (error / n).sqrt(),
            per_datum_bpd=(sums + priors)[index.argsort()] if stride == 1 else None,
        )

    def _variance(self, stride: int) -> float:
        """Of the total. Data of one offset share their times, and those of different offsets share none: independent
        strata. Each datum adds its L_T, which is a mean over all data, by the share of its stratum."""
        of = [self.index % stride == r for r in range(stride)]
        strata = [self.per_datum[r] + self.priors[r] * (float(r.sum()) / len(self.priors)) for r in of]
        return sum((float(y.var()) / len(y) for y in strata), 0.0)


@dataclass
class BoundMeter(Meter):
    """Measures the bound, DDPM Eq. 3 in the form of Eq. 5, over data that come in batches.

    With `stride` k, datum i is measured at every k-th time of the chain, starting at its own offset: each datum costs 1/k of
    the calls, each time sees n/k data, and the total stays unbiased. The noise of datum i depends on (seed, i) alone.
    """

    diffusion: GaussianDiffusion
    chain: Chain
    stride: int = 1
    seed: int = 0
    clip: bool | None = None
    """Of x̂_0 to [−1, 1]; None takes the default: `GaussianDiffusion.clips_x0`."""
    batch: int = 512

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= len(self.chain):
            raise ValueError(f"stride={self.stride}: a chain of {len(self.chain)} steps allows 1 to {len(self.chain)}.")
        self.clip = self.diffusion.clips_x0(self.clip)
        self.tally = Tally(torch.zeros(6, len(self.chain), dtype=torch.float64))

    def _spans(self, first: int, stop: int) -> Iterable[tuple[int, int]]:
        """All at once: one call of the network takes different times of many data."""
        return [(first, stop)] if stop > first else []

    def _part(self, net: Network, x0: Data, start: int, stop: int) -> Callable[[], Tally]:
        steps, index = torch.arange(len(self.chain)), torch.arange(start, stop)
        chosen = (steps + index[:, None]) % self.stride == 0
        datum, step = chosen.nonzero(as_tuple=True)
        draw = (chosen.cumsum(1) - 1)[datum, step]  # index of this measurement among those of its datum
        groups = alike(self.diffusion.variance, step == 0, x0[0].numel())
        parts = [part for group in groups for part in group.split(self.batch)]
        measured = [self._measure(net, x0, start, datum[part], step[part], draw[part]) for part in parts]
        order = torch.cat(parts)
        results, priors = OnItsWay(torch.cat(measured, 1)), OnItsWay(prior_bpd(self.chain, x0))

        def tally() -> Tally:
            terms, mean, variance, error = results.arrived()
            columns = torch.stack([terms, terms**2, torch.ones_like(terms), mean, variance, error])
            sums = torch.zeros(6, len(self.chain), dtype=torch.float64).index_add_(1, step[order], columns)
            per_datum = torch.zeros(len(x0), dtype=torch.float64).index_add_(0, datum[order], terms)
            return Tally(sums, per_datum, index, priors.arrived())

        return tally

    def _measure(self, net: Network, x0: Data, first: int, datum: Tensor, step: Tensor, draw: Tensor) -> Tensor:
        noise, probes, each = [], [], self.diffusion.variance.probes_for(x0[0].numel())
        for j in datum.unique():
            low, high = (int(end) for end in draw[datum == j].aminmax())
            noise.append(rng.normal(x0.shape[1:], self.seed, "evaluation", first + int(j), low, high + 1))
            if self.diffusion.variance.differentiates:
                signs = rng.signs(self.seed, "evaluation_probe", first + int(j), each * low, each * (high + 1), x0.shape[1:])
                probes.append(signs.unflatten(0, (high + 1 - low, each)))
        t = torch.tensor(self.chain.times)[step]
        rows = to_device(datum, x0.device)
        drawn = torch.cat(probes).transpose(0, 1) if probes else None
        return measure(self.diffusion, self.chain, of_rows(net, rows), x0[rows], torch.cat(noise), t, bool(self.clip), drawn)

    def result(self) -> Bound:
        """The bound so far. Raises ValueError where a time has fewer than two data."""
        return self.tally.bound(self.chain.times, self.stride)
