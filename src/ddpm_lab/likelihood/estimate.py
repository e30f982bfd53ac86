"""The bound from few network calls: the decoder term always, L_T exactly, Σ_{t≥2} L_{t−1} from k terms drawn by importance.

The estimate is unbiased whatever p, as long as p was fixed before: from a pilot on other data or with other draws. The meter
of the bound draws from another stream than the estimator, so a pilot with the same seed has other draws.
"""

import math
from collections.abc import Callable
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
from ddpm_lab.likelihood.bound import Bound
from ddpm_lab.likelihood.meter import NO_DATA, NO_INDEX, Meter, plus, quarters, standard_error, summary


def pilot(bound: Bound, floor: float = 0.01, pool: int = 32) -> Float64[Tensor, " N"]:
    """p over the times of the bound's chain: ∝ √E L_{t−1}² (iDDPM Eq. 18), mixed with a uniform `floor`; 0 at the first time,
    whose term is the decoder's and always measured.

    Times that fewer than `pool` data saw share their moments with neighbours, by geometric means over windows that narrow
    towards both ends, where terms change fastest. Uniform for terms that are not finite: the estimate will not be, either.
    Raises ValueError for a floor outside (0, 1].
    """
    moments, n = bound.second_moments[1:], bound.terms_n[1:]
    if not 0 < floor <= 1:
        raise ValueError(f"floor={floor}: allowed is float in (0, 1]; where p is 0 and the term is not, the estimate is biased")
    root = torch.zeros(len(bound.times), dtype=torch.float64)
    if len(moments) == 0:
        return root
    if moments.isfinite().all() and moments.max() > 0:
        half = math.ceil((pool / float(n.min()) - 1) / 2)
        root[1:] = _smoothed(moments.clamp(min=1e-30 * float(moments.max())).log(), max(half, 0)).mul(0.5).exp()
    else:
        root[1:] = 1
    p = (1 - floor) * root / root.sum()
    p[1:] += floor / len(moments)
    return p


def _smoothed(x: Float64[Tensor, " M"], half: int) -> Float64[Tensor, " M"]:
    """Means over windows of 2·half + 1, less near the ends: at place i no wider than i/2, so that a power of t is kept."""
    i = torch.arange(len(x))
    half_at = torch.minimum(i // 4, len(x) - 1 - i).clamp(max=half)
    sums = torch.cat([x.new_zeros(1), x.cumsum(0)])
    return (sums[i + half_at + 1] - sums[i - half_at]) / (2 * half_at + 1)


@dataclass(frozen=True)
class Estimate:
    """An unbiased estimate of the bound over n data. Standard errors are over data and include the draws of t."""

    total_bpd: float
    total_se: float
    prior_bpd: float
    decoder_bpd: float
    decoder_se: float
    kl_bpd: float
    """Σ_{t≥2} L_{t−1}."""
    kl_se: float
    quarters_bpd: Float64[Tensor, " 4"]
    """The summands of `kl_bpd` by quarter of t: each an unbiased estimate too."""
    quarters_se: Float64[Tensor, " 4"]
    per_datum_bpd: Float64[Tensor, " n"]
    """In order of the data's indices: each an unbiased estimate of its datum's bound."""
    n: int
    calls: int
    """Network calls per datum."""

    @property
    def cost_variance(self) -> float:
        """Squared standard error × n × calls per datum: the squared error that one network call would leave."""
        return self.total_se**2 * self.n * self.calls

    def gain(self, bound: Bound) -> float:
        """Network calls that `bound` would need for the standard error of this estimate, relative to the estimate's."""
        return bound.cost_variance / self.cost_variance


class EstimateTally(NamedTuple):
    """Lists of data, and sums over data."""

    index: Int[Tensor, " n"] = NO_INDEX
    priors: Float64[Tensor, " n"] = NO_DATA
    decoder: Float64[Tensor, " n"] = NO_DATA
    kl: Float64[Tensor, " n"] = NO_DATA
    quarters: Float64[Tensor, "2 4"] = torch.zeros(2, 4, dtype=torch.float64)
    """By quarter of t, of the sum of a datum's terms there, and of its square."""
    plus = plus


@dataclass
class BoundEstimator(Meter):
    """DDPM Eq. 5, estimated with 1 + k network calls per datum (1 on a chain of one step).

    Of a datum's k terms the j-th is at the time where the distribution function of p passes (j + U_j)/k, and weighs
    1/(k p_t): stratified importance sampling. U and noise of datum i depend on (seed, i) alone. `p` runs along the chain's
    times: see `pilot`.
    """

    diffusion: GaussianDiffusion
    chain: Chain
    p: Float64[Tensor, " N"]
    k: int = 10
    seed: int = 0
    clip: bool | None = None
    """Of x̂_0 to [−1, 1]; None takes the default: `GaussianDiffusion.clips_x0`."""
    batch: int = 512

    def __post_init__(self) -> None:
        self.tally = EstimateTally()
        p, N = self.p, len(self.chain)
        if self.k < 1:
            raise ValueError(f"k={self.k}: allowed is int >= 1")
        if p.shape != (N,) or p.dtype != torch.float64 or bool(p[0] != 0) or not bool((p[1:] > 0).all()):
            raise ValueError(f"p must be float64 along the chain's {N} times, 0 at the first and positive elsewhere.")
        if N > 1 and abs(float(p.sum()) - 1) > 1e-9:
            raise ValueError(f"p must add up to 1, and gives {float(p.sum())}.")
        self.clip = self.diffusion.clips_x0(self.clip)

    @property
    def calls(self) -> int:
        """Network calls per datum."""
        return 1 + self.k if len(self.chain) > 1 else 1

    def _part(self, net: Network, x0: Data, start: int, stop: int) -> Callable[[], EstimateTally]:
        step, weight = self._drawn(start, stop)
        t, counters = torch.tensor(self.chain.times)[step].flatten(), range(self.calls)
        eps = torch.cat([rng.normal(x0.shape[1:], self.seed, "estimate", j, start, stop) for j in counters])
        probes = self._probes(start, stop, x0.shape[1:])
        datum = torch.arange(len(x0)).repeat(self.calls)
        measured, groups = [], alike(self.diffusion.variance, step.flatten() == 0, x0[0].numel())
        for pair in (pair for group in groups for pair in group.chunk(math.ceil(len(group) / self.batch))):
            rows = to_device(datum[pair], x0.device)
            each = of_rows(net, rows), x0[rows], eps[pair], t[pair]
            drawn = None if probes is None else probes[:, pair]
            measured.append(measure(self.diffusion, self.chain, *each, bool(self.clip), drawn)[0])
        results, priors = OnItsWay(torch.cat(measured)), OnItsWay(prior_bpd(self.chain, x0))

        def tally() -> EstimateTally:
            terms = results.arrived().reshape(self.calls, -1) * weight
            parts = torch.zeros(len(x0), 4, dtype=torch.float64)
            parts.scatter_add_(1, quarters(self.chain.times)[step[1:]].T, terms[1:].T)
            sums = torch.stack([parts.sum(0), (parts**2).sum(0)])
            return EstimateTally(torch.arange(start, stop), priors.arrived(), terms[0], terms[1:].sum(0), sums)

        return tally

    def _probes(self, start: int, stop: int, shape: torch.Size) -> Tensor | None:
        """`Seen.probes` of every call, where the variance looks at any."""
        each = self.diffusion.variance.probes_for(shape.numel())
        counters = [[each * j + p for j in range(self.calls)] for p in range(each)]
        drawn = [
            torch.cat([rng.signs(self.seed, "estimate_probe", c, start, stop, shape) for c in of_probe])
            for of_probe in counters
        ]
        none = torch.empty(0, self.calls * (stop - start), *shape) if self.diffusion.variance.differentiates else None
        return torch.stack(drawn) if drawn else none

    def _drawn(self, start: int, stop: int) -> tuple[Int[Tensor, "calls m"], Float64[Tensor, "calls m"]]:
        """Places on the chain and weights, for data start..stop−1: first the decoder's, then those of k strata."""
        m, k = stop - start, self.calls - 1
        u = [(j + rng.uniform(self.seed, "estimate_t", j, start, stop)) / self.k for j in range(k)]
        step = torch.zeros(1 + k, m, dtype=torch.int64)
        weight = torch.ones(1 + k, m, dtype=torch.float64)
        if k:
            step[1:] = torch.searchsorted(self.p.cumsum(0), torch.stack(u), right=True).clamp(max=len(self.p) - 1)
            weight[1:] = 1 / (self.k * self.p[step[1:]])
        return step, weight

    def result(self) -> Estimate:
        """The estimate so far. Raises ValueError for fewer than two data."""
        return of_tally(self.tally, self.calls)


def of_tally(tally: EstimateTally, calls: int) -> Estimate:
    """The estimate from so many network calls per datum. Raises ValueError for fewer than two data."""
    index, *parts, (sums, squares) = tally
    totals = sum(parts[1:], parts[0])[index.argsort()]
    prior, decoder, kl = map(summary, parts)
    n, by_quarter = len(index), sums / len(index)
    return Estimate(
        total_bpd=prior.mean + decoder.mean + kl.mean,
        total_se=summary(totals).se,
        prior_bpd=prior.mean,
        decoder_bpd=decoder.mean,
        decoder_se=decoder.se,
        kl_bpd=kl.mean,
        kl_se=kl.se,
        quarters_bpd=by_quarter,
        quarters_se=standard_error(by_quarter, squares / n, n),
        per_datum_bpd=totals,
        n=n,
        calls=calls,
    )
