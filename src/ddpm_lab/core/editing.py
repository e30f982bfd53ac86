"""Samples that are bound to given data: from a noised datum on, or with known pixels."""

import itertools
from collections.abc import Iterator

import torch
from jaxtyping import Bool
from torch import Tensor

from ddpm_lab.core.diffusion import GaussianDiffusion, Network, diffuse
from ddpm_lab.core.sampler import Noise, Sampler
from ddpm_lab.core.types import Data
from ddpm_lab.domains import PositiveInt, checked


def edit(sampler: Sampler, diffusion: GaussianDiffusion, net: Network, x0: Data, t: int, noise: Noise) -> Data:
    """SDEdit (Meng et al. 2022): x_t ~ q(x_t | x_0), then samples from x_t on. t = 0 returns x_0; at T nothing of x_0 is left
    where ᾱ_T = 0. `noise(0)` is that of x_t, others are those of the sampler. Raises ValueError for a t outside 0..T."""
    if t == 0:
        return x0
    xt = diffuse(x0, noise(0), sampler.chain(diffusion.schedule).up_to(t)[t])
    *_, last = sampler(diffusion, net, xt, noise, start=t)
    return last.x


@checked
def positions(steps: PositiveInt, jump: PositiveInt, resamplings: PositiveInt) -> Iterator[int]:
    """Places on a chain of `steps` in the order in which RePaint visits them, from `steps` − 1 down to 0, the data. Each 1 +
    k·`jump` is left upwards, by `jump` places, `resamplings` − 1 times, as in the code of Lugmayr et al. 2022."""
    left = dict.fromkeys(range(1, steps - jump + 1, jump), resamplings - 1)
    place = steps
    while place > 0:
        place -= 1
        yield place
        if left.get(place):
            left[place] -= 1
            place += jump
            yield place


@torch.no_grad()
def inpaint(
    sampler: Sampler,
    diffusion: GaussianDiffusion,
    net: Network,
    x0: Data,
    known: Bool[Tensor, "..."],
    noise: Noise,
    jump: int = 1,
    resamplings: int = 1,
) -> Data:
    """RePaint, Algorithm 1 (Lugmayr et al. 2022): samples whose values equal x_0 where `known`, which broadcasts against x_0.

    After each step the known values are those of x_s ~ q(x_s | x_0). `resamplings` times in all, a step is followed by `jump`
    steps of q back, so that the unknown values meet the known ones; 1 never goes back, nor does a chain of at most `jump`
    steps. A multistep method begins anew after each jump. `noise(i)` is the i-th draw.
    """
    chain, draw = sampler.chain(diffusion.schedule), map(noise, itertools.count())
    times, denoise = (0, *chain.times), sampler.denoiser(diffusion, net, chain)
    noisy = sampler.noisy(diffusion.variance)
    x, here, state = next(draw), len(chain), sampler.start(chain)
    for there in positions(len(chain), jump, resamplings):
        if there > here:
            kept = chain[times[there]].at_t.signal_scale / chain[times[here]].at_t.signal_scale
            x, state = kept * x + (1 - kept**2).sqrt() * next(draw), sampler.start(chain.up_to(times[there]))
        else:
            step = chain[times[here]]
            z = next(draw) if noisy and sampler.adds_noise(step) else None
            sampled, _, state = sampler.step(denoise, x, step, z, state)
            given = x0 if there == 0 else diffuse(x0, next(draw), chain[times[there]])
            x = torch.where(known, given, sampled)
        here = there
    return x
