"""The variational bound, DDPM Eq. 5, term by term, in bits/dim: L_T + Σ_{t≥2} L_{t−1} + L_0.

`Bound.terms_bpd` is indexed by the paper's t: t = 1 is the decoder term L_0, t = 2..T the divergences; `prior_bpd` is apart.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core.diffusion import GaussianDiffusion, Network, Noised
from ddpm_lab.core.gaussian import Normal, kl_nats, kl_shift_nats, kl_spread_nats, log_bin_nats, log_density_nats
from ddpm_lab.core.path import Chain
from ddpm_lab.core.transfer import like, to_device
from ddpm_lab.core.types import Data, PerExample, Times


def to_bpd(nats: Data) -> PerExample:
    """Mean over all dimensions of a datum, nats to bits."""
    return nats.flatten(1).mean(1) / math.log(2)


def prior_bpd(chain: Chain, x0: Data) -> PerExample:
    """DDPM Eq. 5, L_T = KL(q(x_T | x_0) ‖ N(0, 1)) at the chain's last time, in float64. It has no parameters."""
    ab = chain.schedule.alphas_bar[chain.times[-1]]  # without a dimension: it meets tensors of any device
    return to_bpd(0.5 * (ab * x0.double() ** 2 - ab - torch.log1p(-ab)))


def term_bpd(diffusion: GaussianDiffusion, out: Data, noised: Noised, clip: bool = False) -> PerExample:
    """DDPM Eq. 5, one term per example: L_0 where s = 0, L_{t−1} elsewhere. `clip` as in `GaussianDiffusion.reverse`."""
    return _whole_bpd(diffusion, diffusion.posterior(noised), diffusion.reverse(out, noised.xt, noised.step, clip).p, noised)


def _whole_bpd(diffusion: GaussianDiffusion, q: Normal, p: Normal, noised: Noised) -> PerExample:
    first = noised.step.s == 0
    # Each example needs one of the two. The other gets harmless inputs, or its overflow would reach the gradient as 0·∞.
    p_kl = Normal(torch.where(first, q.mean, p.mean), torch.where(first, q.log_var, p.log_var))
    p_decoder = Normal(torch.where(first, p.mean, noised.x0), torch.where(first, p.log_var, 0.0))
    if diffusion.levels is None:
        decoder = log_density_nats(noised.x0, p_decoder)
    else:
        decoder = log_bin_nats(noised.x0, p_decoder, diffusion.levels)
    return to_bpd(torch.where(first, -decoder, kl_nats(q, p_kl)))


class Terms(NamedTuple):
    """Terms of the bound, one per example, and their shares."""

    bpd: PerExample
    mean_bpd: PerExample
    """The share of a divergence due to the means; nan for L_0."""
    variance_bpd: PerExample
    """The share due to the variances; nan for L_0."""
    error: PerExample
    """Mean over dimensions of (x̂_0 − x_0)², data in [−1, 1]."""


def split_terms(diffusion: GaussianDiffusion, out: Data, noised: Noised, clip: bool = False) -> Terms:
    """DDPM Eq. 5: `term_bpd`, with the divergences split by means (Eq. 8) and variances."""
    q, (p, x0) = diffusion.posterior(noised), diffusion.reverse(out, noised.xt, noised.step, clip)
    parts = [to_bpd(part(q, p)) for part in (kl_shift_nats, kl_spread_nats)]
    whole, first = _whole_bpd(diffusion, q, p, noised), noised.step.s.flatten() == 0
    mean, variance = (torch.where(first, math.nan, part) for part in parts)
    return Terms(whole, mean, variance, ((x0 - noised.x0) ** 2).flatten(1).mean(1))


def measure(
    diffusion: GaussianDiffusion, chain: Chain, net: Network, x0: Data, eps: Data, t: Times, clip: bool
) -> Float64[Tensor, "4 B"]:
    """`Terms` as rows, on the device of x0, of one call of the network; eps and times t of the chain come from the CPU."""
    noised = diffusion.noised(x0, like(eps, x0), t, chain)
    out = net(noised.xt, to_device(t, x0.device)).to(x0.dtype)
    return torch.stack(split_terms(diffusion, out, noised, clip)).double()
