"""Times of the lowest bound: costs against the measured bound and closed forms, the search against all chains."""

import itertools
import math

import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.core.analytic import Analytic
from ddpm_lab.core.jacobian import Hutchinson
from ddpm_lab.core.optimal import LOG_VARIANCES, Costs, Errors, cheapest, costs, decoder_cost
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.schedule import cosine, linear, zero_terminal_snr
from ddpm_lab.core.spacing import Optimal, times_of
from ddpm_lab.core.types import Incompatible
from ddpm_lab.likelihood.at_times import ErrorMeter
from ddpm_lab.likelihood.bound import BoundMeter

from .grey_reference import discretised_log_likelihood
from .linear_model import LinearModel
from .support import Setting, assert_close, diffusion_of, make, on_grid
from .test_analytic import CHAINS, schedule_of, true_gamma

F64 = torch.float64
FIXED = ["beta", "beta_tilde", "interpolated", "analytic"]


def variance_of(kind: str, model: LinearModel):
    return Analytic(true_gamma(model)) if kind == "analytic" else make("variance", kind)


def true_costs(model: LinearModel, kind: str) -> Costs:
    """From the errors of infinitely many data."""
    square = torch.stack([model.error(t).mean() for t in range(1, model.schedule.T + 1)])
    return costs(model.schedule, variance_of(kind, model), Errors(square, None))


def total(of_steps: Costs, times: tuple[int, ...]) -> float:
    if len(times) == 1:
        return float(of_steps.alone)
    pairs = [*itertools.pairwise(times)]
    first = float(of_steps.opening[pairs[0][0] - 1, pairs[0][1] - 1])
    return first + sum(float(of_steps.between[s - 1, t - 1]) for s, t in pairs[1:])


@pytest.mark.parametrize("kind", FIXED)
@pytest.mark.parametrize("times", [*CHAINS.values(), (17,), (60,)], ids=[*CHAINS, "one step", "one step from T"])
def test_costs_are_the_measured_terms_of_the_bound(times, kind):
    """To the last digits, by the errors of the same draws: data without grey levels."""
    model = LinearModel(schedule_of() if times != (17,) else linear(17, beta_end=0.4), 0.8)
    diffusion, chain = model.diffusion(variance_of(kind, model)), model.schedule.chain(times)
    meter = BoundMeter(diffusion, chain)
    meter.add(model.net, model.data(40), first=0)
    bound = meter.result()
    square = torch.full((model.schedule.T,), math.nan, dtype=F64)
    square[torch.tensor(chain.times) - 1] = (bound.rmse / 127.5) ** 2
    found = costs(model.schedule, diffusion.variance, Errors(square, None))
    assert_close(total(found, chain.times) / math.log(2), float(bound.terms_bpd.sum()), rtol=1e-10)
    for i, (s, t) in enumerate(itertools.pairwise(chain.times), 1):
        assert_close(found.between[s - 1, t - 1] / math.log(2), bound.terms_bpd[i], rtol=1e-10)
    assert found.between[5, 5] == found.opening[9, 3] == math.inf  # no step goes nowhere, or up


@pytest.mark.parametrize("kind", ["beta", "beta_tilde"])
def test_costs_are_those_of_the_closed_form(kind):
    model = LinearModel(linear(9, beta_end=0.4), 0.8)
    found = true_costs(model, kind)
    for n in range(2, 10):
        for times in itertools.combinations(range(1, 10), n):
            wanted = model.bound_bpd(times, model.variance_of(kind, times)) - model.prior_bpd(times[-1])
            assert_close(total(found, times) / math.log(2), wanted, rtol=1e-10)


@pytest.mark.parametrize("schedule", [linear(30, beta_end=0.2), cosine(30), zero_terminal_snr(30, beta_end=0.2)])
def test_analytic_costs_rest_on_gamma_alone(schedule):
    """Of the exact denoiser: half the log of σ²/β̃, as Bao et al. 2022 state it for their optimal trajectories."""
    model = LinearModel(schedule, prediction="x0" if schedule.reaches_zero else "eps")
    conditional = torch.stack([model.conditional(t).mean() for t in range(1, 31)])
    gamma = true_gamma(model)
    gamma.cov[:] = conditional  # of pure noise it is not (1 − ᾱ)/ᾱ (1 − Γ)
    found = costs(schedule, Analytic(gamma), Errors(conditional, None))
    for s, t in itertools.combinations(range(1, 31), 2):
        _, beta_tilde, share, _ = model.moments(s, t)
        wanted = 0.5 * math.log1p(share**2 * float(conditional[t - 1]) / beta_tilde)
        assert_close(found.between[s - 1, t - 1], wanted, rtol=1e-8)


@pytest.mark.parametrize("T", [1, 2, 3, 6, 10])
def test_no_chain_is_cheaper(T):
    """Of all chains, under costs at random, whose two first steps do not add up."""
    g = torch.Generator().manual_seed(T)
    upper = torch.ones(T, T).triu(1).bool()
    between, opening = (torch.where(upper, torch.rand(T, T, generator=g, dtype=F64), math.inf) for _ in range(2))
    found = Costs(between, opening, torch.rand((), generator=g, dtype=F64))
    for n in range(1, T + 1):
        chains = [(*times, T) for times in itertools.combinations(range(1, T), n - 1)]
        assert cheapest(found, n) == min(chains, key=lambda times: total(found, times))
    for wrong in (0, T + 1):
        with pytest.raises(ValueError, match=rf"\b(n|steps)={wrong}\b"):
            cheapest(found, wrong)


@pytest.mark.parametrize("kind", FIXED)
@pytest.mark.parametrize("schedule", [linear(100, beta_end=0.2), cosine(100)], ids=["linear", "cosine"])
def test_no_named_spacing_has_a_lower_bound(schedule, kind):
    model = LinearModel(schedule)
    found, earlier = true_costs(model, kind), math.inf
    for n in (2, 3, 5, 10, 40, 99, 100):
        best = cheapest(found, n)
        assert (len(best), best[-1]) == (n, 100)
        for spacing in ("trailing", "linspace", "quadratic", "log_snr", "karras"):
            times = times_of(schedule, n, spacing)
            if len(times) == n:  # else some coincide
                assert total(found, best) <= total(found, times) + 1e-12
        if kind == "analytic":  # of the others some chain of fewer steps may be better
            assert total(found, best) <= earlier
            earlier = total(found, best)
    assert best == tuple(range(1, 101))


def decoder_of(x0, mean, log_var) -> torch.Tensor:
    """L_0 of 17 levels in nats per dimension, as the reference has it."""
    return -discretised_log_likelihood(x0, mean, (log_var / 2).expand_as(x0), 17).mean()


def test_errors_by_hand():
    """On images of 17 levels under a network that also gives a variance: x̂_0 clipped, and Eq. 13 written out."""
    diffusion, times = diffusion_of(linear(6, beta_end=0.4), Setting("eps", "learned_range", 17)), (2, 5)
    x0 = on_grid((70, 1, 2, 2), 17)

    def net(xt, t):
        return torch.cat([torch.sin(2 * xt), xt], dim=1)

    meter = ErrorMeter(diffusion, times, seed=4)
    meter.add(net, x0[:30], first=0)
    meter.add(net, x0[30:], first=30)
    errors = meter.result()
    for i, t in enumerate(times):
        ab = float(diffusion.schedule.alphas_bar[t])
        eps = rng.normal((1, 2, 2), 4, "errors", 0, 0, 70).double()
        xt = math.sqrt(ab) * x0 + math.sqrt(1 - ab) * eps
        x0_hat = ((xt - math.sqrt(1 - ab) * torch.sin(2 * xt)) / math.sqrt(ab)).clamp(-1, 1)
        assert_close(errors.square[i], ((x0_hat - x0) ** 2).mean())
        for k in (0, 20, 44):
            assert_close(errors.decoder[i, k], decoder_of(x0, x0_hat, LOG_VARIANCES[k]))


def test_decoder_between_the_variances_that_were_measured():
    """Off by less than 0.02 nats, and the nearest beyond their ends."""
    diffusion = diffusion_of(linear(6, beta_end=0.4), Setting("x0", "beta", 17))
    x0, t = on_grid((30, 1, 2, 2), 17), torch.tensor([1, 4])
    meter = ErrorMeter(diffusion, tuple(t.tolist()))
    meter.add(lambda xt, t: 0.9 * xt, x0, first=0)
    errors = meter.result()
    for i, u in enumerate(t.tolist(), 1):  # t = i of the table
        ab = float(diffusion.schedule.alphas_bar[u])
        eps = rng.normal((1, 2, 2), 0, "errors", 0, 0, 30).double()
        x0_hat = (0.9 * (math.sqrt(ab) * x0 + math.sqrt(1 - ab) * eps)).clamp(-1, 1)
        for log_var in torch.linspace(-12, 1.2, 9, dtype=F64):
            assert_close(decoder_cost(errors, torch.tensor(i), log_var), decoder_of(x0, x0_hat, log_var), rtol=0.02, atol=0.02)
    ends = decoder_cost(errors, torch.tensor([2, 2]), torch.tensor([-99.0, 99.0], dtype=F64))
    assert_close(ends, errors.decoder[1, [0, -1]])


def test_only_variances_of_the_time_alone_have_such_costs():
    errors = Errors(torch.ones(20, dtype=F64), None)
    for variance in (make("variance", "learned_range"), make("variance", "learned_diagonal"), Hutchinson()):
        with pytest.raises(Incompatible, match=f"{type(variance).__name__}.*x_t"):
            costs(linear(20), variance, errors)


@pytest.mark.parametrize("sampler", [Ancestral, DDIM])
def test_a_sampler_visits_the_times_that_were_found(sampler):
    found, beta = Optimal((3, 11, 20), 8), make("variance", "beta")
    chosen = sampler(steps=3, spacing="optimal", optimal=found)
    assert chosen.chain(linear(20)).times == found.times
    assert chosen.uses(beta)  # its times are those of a variance
    assert chosen.noisy(beta) == chosen.draws_noise
    for wrong in ({}, {"optimal": found, "steps": 4}):
        with pytest.raises(Incompatible, match=r"(?s)optimal.*trailing.*karras"):
            sampler(**{"steps": 3, "spacing": "optimal"} | wrong).chain(linear(20))
