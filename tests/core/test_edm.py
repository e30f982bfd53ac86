"""Prediction and loss of EDM: the exact denoiser, unit variance, v as a special case, unit weight; likelihood weighting."""

import math

import pytest
import torch

from ddpm_lab.core.loss import EDM as EDMLoss
from ddpm_lab.core.loss import VLB, Likelihood, Simple
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.prediction import EDM, X0, V
from ddpm_lab.core.schedule import cosine, linear
from ddpm_lab.core.terms import term_bpd
from ddpm_lab.core.types import Incompatible
from ddpm_lab.core.variance import Beta, BetaTilde

from .edm_reference import edm_network, preconditioning
from .support import GaussianDiffusion, all_times, assert_close, normal_like, on_grid

F64 = torch.float64
SCHEDULES = {
    "linear": linear,
    "cosine": cosine,
    "constant at 1e-12": lambda: NoiseSchedule(torch.logspace(0, -12, 41, dtype=F64)),
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def of(schedule: NoiseSchedule, prediction, variance=None) -> GaussianDiffusion:
    return GaussianDiffusion(schedule, prediction, variance or Beta(), levels=None)


def at_all_times(schedule: NoiseSchedule, std: float, n: int = 1):
    """n draws of x_0 and ε at every t, as rows."""
    t = all_times(schedule.T).repeat_interleave(n)
    x0 = std * normal_like(torch.zeros(len(t), 3, dtype=F64), 0)
    return t, x0, normal_like(x0, 1)


@pytest.mark.parametrize("s", [0.2, 0.5, 3.0])
@every_schedule
def test_the_best_network_gives_the_exact_denoiser(name, s):
    """On N(m, s²), at every t, whatever σ_d: F from the paper's Table 1 in σ, and E[x_0 | x_t] from ᾱ."""
    schedule, m = SCHEDULES[name](), 0.7
    net = edm_network(lambda x, sigma: (s**2 * x + sigma**2 * m) / (s**2 + sigma**2))
    t, x0, eps = at_all_times(schedule, s)
    diffusion = of(schedule, EDM())
    noised = diffusion.noised(x0 + m, eps, t)
    found = diffusion.look(net, noised.xt, t, noised.step).x0
    ab = schedule.alphas_bar[t][:, None]
    assert_close(found, m + ab.sqrt() * s**2 / (ab * s**2 + 1 - ab) * (noised.xt - ab.sqrt() * m))


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_inputs_are_those_of_the_paper(sigma_data):
    schedule = linear()
    t, x0, eps = at_all_times(schedule, 1.0)
    diffusion = of(schedule, EDM(sigma_data))
    noised = diffusion.noised(x0, eps, t)
    x_in, told = diffusion.prediction.inputs(noised.xt, t, noised.step)
    for i in range(len(t)):
        sigma = math.sqrt(1 / float(schedule.alphas_bar[i + 1]) - 1)
        _, _, c_in, c_noise = preconditioning(sigma, sigma_data)
        assert_close(x_in[i], c_in * (x0[i] + sigma * eps[i]))
        assert_close(told[i], c_noise)


def test_one_step_and_a_batch_are_told_alike():
    """A sampler's step has no dimension; the network is told one number for each row, in their precision."""
    diffusion, x = of(cosine(), EDM()), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    t = torch.full((3,), 700)
    batch, single = (diffusion.prediction.inputs(x, t, step) for step in (diffusion.chain.step(t, x), diffusion.chain[700]))
    for a, b in zip(batch, single, strict=True):
        assert (a.dtype, b[0].dtype) == (torch.float32, b.dtype)
        torch.testing.assert_close(a, b.float())
    assert single[1].shape == (3,)
    assert single[1].dtype == torch.float32


@every_schedule
def test_inputs_and_targets_have_variance_one_for_data_of_sigma_data(name):
    """Their variance is Σ of squared coefficients of independent x_0/σ_d and ε."""
    schedule = SCHEDULES[name]()
    for sigma_data in (0.5, 0.1, 4.0):
        prediction, t = EDM(sigma_data), all_times(schedule.T)
        one, zero = torch.full((len(t), 1), sigma_data, dtype=F64), torch.zeros(len(t), 1, dtype=F64)
        diffusion = of(schedule, prediction)
        both = diffusion.noised(one, zero, t), diffusion.noised(zero, torch.ones_like(zero), t)
        inputs = [prediction.inputs(noised.xt, t, noised.step)[0] for noised in both]
        targets = [prediction.target(noised.x0, noised.eps, noised.xt, noised.step) for noised in both]
        for of_x0, of_eps in (inputs, targets):
            assert_close(of_x0**2 + of_eps**2, torch.ones(len(t), 1))


@every_schedule
def test_sigma_data_of_one_is_v_with_the_opposite_sign(name):
    schedule = SCHEDULES[name]()
    t, x0, eps = at_all_times(schedule, 1.3)
    noised, out = of(schedule, V()).noised(x0, eps, t), normal_like(x0, 2)
    edm, v, step, xt = EDM(1.0), V(), noised.step, noised.xt
    assert_close(edm.target(x0, eps, xt, step), -v.target(x0, eps, xt, step))
    assert_close(edm.x0(-out, xt, step), v.x0(out, xt, step))
    assert_close(edm.x0_weight(step) / v.x0_weight(step), torch.ones(len(t), 1))
    assert_close(edm.inputs(xt, t, step)[0], xt)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_nothing_overflows_where_hardly_any_signal_is_left(dtype):
    """ᾱ_T = 1e-60: σ = 1e30, whose square float32 does not hold; x̂_0 is then c_out F, c_out = σ_d."""
    diffusion = of(NoiseSchedule(torch.tensor([1.0, 0.5, 1e-60], dtype=F64)), EDM())
    x0, t = torch.full((1, 2), 0.3, dtype=dtype), torch.tensor([2])
    noised = diffusion.noised(x0, torch.ones_like(x0), t)
    seen = diffusion.look(lambda x, c: x * 0 + c[:, None], noised.xt, t, noised.step)
    target = diffusion.prediction.target(x0, noised.eps, noised.xt, noised.step)
    c_noise = 0.25 * math.log(10) * 30
    assert_close(seen.x0, torch.full((1, 2), 0.5 * c_noise), rtol=1e-6)
    assert_close(target, torch.full((1, 2), 0.3 / 0.5), rtol=1e-6)


# Losses


@every_schedule
def test_the_loss_of_edm_is_the_simple_one_of_its_prediction(name):
    schedule = SCHEDULES[name]()
    t, x0, eps = at_all_times(schedule, 0.5)
    for sigma_data in (0.5, 2.0):
        diffusion, loss = of(schedule, EDM(sigma_data)), EDMLoss(sigma_data)
        loss.check(diffusion)
        noised, out = diffusion.noised(x0, eps, t), normal_like(x0, 2)
        assert torch.equal(loss(diffusion, out, noised), Simple()(diffusion, out, noised))


def test_the_loss_of_edm_weighs_the_error_of_x0_as_the_paper_does():
    diffusion = of(linear(), X0())
    t, x0, eps = at_all_times(diffusion.schedule, 1.0)
    noised, out = diffusion.noised(x0, eps, t), normal_like(x0, 2)
    sigma = (1 / diffusion.schedule.alphas_bar[1:] - 1).sqrt()
    for sigma_data in (0.5, 2.0):
        lam = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        assert_close(EDMLoss(sigma_data)(diffusion, out, noised), lam * ((out - x0) ** 2).mean(1))


def test_two_standard_deviations_of_one_data_set_are_refused():
    with pytest.raises(Incompatible, match=r"sigma_data=0\.5.*sigma_data=0\.7") as error:
        EDMLoss(0.5).check(of(linear(10), EDM(0.7)))
    assert error.value.arguments == ("loss", "prediction")
    EDMLoss(0.7).check(of(linear(10), EDM(0.7)))
    EDMLoss(0.7).check(of(linear(10), V()))


@pytest.mark.parametrize("levels", [None, 17])
def test_likelihood_is_the_bound_of_beta_tilde_whatever_the_variance(levels):
    """At t = 1 too; and no other variance of samples moves it."""
    values = []
    for variance in (Beta(), BetaTilde()):
        diffusion = GaussianDiffusion(cosine(50), EDM(), variance, levels)
        x0 = on_grid((50, 1, 2, 2), levels)
        noised, out = diffusion.noised(x0, normal_like(x0, 1), all_times(50)), normal_like(x0, 2)
        values.append(Likelihood(scale=3.0)(diffusion, out, noised))
    assert_close(values[0], 3 * term_bpd(diffusion, out, noised))
    assert torch.equal(values[0], values[1])
    assert_close(values[1], VLB(scale=3.0)(diffusion, out, noised))
