"""Losses, terms and their gradients against an independent implementation, example by example."""

import itertools
import math

import pytest
import torch

from ddpm_lab.core.gaussian import Normal, kl_nats, log_bin_nats, log_density_nats
from ddpm_lab.core.loss import VLB, Hybrid, Simple
from ddpm_lab.core.terms import prior_bpd, term_bpd

from . import reference
from .grey_reference import discretised_log_likelihood
from .support import Setting, all_times, assert_close, diffusion_of, make, normal_like, on_grid, options, tables_of

SETTINGS = [Setting(*choice) for choice in itertools.product(options("prediction"), options("variance"), (None, 17, 256))]
LOSSES = {name: loss for name in options("loss") if not (loss := make("loss", name)).of_rate}  # others: test_continuous.py
WEIGHTS = reference.WEIGHTS
SHAPE = (2, 2, 2)


def case(schedule: str, setting: Setting, T: int, t: torch.Tensor):
    """A batch, a network output near the truth, and the same as the reference wants it."""
    diffusion = diffusion_of(make("schedule", schedule, T=T), setting)
    x0 = on_grid((len(t), *SHAPE), setting.levels, seed=T)
    eps = normal_like(x0, seed=1)
    noised = diffusion.noised(x0, eps, t)
    target = diffusion.prediction.target(x0, eps, noised.xt, noised.step)
    out = target + 0.2 * normal_like(x0, seed=2)
    if diffusion.variance.n_outputs == 2:
        raw = 3 * torch.rand(x0.shape, generator=torch.Generator().manual_seed(3), dtype=x0.dtype) - 1.5
        out = torch.cat([out, raw], dim=1)
    return diffusion, noised, out.requires_grad_(), tables_of(schedule, T)


def halves(out: torch.Tensor, i: int):
    """Mean and variance part of one example's output."""
    return out[i, : SHAPE[0]], (out[i, SHAPE[0] :] if out.shape[1] > SHAPE[0] else None)


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in reference.IMPLEMENTED for option in options(group)])
def test_every_option_has_a_second_implementation(group, option):
    reference.check(group, option)


CASES = [("linear", 6), ("cosine", 6), ("linear", 1000), ("cosine", 1000)]


def times_for(T: int) -> torch.Tensor:
    if T <= 10:
        return all_times(T)
    return torch.cat([torch.tensor([1, 2, T]), torch.randint(3, T, (5,), generator=torch.Generator().manual_seed(T))])


@pytest.mark.parametrize(("schedule", "T"), CASES)
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_terms_equal_the_reference(setting, schedule, T):
    t = times_for(T)
    diffusion, noised, out, tables = case(schedule, setting, T, t)
    terms = term_bpd(diffusion, out, noised)
    wanted = [tables.term_bpd(setting, noised.x0[i], noised.eps[i], int(t[i]), *halves(out, i)) for i in range(len(t))]
    assert_close(terms, torch.stack(wanted))
    prior = [tables.prior_bpd(x) for x in noised.x0]
    assert_close(prior_bpd(diffusion.chain, noised.x0), torch.stack(prior))


def makes_sense(loss: str, setting: Setting) -> bool:
    if loss in WEIGHTS:
        return setting.prediction in WEIGHTS[loss] and (setting.variance, setting.levels) == ("beta", 17)
    return loss != "hybrid" or setting.variance.startswith("learned")


@pytest.mark.parametrize(("schedule", "T"), CASES)
@pytest.mark.parametrize(
    ("loss", "setting"),
    [(loss, s) for loss in LOSSES for s in SETTINGS if makes_sense(loss, s)],
    ids=str,
)
def test_losses_and_gradients_equal_the_reference(loss, setting, schedule, T):
    t = times_for(T)
    diffusion, noised, out, tables = case(schedule, setting, T, t)
    values = LOSSES[loss](diffusion, out, noised)
    wanted = [tables.loss(loss, setting, noised.x0[i], noised.eps[i], int(t[i]), *halves(out, i)) for i in range(len(t))]
    wanted = torch.stack(wanted)
    assert_close(values, wanted)
    (got,), (expected,) = torch.autograd.grad(values.sum(), out), torch.autograd.grad(wanted.sum(), out)
    for part in range(diffusion.variance.n_outputs):
        rows = slice(part * SHAPE[0], (part + 1) * SHAPE[0])
        assert_close(got[:, rows], expected[:, rows])


def gradient_halves(loss, schedule: str = "linear", T: int = 8):
    t = all_times(T)
    diffusion, noised, out, _ = case(schedule, Setting(variance="learned_range"), T, t)
    (grad,) = torch.autograd.grad(loss(diffusion, out, noised).sum(), out)
    return grad.chunk(2, dim=1)


def test_simple_gives_the_variance_nothing():
    mean, raw = gradient_halves(Simple())
    assert torch.equal(raw, torch.zeros_like(raw))
    assert (mean != 0).all()


def test_vlb_trains_mean_and_variance_at_every_t():
    mean, raw = gradient_halves(VLB())
    assert mean.flatten(1).abs().sum(1).min() > 0
    assert raw.flatten(1).abs().sum(1).min() > 0


def test_the_bound_in_hybrid_leaves_the_mean_alone():
    diffusion, noised, out, _ = case("linear", Setting(variance="learned_range"), 8, all_times(8))
    parts = Hybrid().parts(diffusion, out, noised)
    assert set(parts) == {"mse", "vlb"}
    (vlb,) = torch.autograd.grad(parts["vlb"].sum(), out, retain_graph=True)
    mean, raw = vlb.chunk(2, dim=1)
    assert torch.equal(mean, torch.zeros_like(mean))
    assert raw.flatten(1).abs().sum(1).min() > 0
    (mse,) = torch.autograd.grad(parts["mse"].sum(), out)
    assert torch.equal(mse.chunk(2, dim=1)[0], gradient_halves(Simple())[0])
    assert torch.equal(gradient_halves(Hybrid())[0], gradient_halves(Simple())[0])


@pytest.mark.parametrize("factor", [0.25, 1000.0])
def test_scale_and_weight_are_factors(factor):
    diffusion, noised, out, _ = case("linear", Setting(variance="learned_range"), 8, all_times(8))
    assert_close(VLB(scale=factor)(diffusion, out, noised), factor * VLB()(diffusion, out, noised))
    vlb = Hybrid(weight=factor).parts(diffusion, out, noised)["vlb"]
    assert_close(vlb, factor * 8 * term_bpd(diffusion, out, noised))


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_decoder_equals_the_reference_at_every_level(levels):
    k = torch.arange(levels, dtype=torch.float64)
    x = (2 * k / (levels - 1) - 1)[None, None]
    for scale, seed in [(2.0, 0), (0.5, 1), (0.1, 2)]:
        mean = x + scale / levels * normal_like(x, seed)
        log_var = 2 * math.log(1.5 / levels) + normal_like(x, seed + 10)
        found = log_bin_nats(x, Normal(mean, log_var), levels)
        wanted = discretised_log_likelihood(x, mean, 0.5 * log_var, levels)
        assert_close(found, wanted)


def test_far_from_the_level_the_probability_is_floored():
    x = torch.tensor([[-1.0, 0.2, 1.0]], dtype=torch.float64)
    mean = torch.tensor([[3.0, -3.0, -3.0]], dtype=torch.float64, requires_grad=True)
    found = log_bin_nats(x, Normal(mean, torch.tensor(-9.0, dtype=torch.float64)), 256)
    assert_close(found.detach(), torch.full_like(x, math.log(1e-12)))
    (grad,) = torch.autograd.grad(found.sum(), mean)
    assert torch.equal(grad, torch.zeros_like(grad))


def test_divergence_and_density_equal_torch():
    q = torch.distributions.Normal(torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
    p = torch.distributions.Normal(torch.tensor(-0.4, dtype=torch.float64), torch.tensor(1.9, dtype=torch.float64))
    ours = [Normal(d.loc, 2 * d.scale.log()) for d in (q, p)]
    assert_close(kl_nats(*ours), torch.distributions.kl_divergence(q, p))
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    assert_close(log_density_nats(x, ours[1]), p.log_prob(x))
