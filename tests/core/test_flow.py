"""The likelihood by the probability flow: exact for Gaussian data, normalised for any network, and Hutchinson's trace."""

import itertools
import math

import numpy as np
import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.schedule import cosine, jsd, linear, zero_terminal_snr
from ddpm_lab.likelihood.flow import FlowMeter, Path, dequantised

from .edm_reference import edm_network
from .support import Setting, assert_close, diffusion_of, make, normal_like, on_grid, options

F64 = torch.float64
SPECTRUM = torch.tensor([2.0, 0.3, 0.01], dtype=F64)
SCHEDULES = {"linear": linear(100, beta_end=0.1), "cosine": cosine(50), "few": linear(10, beta_end=0.6)}
ENDS_EMPTY = {"jsd": jsd(50), "zero": zero_terminal_snr(50, beta_end=0.2)}


def alphas_bar_at(schedule: NoiseSchedule, t: torch.Tensor) -> torch.Tensor:
    """ᾱ at fractional t by numpy: log-SNR linear between whole times."""
    ab = schedule.alphas_bar[1:].numpy()
    ab = ab[ab > 0]
    log_snr = np.interp(t.double().numpy(), np.arange(1, len(ab) + 1), np.log(ab / (1 - ab)))
    return torch.from_numpy(1 / (1 + np.exp(-log_snr)))


def exact_net(schedule: NoiseSchedule, prediction: str, spectrum=SPECTRUM):
    if prediction == "edm":
        return edm_network(lambda x, sigma: spectrum / (spectrum + sigma**2) * x)

    def net(xt, t):
        assert t.dtype == xt.dtype
        assert ((t >= 1) & (t <= schedule.T)).all()
        ab = alphas_bar_at(schedule, t)[:, None].to(xt)
        x0 = ab.sqrt() * spectrum * xt / (ab * spectrum + 1 - ab)
        eps = (1 - ab).sqrt() * xt / (ab * spectrum + 1 - ab)
        return {"x0": x0, "eps": eps, "v": ab.sqrt() * eps - (1 - ab).sqrt() * x0}[prediction]

    return net


def vectors(schedule: NoiseSchedule, prediction: str, variance: str = "beta") -> GaussianDiffusion:
    return GaussianDiffusion(schedule, make("prediction", prediction), make("variance", variance), levels=None)


def model_bpd(schedule: NoiseSchedule, x: torch.Tensor, spectrum=SPECTRUM) -> torch.Tensor:
    """The flow keeps x_t/std_t of each dimension: from N(0, 1) at the end the variance at t = 1 is var_1/var_end."""
    ab = schedule.alphas_bar[1:]
    first, last = (at * spectrum + 1 - at for at in (ab[ab > 0][0], ab[ab > 0][-1]))
    var = first / last
    return 0.5 * (torch.log(2 * math.pi * var) + x**2 / var).mean(1) / math.log(2)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0", "edm"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_for_gaussian_data(name, prediction):
    schedule = SCHEDULES[name]
    x = normal_like(torch.zeros(8, 3, dtype=F64), 0) * SPECTRUM.sqrt()
    meter = FlowMeter(vectors(schedule, prediction), probes=None, rtol=1e-8, atol=1e-8)
    meter.add(exact_net(schedule, prediction), x, first=0)
    found, wanted = meter.result(), model_bpd(schedule, x)
    assert_close(found.per_datum_bpd, wanted, rtol=1e-5, atol=1e-5)
    assert_close([found.total_bpd, found.total_se], [wanted.mean(), wanted.std() / math.sqrt(8)], rtol=1e-4)
    assert found.calls > 20
    assert (found.n, found.probes) == (8, None)


def test_near_the_density_of_the_data():
    """With T = 1000 the ends cost little: N(0, 1) at T, and the noise that is left at t = 1."""
    schedule, wide = cosine(1000), torch.tensor([2.0, 0.3], dtype=F64)
    x = normal_like(torch.zeros(8, 2, dtype=F64), 0) * wide.sqrt()
    meter = FlowMeter(vectors(schedule, "eps"), probes=None, rtol=1e-7, atol=1e-7)
    meter.add(exact_net(schedule, "eps", wide), x, first=0)
    own = 0.5 * (torch.log(2 * math.pi * wide) + x**2 / wide).mean(1) / math.log(2)
    assert_close(meter.result().per_datum_bpd, own, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ENDS_EMPTY)
def test_a_schedule_that_ends_empty_starts_from_its_last_signal(name):
    schedule = ENDS_EMPTY[name]
    x = normal_like(torch.zeros(4, 3, dtype=F64), 0) * SPECTRUM.sqrt()
    meter = FlowMeter(vectors(schedule, "v"), probes=None, rtol=1e-8, atol=1e-8)
    meter.add(exact_net(schedule, "v"), x, first=0)
    assert_close(meter.result().per_datum_bpd, model_bpd(schedule, x), rtol=1e-5, atol=1e-5)


def bent(xt, t):
    """No denoiser of anything."""
    return torch.tanh(2 * xt + 0.3 * xt.roll(1, 1)) * (1 + 0.1 * torch.sin(t / 5).reshape(-1, *[1] * (xt.ndim - 1)))


MILD = {"eps": (0.7, 0.2), "v": (0.0, 0.3), "x0": (0.8, 0.2), "mu": (0.95, 0.03), "edm": (0.0, 0.3)}
"""Networks a x + b sin(2x + t/5), whose densities a grid can follow."""


@pytest.mark.parametrize("prediction", options("prediction"))
def test_any_network_has_a_density_that_integrates_to_one(prediction):
    a, b = MILD[prediction]
    grid = torch.linspace(-12, 12, 401, dtype=F64)[:, None]
    meter = FlowMeter(vectors(linear(10, beta_end=0.4), prediction), probes=None)
    meter.add(lambda xt, t: a * xt + b * torch.sin(2 * xt + t[:, None] / 5), grid, first=0)
    density = torch.exp(-math.log(2) * meter.result().per_datum_bpd)
    assert density.std() > 0.01
    assert float(density.sum()) * 0.06 == pytest.approx(1, abs=2e-4)


def test_one_probe_is_exact_where_dimensions_do_not_mix():
    schedule = SCHEDULES["few"]
    x, net = normal_like(torch.zeros(4, 3, dtype=F64), 0), exact_net(schedule, "eps")
    found = []
    for probes in (None, 1, 3):
        meter = FlowMeter(vectors(schedule, "eps"), probes=probes, rtol=1e-8, atol=1e-8)
        meter.add(net, x, first=0)
        found.append(meter.result().per_datum_bpd)
    assert_close(found[1], found[0], rtol=1e-7)
    assert_close(found[2], found[0], rtol=1e-7)


@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_is_unbiased(probes):
    """One datum many times, each with probes of its own; and more probes scatter less."""
    schedule, n = linear(10, beta_end=0.6), 256
    x = normal_like(torch.zeros(1, 3, dtype=F64), 0).expand(n, 3)
    exact, drawn = (FlowMeter(vectors(schedule, "x0"), probes=p, rtol=1e-5, atol=1e-5) for p in (None, probes))
    exact.add(bent, x[:2], first=0)
    drawn.add(bent, x, first=0)
    one, other = exact.result(), drawn.result()
    assert other.total_se > 0
    assert abs(other.total_bpd - one.total_bpd) < 3 * other.total_se
    scatter = other.total_se * math.sqrt(n)
    single = FlowMeter(vectors(schedule, "x0"), probes=1, rtol=1e-5, atol=1e-5)
    single.add(bent, x, first=0)
    assert scatter == pytest.approx(single.result().total_se * math.sqrt(n) / math.sqrt(probes), rel=0.2)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_grey_levels_are_dequantised_and_counted_in_bits(levels):
    """The density at x_0 + (u − ½) bins, and log2((levels − 1)/2) for a bin's width (6.994 for 256)."""
    schedule = SCHEDULES["few"]
    diffusion = diffusion_of(schedule, Setting("eps", "beta", levels))
    x0 = on_grid((70, 3), levels)
    meter = FlowMeter(diffusion, probes=1, seed=3, rtol=1e-8, atol=1e-8)
    meter.add(exact_net(schedule, "eps"), x0, first=10)
    u = torch.cat([rng.uniform(3, "dequantise", 0, i, i + 1, (3,)) for i in range(10, 80)])
    x = x0 + (u - 0.5) * 2 / (levels - 1)
    assert_close(meter.result().per_datum_bpd, model_bpd(schedule, x) + math.log2((levels - 1) / 2), rtol=1e-5, atol=1e-5)
    bins = dequantised(x0, u, levels)
    assert torch.equal(((bins + 1) * (levels - 1) / 2).round(), ((x0 + 1) * (levels - 1) / 2).round())
    assert math.log2(255 / 2) == pytest.approx(6.994, abs=1e-3)


def test_images_in_parts_and_a_network_with_two_heads():
    schedule = linear(20, beta_end=0.4)
    diffusion = diffusion_of(schedule, Setting("v", "learned_range", 17))

    def net(xt, t):
        return torch.cat([bent(xt, t), xt], dim=1)

    x0 = on_grid((12, 1, 2, 2), 17).float()
    whole, parts = FlowMeter(diffusion, rtol=1e-5, atol=1e-5), [FlowMeter(diffusion, rtol=1e-5, atol=1e-5) for _ in range(3)]
    with torch.inference_mode():
        whole.add(net, x0, first=0)
    for meter, (first, stop) in zip(parts, [(5, 12), (0, 0), (0, 5)], strict=True):
        meter.add(net, x0[first:stop], first)
    parts[0].tally = parts[0].tally.plus(parts[1].tally).plus(parts[2].tally)
    assert_close(parts[0].result().per_datum_bpd, whole.result().per_datum_bpd, rtol=1e-4)
    with pytest.raises(ValueError, match="at least 2 data, and there are 0"):
        parts[1].result()


@pytest.mark.parametrize("prediction", options("prediction"))
def test_whole_times_are_the_chains_own(prediction):
    """There the drift rests on the same x̂_0 as the chain's step."""
    schedule = linear(10, beta_end=0.6)
    diffusion = vectors(schedule, prediction)
    path, x = Path(diffusion), normal_like(torch.zeros(2, 3, dtype=F64), 0)
    for t, log_snr in enumerate(path.log_snr.tolist(), 1):
        assert path.time(log_snr) == pytest.approx(t, abs=1e-9)
        ab, chain = float(schedule.alphas_bar[t]), diffusion.chain
        out = diffusion.output(bent, x, torch.full((2,), t, dtype=F64), chain[t])
        x0 = diffusion.prediction.x0(out, x, chain[t])
        assert_close(path.drift(bent, log_snr, x), 0.5 * math.sqrt(ab) * (x0 - math.sqrt(ab) * x), rtol=1e-7)
    between = [path.time(a * 0.25 + b * 0.75) for a, b in itertools.pairwise(path.log_snr.tolist())]
    assert_close(between, [t + 0.75 for t in range(1, 10)])


def test_what_the_flow_refuses():
    with pytest.raises(ValueError, match="probes=0"):
        FlowMeter(vectors(linear(10), "eps"), probes=0)
    with pytest.raises(ValueError, match="two times"):
        FlowMeter(vectors(linear(1), "eps"))
    with pytest.raises(ValueError, match="two times"):
        FlowMeter(vectors(jsd(2), "v"))
