"""The variational bound, DDPM Eq. 5, term by term, in bits/dim: L_T + Σ_{t≥2} L_{t−1} + L_0.

`terms_bpd` is indexed by the paper's t: t = 1 is the decoder term L_0, t = 2..T the divergences; `prior_bpd` is apart.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion, Network, Noised
from ddpm_lab.core.gaussian import Normal, kl_nats, log_bin_nats, log_density_nats
from ddpm_lab.core.schedule import Chain
from ddpm_lab.core.types import Data, PerExample


def to_bpd(nats: Data) -> PerExample:
    """Mean over all dimensions of a datum, nats to bits."""
    return nats.flatten(1).mean(1) / math.log(2)


def prior_bpd(chain: Chain, x0: Data) -> PerExample:
    """L_T = KL(q(x_T | x_0) ‖ N(0, 1)) where the chain ends, float64: nothing is learned in it."""
    ab = chain.schedule.alphas_bar[chain.times[-1]].to(x0.device)
    return to_bpd(0.5 * (ab * x0.double() ** 2 - ab - torch.log1p(-ab)))


def term_bpd(diffusion: GaussianDiffusion, out: Data, noised: Noised, clip: bool = False) -> PerExample:
    """One term of the bound per example: L_0 where s = 0, L_{t−1} elsewhere. `clip` as in `GaussianDiffusion.reverse`."""
    first = noised.step.s == 0
    q, p = diffusion.posterior(noised), diffusion.reverse(out, noised.xt, noised.step, clip).p
    # Each example needs one of the two; the other gets harmless inputs, or its overflow would reach the gradient as 0·∞.
    p_kl = Normal(torch.where(first, q.mean, p.mean), torch.where(first, q.log_var, p.log_var))
    p_decoder = Normal(torch.where(first, p.mean, noised.x0), torch.where(first, p.log_var, 0.0))
    if diffusion.levels is None:
        decoder = log_density_nats(noised.x0, p_decoder)
    else:
        decoder = log_bin_nats(noised.x0, p_decoder, diffusion.levels)
    return to_bpd(torch.where(first, -decoder, kl_nats(q, p_kl)))


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

    @property
    def decoder_bpd(self) -> float:
        """L_0."""
        return float(self.terms_bpd[0])

    @property
    def kl_bpd(self) -> float:
        """Σ_{t≥2} L_{t−1}."""
        return float(self.terms_bpd[1:].sum())


class Tally(NamedTuple):
    """What has been measured so far, as sums and lists that add up over parts of the data."""

    sums: Float64[Tensor, "3 N"]
    """Per time: of the terms, of their squares, and how many."""
    per_datum: Float64[Tensor, " n"]
    offsets: Int[Tensor, " n"]
    priors: Float64[Tensor, " n"]

    def plus(self, other: "Tally") -> "Tally":
        lists = (torch.cat(pair) for pair in zip(self[1:], other[1:], strict=True))
        return Tally(self.sums + other.sums, *lists)


@dataclass
class BoundMeter:
    """Measures the bound over data that come in batches.

    With `stride` k, datum i is measured at every k-th time of the chain, starting at its own offset: each datum costs 1/k of
    the calls, each time sees n/k data, and the total stays unbiased. The noise of datum i depends on (seed, i) alone.
    """

    diffusion: GaussianDiffusion
    chain: Chain
    stride: int = 1
    seed: int = 0
    clip: bool | None = None
    """Of x̂_0 to [−1, 1]; None leaves it to the diffusion: `GaussianDiffusion.clips`."""
    batch: int = 512
    tally: Tally = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= len(self.chain):
            raise ValueError(f"stride={self.stride}: a chain of {len(self.chain)} steps allows 1 to {len(self.chain)}.")
        self.clip = self.diffusion.clips if self.clip is None else self.clip
        none = torch.zeros(0, dtype=torch.float64)
        self.tally = Tally(torch.zeros(3, len(self.chain), dtype=torch.float64), none, torch.zeros(0, dtype=torch.int64), none)

    @torch.inference_mode()
    def add(self, net: Network, x0: Data, first: int) -> None:
        """Measure x0, whose data have the indices first, first + 1, …"""
        if len(x0) == 0:  # the part of a process that has none
            return
        steps, index = torch.arange(len(self.chain)), torch.arange(first, first + len(x0))
        measured = (steps + index[:, None]) % self.stride == 0
        datum, step = measured.nonzero(as_tuple=True)
        draw = (measured.cumsum(1) - 1)[datum, step]  # the how-manieth measurement of its datum
        parts = [torch.empty(0, dtype=torch.float64)]
        for part in torch.arange(len(datum)).split(self.batch):
            parts.append(self._terms(net, x0, first, datum[part], step[part], draw[part]))
        terms = torch.cat(parts)
        sums = torch.zeros_like(self.tally.sums)
        sums.index_add_(1, step, torch.stack([terms, terms**2, torch.ones_like(terms)]))
        per_datum = torch.zeros(len(x0), dtype=torch.float64).index_add_(0, datum, terms)
        self.tally = self.tally.plus(Tally(sums, per_datum, index % self.stride, prior_bpd(self.chain, x0).cpu()))

    def _terms(self, net: Network, x0: Data, first: int, datum: Tensor, step: Tensor, draw: Tensor) -> Tensor:
        noise = []
        for j in datum.unique():
            low, high = draw[datum == j].aminmax()
            noise.append(rng.normal(x0.shape[1:], self.seed, "evaluation", first + int(j), int(low), int(high) + 1))
        t = torch.tensor(self.chain.times)[step]
        noised = self.diffusion.noised(x0[datum.to(x0.device)], torch.cat(noise).to(x0), t, self.chain)
        out = net(noised.xt, t.to(x0.device)).to(x0.dtype)
        return term_bpd(self.diffusion, out, noised, bool(self.clip)).double().cpu()

    def result(self) -> Bound:
        """The bound so far. Raises ValueError where fewer than two data fell on some time: there is no error to give."""
        (total, square, n), sums, offsets, priors = self.tally
        if bool((n < 2).any()):
            raise ValueError(f"stride={self.stride} needs at least {2 * self.stride} data, and there are {len(priors)}.")
        terms = total / n
        terms_se = ((square / n - terms**2).clamp(min=0) / (n - 1)).sqrt()
        # Data of one offset share their times, and those of different offsets share none: independent strata. Each datum
        # adds its L_T, which is a mean over all data, by the share of its stratum.
        of = [offsets == r for r in range(self.stride)]
        strata = [sums[r] + priors[r] * (float(r.sum()) / len(priors)) for r in of]
        variance = sum((float(y.var()) / len(y) for y in strata), 0.0)
        prior, se = float(priors.mean()), variance**0.5
        return Bound(self.chain.times, terms, terms_se, n, prior, float(prior + terms.sum()), se, len(priors), self.stride)
