"""The network replaced by the true ε: every divergence is known in closed form: with σ² = β, ½ (β̃/β − 1 − log β̃/β)."""

import math

import pytest
import torch

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.gaussian import Normal, log_bin_nats
from ddpm_lab.core.path import Chain, Step
from ddpm_lab.core.prediction import Eps
from ddpm_lab.core.schedule import linear
from ddpm_lab.core.terms import prior_bpd, term_bpd
from ddpm_lab.core.variance import Beta
from ddpm_lab.likelihood.bound import BoundMeter

from .grey_reference import discretised_log_likelihood
from .support import GOLDEN, Setting, all_times, assert_close, diffusion_of, make, normal_like, on_grid, options

MISMATCH = {  # Σ_{t≥2} KL in bits/dim for σ² = β, and its first ten terms
    "linear-1k": (0.4864, 0.398),
    "linear-4k": (0.3723, 0.308),
    "cosine-1k": (0.4324, 0.351),
    "cosine-4k": (0.3520, 0.295),
    "quad-1k": (0.3526, 0.292),
}


def schedule_of(column: str):
    return GOLDEN[column]()


def oracle_terms(diffusion: GaussianDiffusion, raw: float = 0.0, times=None) -> torch.Tensor:
    """One term per t of the chain, the output being the prediction's own target."""
    chain = diffusion.schedule.chain(times)
    t = torch.tensor(chain.times)
    x0 = on_grid((len(t), 1, 2, 2), diffusion.levels)
    noised = diffusion.noised(x0, normal_like(x0, 1), t, chain)
    out = diffusion.prediction.target(x0, noised.eps, noised.xt, noised.step)
    if diffusion.variance.n_outputs == 2:
        out = torch.cat([out, torch.full_like(out, raw)], dim=1)
    return term_bpd(diffusion, out, noised)


@pytest.mark.parametrize("prediction", options("prediction"))
@pytest.mark.parametrize("column", MISMATCH)
def test_beta_tilde_leaves_no_divergence(column, prediction):
    terms = oracle_terms(diffusion_of(schedule_of(column), Setting(prediction, "beta_tilde")))
    assert terms[1:].abs().max() <= 1e-10


@pytest.mark.parametrize("prediction", options("prediction"))
@pytest.mark.parametrize("column", MISMATCH)
def test_beta_pays_the_mismatch_constant(column, prediction):
    terms = oracle_terms(diffusion_of(schedule_of(column), Setting(prediction, "beta")))
    total, first_ten = MISMATCH[column]
    assert float(terms[1:].sum()) == pytest.approx(total, abs=5.1e-5)
    assert float(terms[1:11].sum()) == pytest.approx(first_ten, abs=5.1e-4)


def all_steps(chain: Chain) -> Step:
    """Those of a chain, one for each row."""
    return chain.step(torch.tensor(chain.times), torch.zeros(len(chain), 1, dtype=torch.float64))


@pytest.mark.parametrize("times", [None, (3, 50, 400, 1000), (1, 2), (1000,)])
@pytest.mark.parametrize("name", options("schedule"))
def test_ends_of_the_learned_range(name, times):
    """raw = -1 is β̃ throughout; raw = +1 is β, in the first step too, where Beta has β̃ of the second."""
    schedule = make("schedule", name)
    chain = schedule.chain(times)
    learned, small, large = (make("variance", v) for v in ("learned_range", "beta_tilde", "beta"))
    step, ends = all_steps(chain), torch.ones(len(chain), 1, dtype=torch.float64)
    low, high = (learned.log_var(raw * ends, step) for raw in (-1.0, 1.0))
    ab_s, ab_t = schedule.alphas_bar[step.s.long()], schedule.alphas_bar[step.t.long()]
    assert_close(low, small.log_var(None, step))
    assert_close(high, torch.log(1 - ab_t / ab_s), rtol=1e-8)
    assert_close(high[1:], large.log_var(None, step)[1:])
    assert_close(large.log_var(None, chain[chain.times[0]]), small.log_var(None, chain[chain.times[0]]))


@pytest.mark.parametrize("column", GOLDEN)
def test_learned_range_terms_at_its_ends(column):
    schedule = schedule_of(column)
    learned = diffusion_of(schedule, Setting(variance="learned_range"))
    small, large = (oracle_terms(diffusion_of(schedule, Setting(variance=v))) for v in ("beta_tilde", "beta"))
    assert_close(oracle_terms(learned, raw=-1.0), small)
    assert_close(oracle_terms(learned, raw=1.0)[1:], large[1:])
    x0 = on_grid((schedule.T, 1, 2, 2), 256)[:1]
    assert_close(oracle_terms(learned, raw=1.0)[0], decoder_bpd(x0, math.log(schedule.betas[0])))


def decoder_bpd(x0: torch.Tensor, log_var: float) -> torch.Tensor:
    """The oracle's decoder term with σ² written out: its mean is x_0 exactly."""
    return -discretised_log_likelihood(x0, x0, torch.full_like(x0, 0.5 * log_var)).mean() / math.log(2)


@pytest.mark.parametrize("name", sorted({*options("variance")} - {"learned_diagonal"}))
@pytest.mark.parametrize("schedule", options("schedule"))
@pytest.mark.parametrize("times", [None, (1, 2, 500, 999), (20, 40, 1000), (1000,)])
def test_every_variance_lies_between_beta_tilde_and_beta(name, schedule, times):
    chain, variance = make("schedule", schedule).chain(times), make("variance", name)
    step = all_steps(chain)
    for raw in (-1.0, -0.3, 0.8, 1.0):
        log_var = variance.log_var(torch.full((len(chain), 1), raw, dtype=torch.float64), step)
        assert (log_var >= step.log_beta_tilde - 1e-12).all()
        assert (log_var <= step.log_beta + 1e-12).all()


def test_golden_decoder():
    """σ² = β̃_2 of the linear chain: .94 grey levels."""
    log_var = linear().chain()[1].log_beta_tilde
    x = torch.tensor([[1 / 255, -1.0, 1.0]], dtype=torch.float64)
    found = log_bin_nats(x, Normal(x, log_var), 256)[0].tolist()
    assert found == [pytest.approx(value, abs=5.1e-5) for value in (-0.9050, -0.3534, -0.3534)]
    assert -found[0] / math.log(2) == pytest.approx(1.3057, abs=5.1e-5)


@pytest.mark.parametrize(("rmse", "bits"), [(0.95, 1.975), (1.27, 2.504)])
def test_decoder_cost_of_a_blurred_mean(rmse, bits):
    """The mean misses an interior level by N(0, RMSE grey levels). The exact Φ gives the same; Ho et al. report 1.97 at .95."""
    log_var = linear().chain()[1].log_beta_tilde
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weight, miss = torch.softmax(-0.5 * z**2, 0), rmse / 127.5 * z
    x = torch.full((1, len(z)), 1 / 255, dtype=torch.float64)
    found = -(log_bin_nats(x, Normal(x + miss, log_var), 256)[0] * weight).sum() / math.log(2)
    sigma = torch.exp(0.5 * log_var)
    exact = torch.special.ndtr((1 / 255 - miss) / sigma) - torch.special.ndtr((-1 / 255 - miss) / sigma)
    assert_close(found, -(exact.clamp(min=1e-12).log2() * weight).sum(), rtol=0, atol=5e-3)  # tanh in the tails
    assert float(found) == pytest.approx(bits, abs=5e-3)


def test_golden_prior():
    x0 = torch.full((3, 1, 4, 4), 0.5, dtype=torch.float64)  # E[x²] = .25
    assert_close(prior_bpd(linear().chain(), x0), torch.full((3,), 7.28e-6), rtol=0, atol=5.1e-9)
    assert float(prior_bpd(linear(100).chain(), x0)[0]) == pytest.approx(0.13, abs=5e-3)
    assert float(linear(100, rescale=True).alphas_bar[-1]) == pytest.approx(2.04e-5, abs=5.1e-8)


def test_the_meter_finds_the_mismatch_constant():
    """All data the same, so a network can know x_0; through the meter's own noise, batches and clip."""
    schedule = linear()
    x0 = on_grid((1, 1, 2, 2), 256).expand(3, 1, 2, 2)

    def oracle(xt, t):
        ab = schedule.alphas_bar[t].reshape(-1, 1, 1, 1)
        return (xt - ab.sqrt() * x0[:1]) / (1 - ab).sqrt()

    meter = BoundMeter(GaussianDiffusion(schedule, Eps(), Beta()), schedule.chain())
    meter.add(oracle, x0, first=0)
    bound = meter.result()
    assert bound.kl_bpd == pytest.approx(0.4864, abs=5.1e-5)
    assert_close(bound.decoder_bpd, decoder_bpd(x0[:1], float(schedule.chain()[1].log_beta_tilde)))
    assert bound.terms_se.max() < 1e-7
    assert all_times(1000).tolist() == list(bound.times)
