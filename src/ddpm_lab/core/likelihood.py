"""The variational bound, DDPM Eq. 5, term by term, in bits/dim: L_T + Σ_{t≥2} L_{t−1} + L_0.

`Bound.terms_bpd` is indexed by the paper's t: t = 1 is the decoder term L_0, t = 2..T the divergences; `prior_bpd` is apart.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.bound import Bound, Tally
from ddpm_lab.core.diffusion import GaussianDiffusion, Network, Noised
from ddpm_lab.core.gaussian import Normal, kl_nats, kl_shift_nats, kl_spread_nats, log_bin_nats, log_density_nats
from ddpm_lab.core.schedule import Chain
from ddpm_lab.core.types import Data, PerExample, Times


def to_bpd(nats: Data) -> PerExample:
    """Mean over all dimensions of a datum, nats to bits."""
    return nats.flatten(1).mean(1) / math.log(2)


def prior_bpd(chain: Chain, x0: Data) -> PerExample:
    """L_T = KL(q(x_T | x_0) ‖ N(0, 1)) where the chain ends, float64: nothing is learned in it."""
    ab = chain.schedule.alphas_bar[chain.times[-1]].to(x0.device)
    return to_bpd(0.5 * (ab * x0.double() ** 2 - ab - torch.log1p(-ab)))


def term_bpd(diffusion: GaussianDiffusion, out: Data, noised: Noised, clip: bool = False) -> PerExample:
    """One term of the bound per example: L_0 where s = 0, L_{t−1} elsewhere. `clip` as in `GaussianDiffusion.reverse`."""
    return _whole_bpd(diffusion, diffusion.posterior(noised), diffusion.reverse(out, noised.xt, noised.step, clip).p, noised)


def _whole_bpd(diffusion: GaussianDiffusion, q: Normal, p: Normal, noised: Noised) -> PerExample:
    first = noised.step.s == 0
    # Each example needs one of the two; the other gets harmless inputs, or its overflow would reach the gradient as 0·∞.
    p_kl = Normal(torch.where(first, q.mean, p.mean), torch.where(first, q.log_var, p.log_var))
    p_decoder = Normal(torch.where(first, p.mean, noised.x0), torch.where(first, p.log_var, 0.0))
    if diffusion.levels is None:
        decoder = log_density_nats(noised.x0, p_decoder)
    else:
        decoder = log_bin_nats(noised.x0, p_decoder, diffusion.levels)
    return to_bpd(torch.where(first, -decoder, kl_nats(q, p_kl)))


class Terms(NamedTuple):
    """Terms of the bound, one per example, and what they are made of."""

    bpd: PerExample
    mean_bpd: PerExample
    """What of a divergence the means cost; nan for L_0."""
    variance_bpd: PerExample
    """What of it the variances alone cost; nan for L_0."""
    error: PerExample
    """Mean over dimensions of (x̂_0 − x_0)², data in [−1, 1]."""


def split_terms(diffusion: GaussianDiffusion, out: Data, noised: Noised, clip: bool = False) -> Terms:
    """`term_bpd`, and its parts: DDPM Eq. 5's divergences of Gaussians by means and by variances."""
    q, (p, x0) = diffusion.posterior(noised), diffusion.reverse(out, noised.xt, noised.step, clip)
    parts = [to_bpd(part(q, p)) for part in (kl_shift_nats, kl_spread_nats)]
    whole, first = _whole_bpd(diffusion, q, p, noised), noised.step.s.flatten() == 0
    mean, variance = (torch.where(first, math.nan, part) for part in parts)
    return Terms(whole, mean, variance, ((x0 - noised.x0) ** 2).flatten(1).mean(1))


def measure(
    diffusion: GaussianDiffusion, chain: Chain, net: Network, x0: Data, eps: Data, t: Times, clip: bool
) -> Float64[Tensor, "4 B"]:
    """`Terms` as rows, on the CPU, of one call of the network at times t (on the CPU) of the chain."""
    noised = diffusion.noised(x0, eps.to(x0), t, chain)
    out = net(noised.xt, t.to(x0.device)).to(x0.dtype)
    return torch.stack(split_terms(diffusion, out, noised, clip)).double().cpu()


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
        self.tally = Tally.empty(len(self.chain))

    @torch.inference_mode()
    def add(self, net: Network, x0: Data, first: int) -> None:
        """Measure x0, whose data have the indices first, first + 1, …"""
        if len(x0) == 0:  # the part of a process that has none
            return
        steps, index = torch.arange(len(self.chain)), torch.arange(first, first + len(x0))
        measured = (steps + index[:, None]) % self.stride == 0
        datum, step = measured.nonzero(as_tuple=True)
        draw = (measured.cumsum(1) - 1)[datum, step]  # the how-manieth measurement of its datum
        parts = torch.arange(len(datum)).split(self.batch)
        found = [self._measure(net, x0, first, datum[part], step[part], draw[part]) for part in parts]
        terms, mean, variance, error = torch.cat(found, 1)
        columns = torch.stack([terms, terms**2, torch.ones_like(terms), mean, variance, error])
        sums = torch.zeros_like(self.tally.sums).index_add_(1, step, columns)
        per_datum = torch.zeros(len(x0), dtype=torch.float64).index_add_(0, datum, terms)
        self.tally = self.tally.plus(Tally(sums, per_datum, index, prior_bpd(self.chain, x0).cpu()))

    def _measure(self, net: Network, x0: Data, first: int, datum: Tensor, step: Tensor, draw: Tensor) -> Tensor:
        noise = []
        for j in datum.unique():
            low, high = draw[datum == j].aminmax()
            noise.append(rng.normal(x0.shape[1:], self.seed, "evaluation", first + int(j), int(low), int(high) + 1))
        t = torch.tensor(self.chain.times)[step]
        return measure(self.diffusion, self.chain, net, x0[datum.to(x0.device)], torch.cat(noise), t, bool(self.clip))

    def result(self) -> Bound:
        """The bound so far. Raises ValueError where fewer than two data fell on some time: there is no error to give."""
        return self.tally.bound(self.chain.times, self.stride)
