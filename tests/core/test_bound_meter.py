"""BoundMeter: means and standard errors by hand, strides, batches, and what it refuses."""

import math

import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.core.schedule import cosine, linear
from ddpm_lab.core.terms import prior_bpd
from ddpm_lab.likelihood.bound import BoundMeter

from . import reference
from .support import Setting, assert_close, diffusion_of, on_grid, tables_of

F64 = torch.float64
SHAPE = (1, 2, 2)
SETTING = Setting("eps", "beta", 17)


def net(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Wrong on purpose, and one example at a time."""
    return 0.8 * torch.tanh(xt) + 0.01 * t.to(xt).reshape(-1, 1, 1, 1)


def data(n: int, seed: int = 0) -> torch.Tensor:
    return on_grid((n, *SHAPE), 17, seed)


def meter_of(T: int = 6, setting: Setting = SETTING, times=None, **options) -> BoundMeter:
    diffusion = diffusion_of(linear(T, beta_end=0.4), setting)
    return BoundMeter(diffusion, diffusion.schedule.chain(times), **options)


def terms_by_hand(x0: torch.Tensor, T: int, seed: int, stride: int) -> dict[tuple[int, int], float]:
    """(datum, t) → term by the reference: datum i at t ≡ 1 − i (mod stride), noise k of its own at its k-th time."""
    tables, found = reference.Tables(reference.linear_betas(T, 1e-4, 0.4)), {}
    for i, x in enumerate(x0):
        times = [t for t in range(1, T + 1) if (t - 1 + i) % stride == 0]
        noise = rng.normal(SHAPE, seed, "evaluation", i, 0, len(times)).double()
        for t, eps in zip(times, noise, strict=True):
            out = net(tables.diffuse(x, eps, t)[None], torch.tensor([t]))[0]
            found[i, t] = float(tables.term_bpd(SETTING, x, eps, t, out, None))
    return found


@pytest.mark.parametrize("stride", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", [0, 5])
def test_means_and_errors_by_hand(seed, stride):
    T, x0 = 6, data(14)
    meter = meter_of(T, seed=seed, stride=stride, clip=False)
    meter.add(net, x0, first=0)
    bound, by_hand = meter.result(), terms_by_hand(x0, T, seed, stride)
    for t, mean, error, n in zip(bound.times, bound.terms_bpd, bound.terms_se, bound.terms_n, strict=True):
        values = torch.tensor([value for (_, at), value in by_hand.items() if at == t], dtype=F64)
        assert n == len(values) >= 2
        assert_close([mean, error], [values.mean(), values.std() / math.sqrt(len(values))])
    prior = prior_bpd(linear(T, beta_end=0.4).chain(), x0)
    assert_close(bound.prior_bpd, prior.mean())
    assert_close(bound.total_bpd, bound.prior_bpd + bound.decoder_bpd + bound.kl_bpd)
    assert_close(bound.decoder_bpd, bound.terms_bpd[0])
    assert_close(bound.quarters_bpd, [0, *(sum(bound.terms_bpd[i] for i in quarter) for quarter in ((1, 2), (3,), (4, 5)))])
    assert (bound.n, bound.stride, bound.times) == (14, stride, tuple(range(1, T + 1)))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_total_error_is_that_of_independent_strata(stride):
    """Data of one offset share their times; strata add their variances. x_0 = ±1 throughout, so L_T does not differ."""
    T, x0 = 6, on_grid((20, *SHAPE), 2)
    meter = meter_of(T, stride=stride, clip=False)
    meter.add(net, x0, first=0)
    by_hand, variance = terms_by_hand(x0, T, 0, stride), 0.0
    for offset in range(stride):
        sums = torch.tensor(
            [sum(by_hand.get((i, t), 0.0) for t in range(1, T + 1)) for i in range(offset, 20, stride)], dtype=F64
        )
        variance += float(sums.var()) / len(sums)
    assert_close(meter.result().total_se, math.sqrt(variance))


def test_total_error_counts_the_prior():
    """Where ᾱ_T is large, L_T differs between data as any term does: 'standard errors are over data'."""
    x0 = torch.cat([torch.zeros(10, *SHAPE), torch.ones(10, *SHAPE)]).double()
    diffusion = diffusion_of(linear(2), SETTING)
    meter = BoundMeter(diffusion, diffusion.chain, clip=False)
    by_hand, tables = [], tables_of("linear", 2)
    for i, x in enumerate(x0):
        noise = rng.normal(SHAPE, 0, "evaluation", i, 0, 2).double()
        outs = [net(tables.diffuse(x, e, t)[None], torch.tensor([t]))[0] for t, e in enumerate(noise, 1)]
        terms = [tables.term_bpd(SETTING, x, e, t, outs[t - 1], None) for t, e in enumerate(noise, 1)]
        by_hand.append(float(sum(terms) + tables.prior_bpd(x)))
    meter.add(net, x0, first=0)
    assert_close(meter.result().total_bpd, sum(by_hand) / 20)
    assert_close(meter.result().total_se, torch.tensor(by_hand, dtype=F64).std() / math.sqrt(20), rtol=1e-6)


@pytest.mark.parametrize("cuts", [(7, 13), (1, 2, 17), (19, 1), (5, 5, 5, 5)])
@pytest.mark.parametrize("stride", [1, 3])
def test_batches_do_not_matter(cuts, stride):
    x0 = data(20)
    whole, pieces = meter_of(stride=stride), meter_of(stride=stride, batch=7)
    whole.add(net, x0, first=0)
    first = 0
    for part in x0.split(cuts):
        pieces.add(net, part, first)
        first += len(part)
    one, other = whole.result(), pieces.result()
    assert_close(one.terms_bpd, other.terms_bpd, rtol=1e-12)
    assert_close(one.terms_se, other.terms_se, rtol=1e-9)
    for name in ("total_bpd", "total_se", "prior_bpd"):
        assert_close(getattr(one, name), getattr(other, name), rtol=1e-12)


@pytest.mark.parametrize("stride", [1, 3])
def test_meters_of_parts_add_up(stride):
    """As those of several processes do, whatever the part of each, an empty one included."""
    x0, whole, parts = data(20), meter_of(stride=stride), [meter_of(stride=stride) for _ in range(3)]
    whole.add(net, x0, first=0)
    for meter, (first, stop) in zip(parts, [(13, 20), (0, 0), (0, 13)], strict=True):
        meter.add(net, x0[first:stop], first)
    parts[0].tally = parts[0].tally.plus(parts[1].tally).plus(parts[2].tally)
    one, other = whole.result(), parts[0].result()
    assert_close(one.terms_bpd, other.terms_bpd, rtol=1e-12)
    assert_close([one.total_bpd, one.total_se], [other.total_bpd, other.total_se], rtol=1e-12)


def test_noise_of_a_datum_hangs_on_seed_and_index_alone():
    def totals(seed: int, first: int, x0: torch.Tensor) -> torch.Tensor:
        meter = meter_of(seed=seed)
        meter.add(net, x0, first)
        return meter.result().terms_bpd

    x0 = data(1).expand(2, *SHAPE)
    assert torch.equal(totals(0, 3, x0), totals(0, 3, x0))
    assert not torch.equal(totals(0, 3, x0), totals(1, 3, x0))
    assert not torch.equal(totals(0, 3, x0), totals(0, 5, x0))


@pytest.mark.parametrize("stride", [2, 4, 5, 8])
def test_strides_see_every_time_and_change_no_total(stride):
    """Terms that do not hang on the noise: all data c, and ε̂ off by a constant of t. Any stride has the same bound."""
    T, c = 8, 0.25

    def biased(xt, t):
        ab = linear(T).alphas_bar[t].reshape(-1, 1, 1, 1)
        return (xt - ab.sqrt() * c) / (1 - ab).sqrt() + 0.05 * t.reshape(-1, 1, 1, 1)

    diffusion, x0 = diffusion_of(linear(T), SETTING), torch.full((40, *SHAPE), c, dtype=F64)
    meters = [BoundMeter(diffusion, diffusion.chain, stride=k, clip=False) for k in (1, stride)]
    for meter in meters:
        meter.add(biased, x0, first=0)
    one, other = (meter.result() for meter in meters)
    assert_close(other.terms_bpd, one.terms_bpd)
    assert_close(other.total_bpd, one.total_bpd)
    assert other.terms_n.min() >= 40 // stride
    assert other.terms_n.sum() == sum(len(range((-i) % stride, T, stride)) for i in range(40))


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.long
def test_total_error_has_the_right_size(stride):
    """Over 300 draws of data and noise the total scatters as its standard error says; its mean is the long run's."""
    totals, errors = [], []
    for seed in range(300):
        meter = meter_of(8, seed=seed, stride=stride)
        meter.add(net, data(40, seed), first=0)
        bound = meter.result()
        totals.append(bound.total_bpd)
        errors.append(bound.total_se)
    scatter, said = torch.tensor(totals).std(), torch.tensor(errors).square().mean().sqrt()
    assert float(said / scatter) == pytest.approx(1, abs=0.15)  # 1/√600 is .04
    long_run = meter_of(8, seed=10_000)
    long_run.add(net, data(4000, 10_000), first=0)
    assert abs(sum(totals) / 300 - long_run.result().total_bpd) < 4 * float(scatter) / math.sqrt(300)


def test_too_few_data_for_the_stride_are_refused():
    meter = meter_of(stride=3)
    meter.add(net, data(5), first=0)
    with pytest.raises(ValueError, match="stride=3 needs at least 6 data, and there are 5"):
        meter.result()
    meter.add(net, data(1), first=5)
    assert math.isfinite(meter.result().total_se)
    with pytest.raises(ValueError, match="there are 0"):
        meter_of().result()


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_below_one_is_refused(stride):
    with pytest.raises(ValueError, match="stride"):
        meter_of(stride=stride)


@pytest.mark.parametrize("times", [(1,), (1, 2, 3), (1, 3, 5)])
def test_the_prior_is_taken_where_the_chain_ends(times):
    """A chain that stops below T is still a bound only with KL(q(x_{t_N} | x_0) ‖ N(0, 1))."""
    meter = meter_of(times=times)
    x0 = data(4)
    meter.add(net, x0, first=0)
    sub = reference.Tables(reference.linear_betas(6, 1e-4, 0.4)).respaced(list(times))
    assert_close(meter.result().prior_bpd, torch.stack([sub.prior_bpd(x) for x in x0]).mean())


def test_strided_chain_with_its_own_tables():
    times, x0 = (2, 3, 6), data(6)
    meter = meter_of(times=times, clip=False)
    meter.add(net, x0, first=0)
    sub = reference.Tables(reference.linear_betas(6, 1e-4, 0.4)).respaced(list(times))
    wanted = torch.zeros(3, dtype=F64)
    for i, x in enumerate(x0):
        for k, eps in enumerate(rng.normal(SHAPE, 0, "evaluation", i, 0, 3).double()):
            out = net(sub.diffuse(x, eps, k + 1)[None], torch.tensor([times[k]]))[0]
            wanted[k] += sub.term_bpd(SETTING, x, eps, k + 1, out, None) / 6
    assert_close(meter.result().terms_bpd, wanted)


def test_clip_of_images_lowers_what_a_wild_network_pays():
    wild = {}
    for clip in (False, True):
        meter = meter_of(clip=clip)
        meter.add(lambda x, t: 5 * net(x, t), data(6), first=0)
        wild[clip] = meter.result().total_bpd
    assert wild[True] < wild[False]


def test_float32_network_and_data_are_summed_in_float64():
    diffusion = diffusion_of(cosine(50), SETTING)
    meters = {dtype: BoundMeter(diffusion, diffusion.chain) for dtype in (torch.float32, F64)}
    for dtype, meter in meters.items():
        meter.add(net, data(10).to(dtype), first=0)
    low, high = (meters[dtype].result() for dtype in meters)
    assert low.terms_bpd.dtype == F64
    assert_close(low.total_bpd, high.total_bpd, rtol=1e-4)
