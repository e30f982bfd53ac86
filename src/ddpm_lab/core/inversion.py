"""Codes of data: DDIM's probability flow, followed from x_0 to x_t and back, and the points between two codes."""

import torch

from ddpm_lab.core.diffusion import GaussianDiffusion, Network, implied_eps
from ddpm_lab.core.path import Chain, NoiseSchedule
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.core.types import Data, PerExample

LEAST_SIGNAL = 0.01
"""√ᾱ_t of a code at least: x̂_0 divides by it, and an error of ε̂ grows by its inverse."""


def last_code(schedule: NoiseSchedule) -> int:
    """The largest t to which data can be encoded. 0 where there is none."""
    return int((schedule.alphas_bar.sqrt() >= LEAST_SIGNAL).sum()) - 1


@torch.no_grad()
def encode(diffusion: GaussianDiffusion, net: Network, x0: Data, chain: Chain) -> Data:
    """x_0 to x_t, t the chain's last time, by the Euler steps of DDIM Eq. 13 (Song et al. 2021) in the direction of growing t
    (section 5.4), of the ODE in Eq. 14. ε̂ is that at the start of each step; at t = 0, which no network knows, it is that of
    the chain's first time. x̂_0 is not clipped: what is clipped cannot be undone. Raises ValueError for √ᾱ_t < 0.01."""
    if (t := chain.times[-1]) > (last := last_code(chain.schedule)):
        raise ValueError(f"t={t}: √ᾱ_t is below {LEAST_SIGNAL}, and x̂_0 divides by it; allowed is t <= {last}")
    x, denoise = x0, diffusion.denoiser(net, chain, clip=False)
    for step in chain.steps_up():
        known = max(int(step.s), chain.times[0])
        eps = implied_eps(denoise(x, known).x0, x, chain[known].at_t)
        scale = step.at_t.signal_scale / step.at_s.signal_scale
        x = scale * x + (step.at_t.noise_scale - scale * step.at_s.noise_scale) * eps
    return x


@torch.no_grad()
def decode(diffusion: GaussianDiffusion, net: Network, code: Data, chain: Chain) -> Data:
    """x_t to x_0 by DDIM Eq. 12 with η = 0 (Song et al. 2021), t the chain's last time; x̂_0 is not clipped."""
    x, sampler, denoise = code, DDIM(), diffusion.denoiser(net, chain, clip=False)
    for step in chain.steps_down():
        x, _, _ = sampler.step(denoise, x, step, None, None)
    return x


def slerp(a: Data, b: Data, fraction: PerExample) -> Data:
    """The points between two codes, B × shape, at fractions 0 (a) to 1 (b) of the angle between them: Shoemake 1985, as DDIM
    section 5.3 interpolates. A line would pass nearer to 0 than codes, which are about normal, ever lie."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = torch.arccos(cosine).reshape(-1, *[1] * (a.ndim - 1))
    fraction = fraction.to(a).reshape(angle.shape)
    on_arc = (torch.sin((1 - fraction) * angle) * a + torch.sin(fraction * angle) * b) / torch.sin(angle)
    return torch.where(torch.sin(angle) > 1e-4, on_arc, (1 - fraction) * a + fraction * b)
