"""The estimate of the bound from few calls: against closed forms, against exhaustion, and over many seeds."""

import dataclasses
import math

import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.core.schedule import cosine, linear
from ddpm_lab.core.terms import prior_bpd
from ddpm_lab.likelihood.bound import Bound, BoundMeter
from ddpm_lab.likelihood.estimate import BoundEstimator, pilot

from . import reference
from .linear_model import LinearModel
from .support import REFUSED, Setting, assert_close, diffusion_of, on_grid

F64 = torch.float64
CHAINS = {"full": None, "strided": (3, 10, 20, 35, 60, 100)}


def pilot_bound(model: LinearModel, variance: str, times, n: int = 32, stride: int = 1) -> Bound:
    diffusion = model.diffusion(variance)
    meter = BoundMeter(diffusion, diffusion.schedule.chain(times), stride, seed=77)
    meter.add(model.net, model.data(n, seed=77), first=0)
    return meter.result()


def estimator_of(model: LinearModel, variance: str, times, **options) -> BoundEstimator:
    diffusion = model.diffusion(variance)
    p = options.pop("p", None)
    p = pilot(pilot_bound(model, variance, times)) if p is None else p
    return BoundEstimator(diffusion, diffusion.schedule.chain(times), p, **options)


@pytest.mark.parametrize("times", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize("wrong", [1.0, 0.9])
@pytest.mark.long
def test_bound_and_estimate_lie_about_the_closed_form(wrong, variance, times):
    model = LinearModel(cosine(100), wrong)
    estimator = estimator_of(model, variance, times)
    meter = BoundMeter(estimator.diffusion, estimator.chain)
    meter.add(model.net, model.data(400), first=0)
    estimator.add(model.net, model.data(2000, seed=1), first=0)
    bound, estimate, on = meter.result(), estimator.result(), estimator.chain.times
    wanted = model.bound_bpd(on, model.variance_of(variance, on))
    assert abs(bound.total_bpd - wanted) < 3 * bound.total_se
    assert abs(estimate.total_bpd - wanted) < 3 * estimate.total_se
    decoder = model.term_bpd(0, on[0], model.variance_of(variance, on)[0])
    assert abs(estimate.decoder_bpd - decoder) < 3 * estimate.decoder_se
    assert abs(estimate.kl_bpd - (wanted - decoder - model.prior_bpd(on[-1]))) < 3 * estimate.kl_se
    assert_close(estimate.total_bpd, estimate.prior_bpd + estimate.decoder_bpd + estimate.kl_bpd)
    steps = list(zip(on[:-1], on[1:], model.variance_of(variance, on)[1:], strict=True))
    for i in range(4):
        wanted = sum(model.term_bpd(s, t, var) for s, t, var in steps if 25 * i < t <= 25 * (i + 1))
        assert abs(estimate.quarters_bpd[i] - wanted) <= 3 * estimate.quarters_se[i]
        assert bound.quarters_bpd[i] == pytest.approx(wanted, rel=0.1)


def by_hand(x0: torch.Tensor, p: torch.Tensor, k: int, seed: int, times: tuple[int, ...], net) -> torch.Tensor:
    """Each datum's L_T, and what it adds at each of `times`, from the reference's tables, its draws addressed one by one, p
    inverted by counting."""
    sub, setting = reference.Tables(reference.linear_betas(6, 1e-4, 0.4)).respaced(list(times)), Setting("eps", "beta", 17)
    found = torch.zeros(len(x0), 1 + len(times), dtype=F64)
    for i, x in enumerate(x0):
        found[i, 0] = sub.prior_bpd(x)
        for j in range(k + 1):
            eps = rng.normal(x.shape, seed, "estimate", j, i, i + 1)[0].double()
            at, weight = 1, 1.0
            if j > 0:
                u = (j - 1 + float(rng.uniform(seed, "estimate_t", j - 1, i, i + 1))) / k
                at = 1 + sum(bool(u >= p[: r + 1].sum()) for r in range(len(p)))
                weight = 1 / (k * float(p[at - 1]))
            out = net(sub.diffuse(x, eps, at)[None], torch.tensor([times[at - 1]]))[0]
            found[i, at] += weight * float(sub.term_bpd(setting, x, eps, at, out, None))
    return found


@pytest.mark.parametrize("times", [tuple(range(1, 7)), (2, 3, 6), (1, 6), (6,)])
@pytest.mark.parametrize("k", [1, 4])
def test_totals_by_hand(times, k):
    """Images with grey levels on any chain; on one of a single step only the decoder is left."""

    def net(xt, t):
        return 0.8 * torch.tanh(xt) + 0.01 * t.to(xt).reshape(-1, 1, 1, 1)

    x0, diffusion = on_grid((5, 1, 2, 2), 17), diffusion_of(linear(6, beta_end=0.4), Setting("eps", "beta", 17))
    p = torch.arange(len(times), dtype=F64)
    p = p / p.sum().clamp(min=1)
    estimator = BoundEstimator(diffusion, diffusion.schedule.chain(times), p, k, seed=3, clip=False)
    estimator.add(net, x0, first=0)
    estimate = estimator.result()
    if len(times) > 1:
        expected = by_hand(x0, p, k, 3, times, net)
        assert_close(estimate.per_datum_bpd, expected.sum(1), rtol=1e-6)
        for quarter in range(4):  # T = 6: times 1, 2 to 3, 4, 5 to 6
            places = [place for place, t in enumerate(times, 1) if place > 1 and quarter < 4 * t / 6 <= quarter + 1]
            each = expected[:, places].sum(1)
            assert_close(estimate.quarters_bpd[quarter], each.mean(), rtol=1e-6)
            assert_close(estimate.quarters_se[quarter], each.std() / math.sqrt(5), rtol=1e-6)
    else:
        priors = prior_bpd(estimator.chain, x0)
        assert_close(estimate.per_datum_bpd, priors + estimator.tally.decoder)
    assert_close(estimate.total_bpd, estimate.per_datum_bpd.mean())
    assert_close(estimate.total_se, estimate.per_datum_bpd.std() / math.sqrt(5))
    assert estimate.calls == (k + 1 if len(times) > 1 else 1)
    assert_close(estimate.cost_variance, estimate.total_se**2 * 5 * estimate.calls)


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.long
def test_unbiased_whatever_p(skewed):
    """Over many data and seeds the mean is the closed form, for a p of no merit too; its error is of the size it says."""
    model = LinearModel(linear(20, beta_end=0.3), 0.8)
    p = torch.linspace(1, 8, 20, dtype=F64) if skewed else torch.linspace(3, 1, 20, dtype=F64)
    p[0] = 0
    totals, errors = [], []
    for seed in range(200):
        estimator = estimator_of(model, "beta", None, p=p / p.sum(), k=2, seed=seed)
        estimator.add(model.net, model.data(64, seed), first=0)
        estimate = estimator.result()
        totals.append(estimate.total_bpd)
        errors.append(estimate.total_se)
    found, scatter = torch.tensor(totals).mean(), torch.tensor(totals).std()
    times = estimator.chain.times
    assert abs(float(found) - model.bound_bpd(times, model.variance_of("beta", times))) < 3 * float(scatter) / math.sqrt(200)
    assert float(torch.tensor(errors).square().mean().sqrt() / scatter) == pytest.approx(1, abs=0.15)


@pytest.mark.long
def test_each_datum_is_unbiased_for_its_own_bound():
    """Of one datum, over many indices: the mean of its estimates is its bound, whose noise is the only other chance."""
    model = LinearModel(linear(20, beta_end=0.3), 0.8)
    x0, n = model.data(1), 4096
    estimator = estimator_of(model, "beta_tilde", None, k=3)
    estimator.add(model.net, x0.expand(n, -1), first=0)
    meter = BoundMeter(estimator.diffusion, estimator.chain, seed=9)
    meter.add(model.net, x0.expand(n, -1), first=0)
    one, other = estimator.result(), meter.result()
    assert abs(one.total_bpd - other.total_bpd) < 3.5 * math.hypot(one.total_se, other.total_se)


def test_stratified_importance_beats_plain_and_uniform():
    """performance.md 8: a few terms by importance are worth many times their number taken evenly."""
    model = LinearModel(cosine(400), 0.95)
    meter_bound = pilot_bound(model, "beta_tilde", None, n=64)
    uniform = torch.full((400,), 1 / 399, dtype=F64)
    uniform[0] = 0
    errors = {}
    for name, p in {"importance": pilot(meter_bound), "uniform": uniform}.items():
        estimator = estimator_of(model, "beta_tilde", None, p=p, k=10)
        estimator.add(model.net, model.data(640, seed=2), first=0)
        errors[name] = estimator.result()
    assert errors["importance"].kl_se < 0.4 * errors["uniform"].kl_se
    assert errors["importance"].gain(meter_bound) > 10
    assert_close(errors["importance"].gain(meter_bound), meter_bound.cost_variance / errors["importance"].cost_variance)


def test_draws_of_a_datum_hang_on_seed_and_index_alone():
    """So batches, processes and their order do not matter."""
    model = LinearModel(linear(20, beta_end=0.3))
    x0 = model.data(150)
    whole, parts = estimator_of(model, "beta", None, seed=5), []
    whole.add(model.net, x0, first=0)
    for first, stop in [(70, 150), (0, 0), (0, 70)]:
        parts.append(estimator_of(model, "beta", None, seed=5, batch=7))
        for start in range(first, stop, 30):
            parts[-1].add(model.net, x0[start : min(start + 30, stop)], start)
    parts[0].tally = parts[0].tally.plus(parts[1].tally).plus(parts[2].tally)
    one, other = whole.result(), parts[0].result()
    assert_close(other.per_datum_bpd, one.per_datum_bpd, rtol=1e-12)
    assert_close([other.total_bpd, other.total_se], [one.total_bpd, one.total_se], rtol=1e-12)
    elsewhere = estimator_of(model, "beta", None, seed=6)
    elsewhere.add(model.net, x0, first=0)
    assert not torch.equal(elsewhere.result().per_datum_bpd, one.per_datum_bpd)


def test_a_learned_variance():
    diffusion = diffusion_of(linear(8, beta_end=0.4), Setting("eps", "learned_range", 17))

    def net(xt, t):
        return torch.cat([0.8 * torch.tanh(xt), torch.sin(2 * xt)], dim=1)

    x0 = on_grid((300, 1, 2, 2), 17)
    meter = BoundMeter(diffusion, diffusion.chain)
    meter.add(net, x0, first=0)
    estimator = BoundEstimator(diffusion, diffusion.chain, pilot(meter.result()), k=3)
    estimator.add(net, x0, first=0)
    one, other = estimator.result(), meter.result()
    assert abs(one.total_bpd - other.total_bpd) < 3 * math.hypot(one.total_se, other.total_se)


@pytest.mark.parametrize("times", CHAINS.values(), ids=CHAINS)
def test_pilot_follows_the_second_moments(times):
    bound = pilot_bound(LinearModel(cosine(100), 0.9), "beta_tilde", times, n=64)
    root, N = bound.second_moments.sqrt(), len(bound.times)
    p = pilot(bound, floor=0.1)
    assert p.dtype == F64
    assert p[0] == 0
    assert_close(p.sum(), 1)
    assert_close(p[1:], 0.9 * root[1:] / root[1:].sum() + 0.1 / (N - 1))


def test_pilot_of_few_data_comes_near_that_of_many():
    """Two data on each of 400 times: neighbours share what they know, and a power law stays one."""
    model = LinearModel(cosine(400), 0.95)
    many = pilot(pilot_bound(model, "beta_tilde", None, n=512))
    few = pilot_bound(model, "beta_tilde", None, n=40, stride=20)
    rough, smooth = (float((pilot(few, pool=pool)[2:] / many[2:]).log().square().mean()) for pool in (2, 32))
    assert smooth < 0.2 * rough
    power = torch.arange(1, 101, dtype=F64) ** -2.0
    rows = dict.fromkeys(("mean_bpd", "variance_bpd", "rmse", "terms_se"), 0 * power)
    times = tuple(range(1, 101))
    bound = dataclasses.replace(few, times=times, terms_bpd=power, terms_n=0 * power + 2, **rows)
    p = pilot(bound, floor=1e-9)[1:]
    assert (p / p.sum() * power[1:].sum() / power[1:]).log().abs().max() < 0.25


def test_pilot_of_nothing_or_of_infinity_is_even():
    few = pilot_bound(LinearModel(linear(5, beta_end=0.4)), "beta", None)
    none = dataclasses.replace(few, terms_bpd=torch.zeros(5, dtype=F64), terms_se=torch.zeros(5, dtype=F64))
    assert_close(pilot(none), [0, 0.25, 0.25, 0.25, 0.25])
    for value in (math.inf, math.nan):
        wrong = dataclasses.replace(few, terms_bpd=torch.full((5,), value, dtype=F64))
        assert_close(pilot(wrong), [0, 0.25, 0.25, 0.25, 0.25])
    with pytest.raises(ValueError, match="floor=0"):
        pilot(few, floor=0.0)


def test_what_an_estimator_refuses():
    model = LinearModel(linear(5, beta_end=0.4))
    good = pilot(pilot_bound(model, "beta", None))
    for p in (good[1:], good.float(), good.flip(0), good * 2, torch.full((5,), 0.2, dtype=F64)):
        with pytest.raises(REFUSED):
            estimator_of(model, "beta", None, p=p)
    with pytest.raises(ValueError, match="k=0"):
        estimator_of(model, "beta", None, p=good, k=0)
    estimator = estimator_of(model, "beta", None, p=good)
    estimator.add(model.net, model.data(1), first=0)
    with pytest.raises(ValueError, match="at least 2 data, and there are 1"):
        estimator.result()


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 64), (3, 64), (63, 65), (10, 200)])
def test_parts_end_where_blocks_do(start, stop):
    parts = list(rng.parts(start, stop))
    assert [i for a, b in parts for i in range(a, b)] == list(range(start, stop))
    assert all(a // rng.BLOCK == (b - 1) // rng.BLOCK for a, b in parts)
