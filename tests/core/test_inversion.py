"""Codes of Gaussian data, whose score is known: encoding is a linear map, so nothing here is estimated."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.inversion import LEAST_SIGNAL, decode, encode, last_code, slerp
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.core.schedule import cosine, linear

from .support import assert_close, normal_like
from .test_gaussian_data import exact_eps, gaussian

F64 = torch.float64
S = 0.5
"""Standard deviation of the data."""


def slopes(schedule: NoiseSchedule, times: Sequence[int]) -> tuple[float, float]:
    """Of x_t over x_0 by encoding, and of x_0 over x_0 by decoding that."""
    diffusion, net, chain = gaussian(schedule), exact_eps(schedule, S), schedule.chain(times)
    code = encode(diffusion, net, torch.ones(1, 1, dtype=F64), chain)
    return float(code), float(decode(diffusion, net, code, chain))


@pytest.mark.long
def test_encoding_follows_the_flow_to_first_order():
    """The flow keeps x_t / std(x_t), std² = ᾱ s² + 1 − ᾱ. Twice the steps, half the error, of the code and of the way back."""
    schedule = linear(8000, rescale=True)
    kept = float(schedule.alphas_bar[6400])
    exact = math.sqrt(kept * S**2 + 1 - kept) / S
    found = [slopes(schedule, range(gap, 6401, gap)) for gap in (32, 16, 8, 4)]
    for errors in zip(*((abs(code - exact), abs(back - 1)) for code, back in found), strict=True):
        assert all(1.7 < coarse / fine < 2.3 for coarse, fine in itertools.pairwise(errors)), errors
    assert found[-1] == pytest.approx((exact, 1), rel=0.004)


def test_decoding_is_ddim():
    schedule, x = cosine(), normal_like(torch.zeros(3, 1, dtype=F64), 0)
    diffusion, net, sampler = gaussian(schedule), exact_eps(schedule, S), DDIM(steps=20, clip=False)
    *_, last = sampler(diffusion, net, x, noise=lambda t: x)
    assert torch.equal(decode(diffusion, net, x, sampler.chain(schedule)), last.x)


@pytest.mark.parametrize("schedule", [linear(), cosine()], ids=["linear", "cosine"])
def test_a_code_without_signal_is_refused(schedule):
    last, x = last_code(schedule), torch.ones(1, 1, dtype=F64)
    assert schedule.alphas_bar[last].sqrt() >= LEAST_SIGNAL > schedule.alphas_bar[last + 1].sqrt()
    diffusion, net = gaussian(schedule), exact_eps(schedule, S)
    assert encode(diffusion, net, x, schedule.chain([last])).isfinite()
    with pytest.raises(ValueError, match=rf"t={last + 1}\b.*\b{last}\b"):
        encode(diffusion, net, x, schedule.chain([last + 1]))


def test_slerp_moves_by_the_angle():
    """From a to b in the plane of both: equal steps of the angle, and of the norm of codes of one norm."""
    a, b = normal_like(torch.zeros(2, 5, 3, dtype=F64), 1), normal_like(torch.zeros(2, 5, 3, dtype=F64), 2)
    b *= (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).reshape(2, 1, 1)
    points = [slerp(a, b, torch.full((2,), fraction)) for fraction in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert_close(points[0], a)
    assert_close(points[-1], b)
    cosine = torch.nn.functional.cosine_similarity
    angles = torch.stack([cosine(x.flatten(1), y.flatten(1)).arccos() for x, y in itertools.pairwise(points)])
    assert_close(angles, cosine(a.flatten(1), b.flatten(1)).arccos().expand(4, 2) / 4)
    assert_close(torch.stack([x.flatten(1).norm(dim=1) for x in points]), a.flatten(1).norm(dim=1).expand(5, 2))
    assert_close(slerp(a, a, torch.full((2,), 0.3)), a)


def test_clipping_has_no_part_in_codes():
    """x̂_0 beyond 1 comes back as it was, of a diffusion that clips samples."""
    schedule = linear()
    diffusion = GaussianDiffusion(schedule, gaussian(schedule).prediction, gaussian(schedule).variance, levels=256)
    x0, chain = torch.full((1, 1), 3.0, dtype=F64), schedule.chain(range(2, 801, 2))
    net = exact_eps(schedule, S)
    assert_close(decode(diffusion, net, encode(diffusion, net, x0, chain), chain), x0, rtol=0.02)
