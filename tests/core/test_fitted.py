"""Fitted schedules: closed forms of Gaussian data, the optimum found by another way, what is measured, what is refused."""

import math

import numpy as np
import pytest
import torch

from ddpm_lab.core.fitted import GROUPS, constant_rate, principal_variances, tangent
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.core.schedule import cosine, linear, shifted_cosine
from ddpm_lab.core.spacing import times_of
from ddpm_lab.likelihood.distances import distances

from .linear_model import LinearModel
from .support import assert_close

F64 = torch.float64
SPECTRA = [[0.9, 0.3, 0.05, 0.004], [2.0, 1e-3], [0.5, 0.4, 0.3]]


def angles(alphas_bar, variance):
    """θ_t, tan θ = σ/(α √λ)."""
    return torch.atan2((1 - alphas_bar).sqrt(), (alphas_bar * variance).sqrt())


def sampled_variances(alphas_bar, variances):
    """Of DDIM (η = 0) along each axis, step by step from variance 1: x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s) ε̂, both linear in x_t."""
    variance = torch.as_tensor(variances, dtype=F64)
    std = torch.ones_like(variance)
    for t in range(len(alphas_bar) - 1, 0, -1):
        now, then = alphas_bar[t], alphas_bar[t - 1]
        whole = now * variance + 1 - now
        std = std * (then.sqrt() * now.sqrt() * variance + (1 - then).sqrt() * (1 - now).sqrt()) / whole
    return std**2


def divergence(alphas_bar, variances):
    """KL(data ‖ samples) in nats."""
    ratio = torch.as_tensor(variances, dtype=F64) / sampled_variances(alphas_bar, variances)
    return ((ratio - 1 - ratio.log()) / 2).sum()


@pytest.mark.parametrize("variance", [1.0, 0.37, 0.01, 40.0])
@pytest.mark.parametrize("T", [1, 2, 10, 1000])
def test_angles_of_one_variance_are_even(T, variance):
    alphas_bar = tangent(T, variances=[variance]).alphas_bar
    last = math.atan(math.exp(5) / math.sqrt(variance))
    assert_close(angles(alphas_bar, variance), torch.arange(T + 1, dtype=F64) * last / T, rtol=1e-8, atol=0)


def test_the_tangent_law_of_unit_variance_is_the_cosine():
    """Without iDDPM's offset and cap."""
    alphas_bar = tangent(100, log_snr_min=-30.0, variances=[1.0, 1.0]).alphas_bar
    u = torch.arange(100, dtype=F64) / 100
    assert_close(alphas_bar[:-1], torch.cos(math.pi / 2 * u) ** 2, rtol=1e-4, atol=0)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_repeated_variances_weigh_twice_and_order_is_none(spectrum):
    one = tangent(50, variances=spectrum).alphas_bar
    assert_close(tangent(50, variances=[*spectrum[::-1], *spectrum]).alphas_bar, one, rtol=1e-7)


def test_a_step_of_ddim_turns_by_an_angle():
    """The sampler of the lab on data N(0, diag λ), and λ Π cos²(θ_t − θ_s)."""
    model = LinearModel(cosine(20))
    last = [*DDIM(steps=20)(model.diffusion("beta"), model.net, torch.ones(1, 4, dtype=F64), noise=torch.zeros)][-1].x[0]
    assert_close(last**2, sampled_variances(model.schedule.alphas_bar, model.spectrum))
    theta = torch.stack([angles(model.schedule.alphas_bar, one) for one in model.spectrum])
    prior = model.schedule.alphas_bar[-1] * (model.spectrum - 1) + 1
    assert_close(last**2, model.spectrum * theta.diff(dim=1).cos().prod(1) ** 2 / prior)


def best(T, spectrum, start):
    """The least divergence of any table that ends as `start`, by a quasi-Newton search over its T − 1 free steps of γ."""
    gamma = -torch.logit(start[1:])
    free = torch.cat([gamma[:1], gamma.diff().log()]).requires_grad_()
    search = torch.optim.LBFGS([free], max_iter=3000, max_eval=6000, tolerance_change=1e-14, tolerance_grad=1e-12,
                               history_size=50, line_search_fn="strong_wolfe")  # fmt: skip

    def table():
        moved = free[0] + torch.cat([torch.zeros(1, dtype=F64), free[1:].exp().cumsum(0)])
        return torch.cat([torch.ones(1, dtype=F64), torch.sigmoid(-(moved - moved[-1] + gamma[-1]))])

    def closure():
        search.zero_grad()
        loss = divergence(table(), spectrum).log()
        loss.backward()
        return loss

    search.step(closure)
    return float(divergence(table().detach(), spectrum))


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_no_table_of_many_steps_is_better(spectrum):
    """Than by 1% for 100 steps; the fixed tables are worse."""
    ours = tangent(100, variances=spectrum).alphas_bar
    found = float(divergence(ours, spectrum))
    assert found < 1.01 * best(100, spectrum, ours)
    for other in (cosine(100), linear(100, rescale=True), shifted_cosine(100)):
        assert found < 0.8 * float(divergence(other.alphas_bar, spectrum))


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_divergence_is_of_second_order(spectrum):
    """T² KL tends to J/4, J = Σ_k (∫ (dθ_k/du)² du)²."""
    rows = [tangent(T, log_snr_min=-20.0, variances=spectrum).alphas_bar for T in (1000, 2000)]
    first, second = (float(divergence(row, spectrum)) * (len(row) - 1) ** 2 for row in rows)
    assert first == pytest.approx(second, rel=1e-3)
    S = torch.stack([2000 * (angles(rows[1], one).diff() ** 2).sum() for one in spectrum])
    assert second == pytest.approx(float((S**2).sum() / 4), rel=1e-3)


def gaussian(n, spectrum, seed=0):
    """n data whose covariance is diag(spectrum) exactly, and a rotation."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, len(spectrum), generator=g, dtype=F64)
    q, _ = torch.linalg.qr(x - x.mean(0))
    rotation, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=g, dtype=F64))
    return q * math.sqrt(n - 1) * torch.tensor(spectrum, dtype=F64).sqrt() + 3, rotation


def test_variances_are_those_of_the_axes_however_the_data_lie():
    x, rotation = gaussian(200, SPECTRA[0])
    for turned in (x, x @ rotation, x.flip(0), x[:, [2, 0, 3, 1]]):
        assert principal_variances(turned, 0.0) == SPECTRA[0]
    assert principal_variances(x, 0.01) == [0.9, 0.3, 0.05, 0.01]


def test_fewer_data_than_dimensions_leave_the_floor():
    x, rotation = gaussian(200, [0.9, 0.3, 0.05, 0.004])
    few = x[:3] @ rotation
    found = principal_variances(few, 1e-5)
    assert_close(found[:2], np.linalg.eigvalsh(np.cov(few.numpy().T))[::-1][:2].copy(), rtol=1e-5)
    assert found[2:] == [1e-5, 1e-5]


def test_many_variances_are_kept_as_means_of_neighbours():
    spectrum = [0.97**i for i in range(3 * GROUPS)]
    found = principal_variances(gaussian(400, spectrum)[0], 0.0)
    assert_close(found, spectrum[1::3], rtol=1e-5)
    assert_close(tangent(100, variances=found).alphas_bar, tangent(100, variances=spectrum).alphas_bar, rtol=2e-3)


def test_data_that_do_not_vary_are_refused():
    x = gaussian(200, [0.9, 0.3])[0]
    with pytest.raises(ValueError, match=r"^floor=null.*allowed is floor > 0"):
        principal_variances(torch.cat([x, torch.ones(200, 1, dtype=F64)], 1), 0.0)
    with pytest.raises(ValueError, match="n=1"):
        principal_variances(x[:1], 0.1)


def exact_distances(model, times, quantity):
    """Root mean squares by dimension, from E x_0² = λ and E ε² = 1: f is a x_0 + b ε."""
    ab = model.schedule.alphas_bar[times][:, None]
    gain = torch.stack([model.gain(t) for t in times])
    a, b = gain * ab.sqrt(), gain * (1 - ab).sqrt()
    if quantity == "eps":
        a, b = (ab.sqrt() - ab.sqrt() * a) / (1 - ab).sqrt(), 1 - ab.sqrt() * b / (1 - ab).sqrt()
    return (a.diff(dim=0) ** 2 * model.spectrum + b.diff(dim=0) ** 2).mean(1).sqrt()


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("quantity", ["x0", "eps"])
@pytest.mark.long
def test_distances_of_gaussian_data_are_exact(quantity, prediction):
    model, times = LinearModel(cosine(100), prediction=prediction), [1, 10, 30, 31, 60, 90]
    found = distances(model.diffusion("beta"), model.net, model.data(40_000), times, quantity)
    assert_close(found, exact_distances(model, times, quantity), rtol=0.02)


def test_distances_do_not_depend_on_the_batch():
    model, x0 = LinearModel(cosine(100)), LinearModel(cosine(100)).data(70)
    of = [distances(model.diffusion("beta"), model.net, x0, [1, 50, 99], "x0", batch=batch) for batch in (7, 70)]
    assert_close(of[0], of[1], rtol=1e-6)


@pytest.mark.parametrize("quantity", ["x0", "eps"])
def test_a_constant_rate_is_constant_for_its_own_network(quantity):
    """Of Gaussian data: each of 39 steps between the ends moves the estimate equally far, up to what 64 distances resolve."""
    pilot = LinearModel(cosine(1000, max_beta=0.99))
    knots = torch.tensor(times_of(pilot.schedule, GROUPS + 1, "log_snr"))
    log_snr = pilot.schedule.snr[knots].log().tolist()
    fitted = constant_rate(1000, log_snr=log_snr, distances=exact_distances(pilot, knots, quantity).tolist())
    steps = exact_distances(LinearModel(fitted), torch.arange(25, 1001, 25), quantity)
    assert float(steps.std() / steps.mean()) < 0.05
    before = exact_distances(pilot, torch.arange(25, 1001, 25), quantity)
    assert float(before.std() / before.mean()) > 5 * float(steps.std() / steps.mean())


def test_steps_take_equal_shares_of_the_distances():
    """By numpy's interpolation, at the ends of the table as at its knots."""
    log_snr, far = [9.0, 4.0, 3.5, -2.0, -9.0], [0.3, 2.0, 0.05, 0.4]
    alphas_bar = constant_rate(137, log_snr=log_snr, distances=far).alphas_bar[1:]
    way = np.interp(-torch.logit(alphas_bar).numpy(), [-x for x in log_snr], np.cumsum([0, *far]))
    assert_close(way, np.arange(1, 138) / 137 * sum(far), rtol=1e-12)
    assert_close(torch.logit(alphas_bar[-1]), -9.0)


def test_what_moves_evenly_in_log_snr_gives_an_even_log_snr():
    alphas_bar = constant_rate(10, log_snr=[8.0, 5.0, -6.0, -7.0], distances=[3.0, 11.0, 1.0]).alphas_bar[1:]
    assert_close(torch.logit(alphas_bar), 8 - 1.5 * torch.arange(1, 11, dtype=F64))


def test_a_reference_of_the_size_is_the_cosine():
    """Without its offset and cap, where the ends are far."""
    found = shifted_cosine(50, size=32, reference=32, log_snr_min=-30.0, log_snr_max=30.0).alphas_bar
    assert_close(found[:-1], torch.cos(math.pi / 2 * torch.arange(50, dtype=F64) / 50) ** 2, rtol=1e-4)


def test_shifts_move_log_snr_alone_and_are_interpolated():
    plain, low, high, both = (
        torch.logit(shifted_cosine(40, 256, reference, other).alphas_bar[1:])
        for reference, other in ((256, None), (32, None), (128, None), (32, 128))
    )
    u = torch.arange(1, 41, dtype=F64) / 40
    assert_close(low - plain, torch.full((40,), 2 * math.log(1 / 8), dtype=F64), rtol=1e-7)
    assert_close(both, u * low + (1 - u) * high, rtol=1e-7)


REFUSED = [
    (tangent, {}, r"variances=null"),
    (tangent, {"variances": []}, r"variances=\[\]"),
    (tangent, {"variances": [1.0, 0.0]}, r"variances="),
    (tangent, {"variances": [1.0], "log_snr_min": -31}, r"log_snr_min=-31"),
    (
        tangent,
        {"variances": [1.0], "log_snr_min": 30.0, "T": 1000},
        r"log_snr_min=30.0 T=1000 variances=\[1.0\].*lower log_snr",
    ),
    (tangent, {"variances": [1e-300, 1e300]}, r"T=10 variances=\[1e-300, 1e\+300\]: .*variances that differ by less"),
    (
        constant_rate,
        {"log_snr": [36.0, 35.9, 35.8], "distances": [1.0, 1.0]},
        r"log_snr=\[36.0, …, 35.8\] T=10: .*starts lower",
    ),
    (constant_rate, {}, r"distances.*pilot"),
    (constant_rate, {"distances": [1.0]}, r"distances.*log_snr"),
    (constant_rate, {"log_snr": [1.0, -1.0], "distances": [1.0, 1.0]}, r"log_snr=.*one more than the 2"),
    (constant_rate, {"log_snr": [1.0, 2.0], "distances": [1.0]}, r"log_snr=.*fall"),
    (constant_rate, {"log_snr": [40.0, 2.0], "distances": [1.0]}, r"log_snr=.*36"),
    (constant_rate, {"log_snr": [1.0, -2.0], "distances": [0.0]}, r"distances="),
    (constant_rate, {"log_snr": [1.0, -2.0], "distances": [1.0], "quantity": "v"}, r"quantity=v"),
    (shifted_cosine, {"log_snr_min": 3.0, "log_snr_max": 2.0}, r"log_snr_min=3.0 log_snr_max=2.0"),
    (shifted_cosine, {"reference": 32, "reference_low_noise": 16}, r"reference_low_noise=16.*reference=32"),
]


@pytest.mark.parametrize(("schedule", "arguments", "named"), REFUSED)
def test_arguments_that_make_no_schedule_are_named(schedule, arguments, named):
    with pytest.raises(ValueError, match=named):
        schedule(**{"T": 10} | arguments)
