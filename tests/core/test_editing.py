"""Image-to-image and inpainting, on Gaussian data whose denoiser E[x_0 | x_t] is known."""

import itertools

import pytest
import torch

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.editing import edit, inpaint, positions
from ddpm_lab.core.heun import EDMChurn
from ddpm_lab.core.multistep import DPMSolverPP, UniPC
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.pndm import PNDM
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.schedule import linear, zero_terminal_snr

from .support import REFUSED, assert_close, make, normal_like

F64 = torch.float64
CORRELATION = 0.8
COVARIANCE = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=F64)
SAMPLERS = [Ancestral(), Ancestral(steps=200), DDIM(200), DDIM(200, eta=1.0)]


def gaussian(schedule: NoiseSchedule) -> GaussianDiffusion:
    return GaussianDiffusion(schedule, make("prediction", "x0"), make("variance", "beta_tilde"), levels=None)


def denoiser(schedule: NoiseSchedule):
    """E[x_0 | x_t] of N(0, COVARIANCE): √ᾱ Σ (ᾱ Σ + (1 − ᾱ) I)^−1 x_t."""

    def net(xt, t):
        ab = schedule.alphas_bar[t[0]]
        return xt @ (ab.sqrt() * COVARIANCE @ torch.linalg.inv(ab * COVARIANCE + (1 - ab) * torch.eye(2, dtype=F64)))

    return net


def noises(n: int, seed: int):
    return lambda i: normal_like(torch.zeros(n, 2, dtype=F64), 1000 * seed + i)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["all", "strided", "ddim", "ddim_eta1"])
@pytest.mark.long
def test_editing_from_0_is_identity_and_from_T_a_plain_sample(sampler):
    schedule = zero_terminal_snr()  # nothing of x_0 is in x_T
    diffusion, net, noise, x0 = (
        gaussian(schedule),
        denoiser(schedule),
        noises(4, 1),
        normal_like(torch.zeros(4, 2, dtype=F64), 7),
    )
    *_, plain = sampler(diffusion, net, noise(0), noise)
    assert torch.equal(edit(sampler, diffusion, net, x0, 0, noise), x0)
    assert torch.equal(edit(sampler, diffusion, net, x0, 1000, noise), plain.x)
    assert not torch.equal(edit(sampler, diffusion, net, x0, 500, noise), plain.x)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["all", "strided", "ddim", "ddim_eta1"])
@pytest.mark.parametrize("t", [1, 7, 333])
def test_editing_keeps_the_distribution(sampler, t):
    """Of data from the model's own distribution, samples from x_t have it again, and are nearer to x_0 for a smaller t."""
    schedule, n = zero_terminal_snr(), 4000
    x0 = normal_like(torch.zeros(n, 2, dtype=F64), 7) @ torch.linalg.cholesky(COVARIANCE).T
    edited = edit(sampler, gaussian(schedule), denoiser(schedule), x0, t, noises(n, 2))
    assert_close(edited.T.cov(), COVARIANCE, atol=0.1)
    nearer = edit(sampler, gaussian(schedule), denoiser(schedule), x0, t // 3, noises(n, 2))
    assert (nearer - x0).norm() < (edited - x0).norm()


def test_a_time_that_is_not_there_is_refused():
    schedule, x0 = zero_terminal_snr(), torch.zeros(1, 2, dtype=F64)
    for t in (-1, 1001):
        with pytest.raises(ValueError, match=str(t)):
            edit(DDIM(20), gaussian(schedule), denoiser(schedule), x0, t, noises(1, 0))


def test_resampling_visits_places_as_repaint_does():
    """The lists of get_schedule_jump of the published code, whose t is the place − 1."""
    assert list(positions(4, 1, 1)) == [3, 2, 1, 0]
    assert list(positions(3, 1, 2)) == [2, 3, 2, 1, 2, 1, 0]
    assert list(positions(5, 2, 2)) == [4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0]
    assert list(positions(5, 9, 3)) == [4, 3, 2, 1, 0]
    for n, jump, resamplings in itertools.product((1, 2, 9, 20), (1, 3), (1, 4)):
        visits = list(positions(n, jump, resamplings))
        assert (visits.count(0), visits[-1]) == (1, 0)
        assert sum(b > a for a, b in itertools.pairwise(visits)) == (resamplings - 1) * len(range(1, n - jump + 1, jump))
    for wrong in ((0, 1, 1), (5, 0, 1), (5, 1, 0)):
        with pytest.raises(REFUSED):
            list(positions(*wrong))


def filled(sampler, resamplings: int, n: int, jump: int) -> tuple[float, float]:
    """Slope of the unknown value on the known one, and its variance around that; both errors."""
    schedule, x0 = linear(), normal_like(torch.zeros(n, 2, dtype=F64), 7)
    known = torch.tensor([True, False])
    samples = inpaint(sampler, gaussian(schedule), denoiser(schedule), x0, known, noises(n, 3), jump, resamplings)
    assert torch.equal(samples[:, 0], x0[:, 0])
    slope = float((samples[:, 0] * samples[:, 1]).mean() / (samples[:, 0] ** 2).mean())
    return slope - CORRELATION, float((samples[:, 1] - slope * samples[:, 0]).var()) - (1 - CORRELATION**2)


@pytest.mark.parametrize("jump", [1, 10])
@pytest.mark.long
def test_inpainting_meets_the_conditional_as_resampling_grows(jump):
    """x_2 given x_1 has the mean ρ x_1 and the variance 1 − ρ². Steps alone fill in too little of the correlation."""
    once, thrice, often = (filled(Ancestral(steps=150), resamplings, 2000, jump) for resamplings in (1, 3, 9))
    assert -0.35 < once[0] < 2 * thrice[0] < 3 * often[0] < 0
    assert abs(often[0]) < 0.07
    assert abs(often[1]) < 0.07 < once[1]


@pytest.mark.parametrize("sampler", [DPMSolverPP(steps=10), UniPC(steps=10), PNDM(steps=10, runge_kutta=False)])
def test_a_solver_keeps_its_order_where_nothing_is_known(sampler):
    """Nothing known and no jump back: inpainting is a plain sample, history included."""
    schedule, x0 = linear(), torch.zeros(5, 2, dtype=F64)
    diffusion, net = gaussian(schedule), denoiser(schedule)
    draw = noises(5, 3)
    *_, plain = sampler(diffusion, net, draw(0), draw)
    assert_close(inpaint(sampler, diffusion, net, x0, torch.zeros(2, dtype=torch.bool), draw), plain.x, rtol=0, atol=0)


def test_churn_is_that_of_the_whole_chain_wherever_it_starts():
    sampler, schedule = EDMChurn(steps=100, churn=10.0), linear()
    whole = sampler.chain(schedule)
    t = whole.times[30]
    assert sampler.raised(whole[t], sampler.start(whole)) == sampler.raised(whole[t], sampler.start(whole.up_to(t)))
