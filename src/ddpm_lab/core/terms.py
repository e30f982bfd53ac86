"""The variational bound, DDPM Eq. 5, term by term, in bits/dim: L_T + Σ_{t≥2} L_{t−1} + L_0.

`Bound.terms_bpd` is indexed by the paper's t: t = 1 is the decoder term L_0, t = 2..T the divergences; `prior_bpd` is apart.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from ddpm_lab.core.covariance import Covariance
from ddpm_lab.core.diffusion import GaussianDiffusion, Network, Noised
from ddpm_lab.core.gaussian import Normal, log_bin_nats, log_density_nats
from ddpm_lab.core.path import Chain, Marginal
from ddpm_lab.core.transfer import like, to_device
from ddpm_lab.core.types import Coefficient, Data, PerExample, Times
from ddpm_lab.core.variance import ReverseVariance, Seen


def to_bpd(nats: Data) -> PerExample:
    """Mean over all dimensions of a datum, nats to bits."""
    return nats.flatten(1).mean(1) / math.log(2)


def prior_bpd(chain: Chain, x0: Data) -> PerExample:
    """DDPM Eq. 5, L_T = KL(q(x_T | x_0) ‖ N(0, 1)) at the chain's last time, in float64. It has no parameters."""
    return prior_at_bpd(chain.schedule.alphas_bar[chain.times[-1]], x0)


def prior_at_bpd(ab: Coefficient, x0: Data) -> PerExample:
    """The same at ᾱ, which has no dimension: it meets tensors of any device."""
    return to_bpd(0.5 * (ab * x0.double() ** 2 - ab - torch.log1p(-ab)))


def rounding_bpd(x0: Data, eps: Data, at: Marginal, levels: int | None) -> PerExample:
    """The decoder of VDM (Kingma et al. 2021, section 3.3), without a network: −log p(x_0 | z) at z = α x_0 + σ ε, each
    dimension alone, with p(x_0 | z) ∝ q(z | x_0) over the grey levels; where there are none, the density N(z/α, (σ/α)²)."""
    z = at.signal_scale * x0 + at.noise_scale * eps
    if levels is None:
        return to_bpd(-log_density_nats(x0, Normal(z / at.signal_scale, 2 * at.sigma.log())))

    def exponent(level: Tensor | float) -> Tensor:
        return -0.5 * ((z - at.signal_scale * level) / at.noise_scale) ** 2

    normaliser = torch.full_like(z, -torch.inf)
    for level in torch.linspace(-1, 1, levels, dtype=x0.dtype).tolist():  # one after the other: memory
        normaliser = torch.logaddexp(normaliser, exponent(level))
    return to_bpd(normaliser - exponent(x0))


def term_bpd(diffusion: GaussianDiffusion, out: Data, noised: Noised, clip: bool = False) -> PerExample:
    """DDPM Eq. 5, one term per example: L_0 where s = 0, L_{t−1} elsewhere. `clip` as in `GaussianDiffusion.reverse`."""
    return split_terms(diffusion, diffusion.seen(out, noised.xt, noised.step), noised, clip).bpd


def decoder_nats(diffusion: GaussianDiffusion, x0: Data, mean: Data, covariance: Covariance) -> Tensor:
    """DDPM Eq. 13: log p_θ(x_0 | x_t) of grey levels, each dimension alone; where there are none, the log density. B rows whose
    means are per dimension."""
    if diffusion.levels is None:
        return covariance.log_density(x0, mean)
    return log_bin_nats(x0, Normal(mean, covariance.log_var()), diffusion.levels)


class Terms(NamedTuple):
    """Terms of the bound, one per example, and their shares."""

    bpd: PerExample
    mean_bpd: PerExample
    """The share of a divergence due to the means; nan for L_0."""
    variance_bpd: PerExample
    """The share due to the variances; nan for L_0."""
    error: PerExample
    """Mean over dimensions of (x̂_0 − x_0)², data in [−1, 1]."""


def split_terms(diffusion: GaussianDiffusion, seen: Seen, noised: Noised, clip: bool = False) -> Terms:
    """DDPM Eq. 5: `term_bpd`, with the divergences split by means (Eq. 8) and variances."""
    q, p, first = diffusion.posterior(noised), diffusion.reverse(seen, clip), noised.step.s == 0
    # Each example needs one of the two. The other gets harmless inputs, or its overflow would reach the gradient as 0·∞.
    kl = p.covariance.harmless(first, q.log_var).divergence(q, torch.where(first, q.mean, p.mean))
    of_decoder = torch.where(first, p.mean, noised.x0), p.covariance.harmless(~first, torch.zeros_like(q.log_var))
    decoder = -decoder_nats(diffusion, noised.x0, *of_decoder)
    whole = torch.where(first.flatten(), to_bpd(decoder), to_bpd(kl.spread + kl.shift))
    mean, variance = (torch.where(first.flatten(), math.nan, to_bpd(part)) for part in kl)
    return Terms(whole, mean, variance, ((p.x0 - noised.x0) ** 2).flatten(1).mean(1))


def alike(variance: ReverseVariance, decoding: Bool[Tensor, " n"], size: int) -> list[Int[Tensor, " _"]]:
    """The places of n terms in groups whose terms may share a call of the network: all, or, under a variance with probes,
    decoders (L_0) first and divergences after them, both in their order. Of grey levels each needs products of its own kind,
    and a product is of a whole call."""
    if not variance.probes_for(size):
        return [torch.arange(len(decoding))]
    return [places for places in (decoding.nonzero().flatten(), (~decoding).nonzero().flatten()) if len(places)]


def measure(
    diffusion: GaussianDiffusion,
    chain: Chain,
    net: Network,
    x0: Data,
    eps: Data,
    t: Times,
    clip: bool,
    probes: Tensor | None = None,
) -> Float64[Tensor, "4 B"]:
    """`Terms` as rows, on the device of x0, of one call of the network; eps, times t of the chain and `Seen.probes` come from
    the CPU."""
    noised = diffusion.noised(x0, like(eps, x0), t, chain)
    drawn = None if probes is None else like(probes, x0)
    seen = diffusion.look(net, noised.xt, to_device(t, x0.device), noised.step, drawn)
    return torch.stack([part.double() for part in split_terms(diffusion, seen, noised, clip)])
