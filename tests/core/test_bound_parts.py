"""What the bound is made of: means and variances apart, RMSE, rate and distortion, each datum's own total."""

import math

import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.core.prediction import Eps
from ddpm_lab.core.schedule import linear
from ddpm_lab.core.terms import prior_bpd
from ddpm_lab.core.variance import Beta
from ddpm_lab.likelihood.bound import BoundMeter

from . import reference
from .support import Setting, assert_close, diffusion_of, on_grid

F64 = torch.float64
SHAPE = (1, 2, 2)
SETTINGS = [
    Setting("eps", "beta", 17),
    Setting("v", "beta_tilde", 17),
    Setting("x0", "learned_range", 17),
    Setting("eps", "learned_diagonal", None),
]


def net_of(setting: Setting):
    """Wrong on purpose, and one example at a time."""
    heads = 2 if setting.variance.startswith("learned") else 1

    def net(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out = 0.8 * torch.tanh(xt) + 0.01 * t.to(xt).reshape(-1, 1, 1, 1)
        return torch.cat([out, 0.3 * torch.sin(2 * xt) - 1][:heads], dim=1)

    return net


def measured(setting: Setting, x0: torch.Tensor, times=None, **options) -> BoundMeter:
    diffusion = diffusion_of(linear(6, beta_end=0.4), setting)
    meter = BoundMeter(diffusion, diffusion.schedule.chain(times), **{"clip": False} | options)
    meter.add(net_of(setting), x0, first=0)
    return meter


def parts_by_hand(setting: Setting, sub: reference.Tables, x, eps, i: int, t: int) -> tuple[float, ...]:
    """(term, by means, by variances, mean squared error of x̂_0) of step i of a chain, from β tables and Gaussians' KL."""
    xt = sub.diffuse(x, eps, i)
    both = net_of(setting)(xt[None], torch.tensor([t]))[0]
    out, raw = both[:1], both[1:] if len(both) == 2 else None
    abar = sub.abar[i]
    x0_hat = {
        "eps": (xt - math.sqrt(1 - abar) * out) / math.sqrt(abar),
        "v": math.sqrt(abar) * xt - math.sqrt(1 - abar) * out,
        "x0": out,
    }[setting.prediction]
    log_p = torch.as_tensor(sub.log_var(setting.variance, i, raw), dtype=F64)
    log_q = math.log(sub.beta_tilde(i)) if i > 1 else math.nan
    gap = sub.q_mean(x0_hat, xt, i) - sub.q_mean(x, xt, i)
    mean = (gap**2 / (2 * log_p.exp())).mean() / reference.LN2
    variance = (0.5 * (log_p - log_q + torch.exp(log_q - log_p) - 1)).mean() / reference.LN2
    whole = sub.term_bpd(setting, x, eps, i, out, raw)
    return float(whole), float(mean), float(variance), float(((x0_hat - x) ** 2).mean())


@pytest.mark.parametrize("times", [None, (2, 3, 6)])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_parts_by_hand(setting, times):
    x0 = on_grid((5, *SHAPE), setting.levels)
    bound = measured(setting, x0, times).result()
    sub = reference.Tables(reference.linear_betas(6, 1e-4, 0.4)).respaced(list(bound.times))
    by_hand = torch.zeros(5, sub.T, 4, dtype=F64)
    for j, x in enumerate(x0):
        for i, eps in enumerate(rng.normal(SHAPE, 0, "evaluation", j, 0, sub.T).double()):
            by_hand[j, i] = torch.tensor(parts_by_hand(setting, sub, x, eps, i + 1, bound.times[i]), dtype=F64)
    terms, mean, variance, error = by_hand.mean(0).T
    assert_close(bound.terms_bpd, terms, rtol=1e-6)
    assert_close(bound.mean_bpd[1:], mean[1:], rtol=1e-6)
    assert_close(bound.variance_bpd[1:], variance[1:], rtol=1e-6)
    assert_close(bound.rmse, 127.5 * error.sqrt(), rtol=1e-6)
    assert_close(bound.second_moments, (by_hand[..., 0] ** 2).mean(0), rtol=1e-6)
    totals = by_hand[..., 0].sum(1) + torch.stack([sub.prior_bpd(x) for x in x0])
    assert bound.per_datum_bpd is not None
    assert_close(bound.per_datum_bpd, totals, rtol=1e-6)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_parts_add_up_and_the_decoder_is_not_split(setting, stride):
    bound = measured(setting, on_grid((8, *SHAPE), setting.levels), stride=stride).result()
    assert_close(bound.mean_bpd[1:] + bound.variance_bpd[1:], bound.terms_bpd[1:])
    assert bound.mean_bpd[0].isnan()
    assert bound.variance_bpd[0].isnan()
    assert_close(bound.mismatch_bpd, bound.variance_bpd[1:].sum())
    assert (bound.variance_bpd[1:] >= 0).all()
    assert (bound.mean_bpd[1:] >= 0).all()


@pytest.mark.parametrize("clip", [False, True])
def test_rmse_is_that_of_the_bounds_own_x0(clip):
    """One that is right but for a factor 3: clipped to [−1, 1] where the bound clips."""
    x0 = torch.full((2, *SHAPE), 0.5, dtype=F64)
    diffusion = diffusion_of(linear(4), Setting("x0", "beta", 17))
    meter = BoundMeter(diffusion, diffusion.chain, clip=clip)
    meter.add(lambda xt, t: torch.full_like(xt, 1.5), x0, first=0)
    assert_close(meter.result().rmse, torch.full((4,), 127.5 * (0.5 if clip else 1.0)))


@pytest.mark.parametrize(("steps", "golden"), [(1000, 0.4864)])
def test_mismatch_is_the_golden_constant_whatever_the_means(steps, golden):
    """Σ_{t≥2} ½ (β̃/β − 1 − log β̃/β) in bits: the divergence of equal means with σ² = β, whatever the means are."""
    schedule = linear(steps)
    diffusion = diffusion_of(schedule, Setting("eps", "beta", None))
    meter = BoundMeter(diffusion, diffusion.chain)
    meter.add(lambda xt, t: 2 * torch.cos(xt), on_grid((2, 1), None), first=0)
    bound = meter.result()
    assert abs(bound.mismatch_bpd - golden) < 5e-5
    assert bound.kl_bpd > 2 * golden
    assert isinstance(diffusion.prediction, Eps)
    assert isinstance(diffusion.variance, Beta)


@pytest.mark.parametrize("times", [None, (1, 4, 6)])
def test_rate_and_distortion(times):
    bound = measured(SETTINGS[0], on_grid((4, *SHAPE), 17), times).result()
    rate, rmse = bound.rate_distortion()
    for i, at in enumerate(reversed(range(len(bound.times)))):
        assert_close(rate[i], bound.prior_bpd + bound.terms_bpd[at + 1 :].sum())
        assert_close(rmse[i], bound.rmse[at])
    assert_close(rate[0], bound.prior_bpd)
    assert_close(rate[-1], bound.total_bpd - bound.decoder_bpd)


def test_each_datum_has_its_total_in_order_of_the_data():
    """Whatever the order in which parts of the data were measured."""
    x0 = on_grid((9, *SHAPE), 17)
    whole, parts = measured(SETTINGS[0], x0), [measured(SETTINGS[0], x0[:0]) for _ in range(2)]
    for meter, (first, stop) in zip(parts, [(4, 9), (0, 4)], strict=True):
        meter.add(net_of(SETTINGS[0]), x0[first:stop], first)
    together = parts[0].tally.plus(parts[1].tally).bound(whole.chain.times, 1)
    one, other = whole.result().per_datum_bpd, together.per_datum_bpd
    assert one is not None
    assert other is not None
    assert one.dtype == F64
    assert_close(other, one, rtol=1e-12)
    assert_close(one.mean(), whole.result().total_bpd)
    assert_close(one.std() / 3, whole.result().total_se)


def test_no_datum_has_a_total_where_none_sees_every_time():
    assert measured(SETTINGS[0], on_grid((8, *SHAPE), 17), stride=2).result().per_datum_bpd is None


def test_cost_of_a_bound():
    x0 = on_grid((8, *SHAPE), 17)
    full, strided = (measured(SETTINGS[0], x0, stride=k).result() for k in (1, 2))
    assert (full.calls, strided.calls) == (6, 3)
    assert_close(strided.cost_variance, strided.total_se**2 * 8 * 3)
    assert_close(float(prior_bpd(linear(6, beta_end=0.4).chain(), x0).mean()), full.prior_bpd)
