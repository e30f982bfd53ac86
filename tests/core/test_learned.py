"""A learned γ: gradients against finite differences, the optimum on Gaussian data, what a table read off it keeps."""

import dataclasses

import pytest
import torch
from scipy.optimize import minimize

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.gamma import Interpolated, LearnedSchedule, Monotone, ReadOff, fixed, learned, read_off
from ddpm_lab.core.loss import VLB
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.terms import prior_bpd, term_bpd
from ddpm_lab.core.types import Incompatible

from .linear_model import SPECTRUM, LinearModel
from .support import Setting, assert_close, diffusion_of, make, normal_like, on_grid

F64 = torch.float64


def path(bumps: int = 3, learn_ends: bool = True, first: float = -4.0, last: float = 3.0) -> Monotone:
    made = Monotone(first, last, bumps, learn_ends).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (made.heights, made.widths, made.centres):
            parameter += 0.3 * torch.randn(parameter.shape, generator=g, dtype=F64)
    return made


class Smooth(torch.nn.Module):
    """A network whose output depends on x_t and on what it is told, twice as wide as its input where asked."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        at = told.reshape(-1, *[1] * (x.ndim - 1)) / 1000
        out = torch.sin(1.3 * x + at) + 0.2 * x.flip(-1)
        return torch.cat([out, torch.cos(x - 2 * at)], 1)[:, : x.shape[1] * self.outputs]


def terms(process: GaussianDiffusion, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    noised = process.noised(x0, eps, t)
    return term_bpd(process, process.output(Smooth(process.variance.n_outputs), noised.xt, t, noised.step), noised)


@pytest.mark.parametrize("variance", ["beta", "beta_tilde", "learned_range"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mu"])
@pytest.mark.parametrize("levels", [None, 17])
def test_gradients_of_every_term_equal_finite_differences(prediction, variance, levels):
    gamma, T = path(bumps=2), 4
    x0 = on_grid((T, 1, 2, 2), levels, seed=1)
    eps, t = normal_like(x0, 2), torch.arange(1, T + 1)

    def of() -> torch.Tensor:
        process = diffusion_of(read_off(gamma, T), Setting(prediction, variance, levels))
        return torch.cat([terms(process, x0, eps, t), prior_bpd(process.chain, x0)[:1]])

    values, parameters, step = of(), list(gamma.parameters()), 1e-5
    columns = []
    for at in (parameter.data.view(-1) for parameter in parameters):
        for j, old in enumerate(at.tolist()):
            ends = []
            for moved in (old + step, old - step):
                at[j] = moved
                ends.append(of().detach())
            at[j] = old
            columns.append((ends[0] - ends[1]) / (2 * step))
    for value, wanted in zip(values, torch.stack(columns, 1), strict=True):
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        found = torch.cat([gradient.flatten() for gradient in gradients])
        assert_close(found, wanted, rtol=1e-5, atol=1e-5 * max(1e-3, float(wanted.abs().max())))


def closed_form(alphas_bar: torch.Tensor) -> torch.Tensor:
    """Nats per dimension of the bound of N(0, diag λ) under the true denoiser and σ² = β̃, from ᾱ_0..ᾱ_T; ᾱ_1 is held, so that
    the decoder, whose variance is that of the second step, counts as well."""
    ab_s, ab_t, lam = alphas_bar[:-1, None], alphas_bar[1:, None], SPECTRUM
    error = lam * (1 - ab_t) / (ab_t * lam + 1 - ab_t)
    kl = 0.5 * (ab_s / (1 - ab_s) - ab_t / (1 - ab_t))[1:] * error[1:]
    var = ((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s))[1]
    decoder = 0.5 * (torch.log(2 * torch.pi * var) + error[0] / var)
    last = alphas_bar[-1]
    return (kl.sum(0) + decoder + 0.5 * (last * lam - last - torch.log1p(-last))).mean()


def optimum(first: float, last: float, T: int) -> float:
    """By scipy, over the T − 2 values of γ between held ends, as shares of the rise."""

    def value(logits):
        x = torch.tensor(logits, dtype=F64, requires_grad=True)
        inner = first + (last - first) * x.softmax(0).cumsum(0)[:-1]
        gamma = torch.cat([torch.tensor([first], dtype=F64), inner, torch.tensor([last], dtype=F64)])
        bound = closed_form(torch.cat([torch.ones(1, dtype=F64), torch.sigmoid(-gamma)]))
        bound.backward()
        return float(bound.detach()), x.grad.numpy()

    return minimize(value, [0.0] * (T - 1), jac=True, method="BFGS", options={"gtol": 1e-9}).fun


class Exact:
    """E[ε | x_t] of N(0, diag λ), by what the network is told: γ on a scale of 0..1000 between its ends."""

    def __init__(self, first: float, last: float) -> None:
        self.first, self.last = first, last

    def __call__(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        ab = torch.sigmoid(-(self.first + (self.last - self.first) * told / 1000))[:, None]
        return (1 - ab).sqrt() * x / (ab * SPECTRUM + 1 - ab)


def test_the_closed_form_is_that_of_the_linear_model():
    schedule = fixed(path(), 7)
    model = LinearModel(schedule)
    times = tuple(range(1, 8))
    nats = model.bound_bpd(times, model.variance_of("beta_tilde", times)) * torch.tensor(2.0, dtype=F64).log()
    assert_close(closed_form(schedule.alphas_bar), nats)


def corners(T: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four pairs (x_0, ε) for each t, over which the mean of a quadratic is that over N(0, diag λ) and N(0, 1)."""
    x0, eps = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0])).double().T
    x0, eps = (signs.repeat(T)[:, None].expand(-1, len(SPECTRUM)) for signs in (x0, eps))
    return x0 * SPECTRUM.sqrt(), eps, torch.arange(1, T + 1).repeat_interleave(4)


@pytest.mark.long
def test_a_learned_schedule_finds_the_best_table():
    """T = 10, ends held, the true denoiser: trained by loss=vlb, in nats per dimension."""
    T, (first, last) = 10, (-6.0, 6.0)
    schedule = learned(T, first, last, bumps=32)
    gamma = schedule.path().double()
    best, start = optimum(first, last, T), float(closed_form(schedule.alphas_bar))
    optimiser = torch.optim.Adam([p for p in gamma.parameters() if p.requires_grad], lr=0.2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 200)
    process = GaussianDiffusion(schedule, make("prediction", "eps"), make("variance", "beta_tilde"), levels=None)
    x0, eps, t = corners(T)
    for _ in range(200):
        now = dataclasses.replace(process, schedule=read_off(gamma, T))
        noised = now.noised(x0, eps, t)
        out = now.output(Exact(first, last), noised.xt, t, noised.step)
        optimiser.zero_grad()
        VLB()(now, out, noised).mean().backward()
        optimiser.step()
        decay.step()
    found = float(closed_form(fixed(gamma, T).alphas_bar))
    assert start - best > 0.02  # there is something to learn
    assert best - 1e-9 <= found < best + 1e-3


def test_ends_are_trained_by_the_whole_bound():
    """T times the mean of loss=vlb over t has the gradient of all terms with L_T."""
    gamma, T = path(), 5
    x0 = on_grid((T, 1, 2, 2), None, seed=1)[:1].repeat(T, 1, 1, 1)
    eps, t = normal_like(x0, 2), torch.arange(1, T + 1)
    process = diffusion_of(read_off(gamma, T), Setting("eps", "beta_tilde", None))
    noised = process.noised(x0, eps, t)
    loss = VLB(scale=float(T))(process, process.output(Smooth(1), noised.xt, t, noised.step), noised).mean()
    whole = terms(process, x0, eps, t).sum() + prior_bpd(process.chain, x0)[0]
    assert_close(loss, whole)
    ends = [gamma.first, gamma.rise]
    for found, wanted in zip(torch.autograd.grad(loss, ends, retain_graph=True), torch.autograd.grad(whole, ends), strict=True):
        assert abs(wanted) > 0
        assert_close(found, wanted)


def test_held_ends_have_no_gradient():
    gamma = path(learn_ends=False)
    assert {name for name, p in gamma.named_parameters() if p.requires_grad} == {"slope", "heights", "widths", "centres"}
    assert_close(torch.stack(gamma.at(torch.tensor([0.0, 1.0], dtype=F64)).gamma.unbind()), [-4.0, 3.0], atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gamma_rises_whatever_its_parameters(scale):
    gamma, g = Monotone(-13.3, 5.0, 64, True), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (gamma.slope, gamma.heights, gamma.widths, gamma.centres):
            parameter += scale * torch.randn(parameter.shape, generator=g)
    assert (fixed(gamma, 1000).alphas_bar.diff() < 0).all()


def test_the_rate_is_the_derivative():
    gamma, u = path(), torch.linspace(0, 1, 9, dtype=F64, requires_grad=True)
    found = gamma.at(u)
    (wanted,) = torch.autograd.grad(found.gamma.sum(), u)
    assert_close(found.rate, wanted)


def test_tables_of_one_gamma_agree_and_tell_the_network_the_same():
    """Every third time of T = 10 is a time of T = 4, with the same marginal and the same number for the network."""
    gamma = path()
    fine, coarse = fixed(gamma, 10), fixed(gamma, 4)
    assert_close(fine.alphas_bar[1::3], coarse.alphas_bar[1:])
    one, other = ({t: s.told(torch.tensor([t]), s.chain()[t]) for t in range(1, s.T + 1)} for s in (fine, coarse))
    shared = torch.cat([one[t] for t in (1, 4, 7, 10)])
    assert_close(shared, torch.cat([*other.values()]), rtol=1e-5, atol=1e-4)
    assert_close(shared[[0, -1]], [0.0, 1000.0], rtol=1e-5, atol=1e-4)
    batch = fine.chain().step(torch.arange(1, 11), torch.zeros(10, 3, dtype=F64))
    assert_close(fine.told(torch.arange(1, 11), batch), torch.cat([*one.values()]), rtol=1e-5, atol=1e-4)


def test_interpolation_passes_through_the_table():
    schedule = make("schedule", "cosine", T=50)
    again = Interpolated(schedule).alphas_bar(50)
    assert_close(again, schedule.alphas_bar, rtol=1e-12, atol=0)


def test_a_table_read_off_keeps_the_gradient_only_in_training():
    gamma = path()
    assert isinstance(read_off(gamma, 5), ReadOff)
    assert read_off(gamma, 5).alphas_bar.requires_grad
    assert not fixed(gamma, 5).alphas_bar.requires_grad
    assert_close(fixed(gamma, 5).alphas_bar, read_off(gamma, 5).alphas_bar.detach())


def test_refused_are_ends_that_do_not_rise_and_losses_that_are_no_bound():
    for ends in ((5.0, -13.3), (-40.0, 5.0), (0.0, 0.0)):
        with pytest.raises(ValueError, match="gamma_min"):
            learned(10, *ends)
    with pytest.raises(ValueError, match=r"gamma_min=-20.0 gamma_max=-19.0 T=1000000: .* smaller T"):
        learned(10**6, -20.0, -19.0)
    with pytest.raises(ValueError, match=r"T=2: .* T >= 3, or learn_ends=true"):
        learned(2)
    schedule = learned(10)
    assert isinstance(schedule, LearnedSchedule)
    assert isinstance(schedule, NoiseSchedule)
    with pytest.raises(Incompatible) as refused:
        make("loss", "simple").check(diffusion_of(schedule))
    assert refused.value.arguments == ("loss", "schedule")


def test_trained_ends_stay_where_float64_tells_times_apart():
    gamma = Monotone(-13.3, 5.0, 4, True)
    with torch.no_grad():
        gamma.first.fill_(-1000.0)
        gamma.rise.fill_(-1000.0)
    assert_close(torch.stack(gamma.ends).detach(), [-20.0, -19.0])
    assert (fixed(gamma, 1000).alphas_bar.diff() < 0).all()
    with torch.no_grad():
        gamma.first.fill_(1000.0)
    assert_close(torch.stack(gamma.ends).detach(), [29.0, 30.0])
