"""Sampling and the measures of the likelihood wait for the device only where a result is asked for, and the numbers are those
of the CPU."""

import math

import pytest
import torch
from core.support import make, on_grid, options
from pretended import DEVICE, pretended
from torch import nn

from ddpm_lab.core.analytic import Analytic
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.sampler import draw
from ddpm_lab.core.schedule import linear
from ddpm_lab.likelihood.at_times import ErrorMeter
from ddpm_lab.likelihood.bound import BoundMeter
from ddpm_lab.likelihood.estimate import BoundEstimator
from ddpm_lab.likelihood.gamma import GammaMeter

T = 12
SHAPE = (1, 4, 4)


class Net(nn.Module):
    """A convolution of the state, shifted by t."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(1, outputs, 3, padding=1)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.ndim)))

    def forward(self, x, t):
        return self.map(x) + 0.01 * t[:, None, None, None].to(x)


def diffusion_of(variance: str) -> GaussianDiffusion:
    """`analytic` is that of Γ measured of another network."""
    schedule, eps = linear(T, beta_start=0.01, beta_end=0.5), make("prediction", "eps")
    if variance != "analytic":
        return GaussianDiffusion(schedule, eps, make("variance", variance), levels=17)
    meter = GammaMeter(GaussianDiffusion(schedule, eps, make("variance", "beta"), levels=17), tuple(range(1, T + 1)))
    meter.add(lambda x, t: 0.9 * x, on_grid((20, *SHAPE), 17, dtype=torch.float32), 0)
    return GaussianDiffusion(schedule, eps, Analytic(meter.result()), levels=17)


def same(a, b) -> bool:
    """To the bit, in tuples and dataclasses too; nan equals nan."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    return a == b if not isinstance(a, tuple) else all(map(same, a, b))


def sampled(sampler: str, diffusion: GaussianDiffusion, net: nn.Module) -> list[torch.Tensor]:
    """x and x̂_0 of all states of samples 60..67, in two blocks of random numbers."""
    chosen = make("sampler", sampler, steps=T if sampler == "ancestral" else 5)
    states = draw(chosen, diffusion, net, SHAPE, seed=1, start=60, stop=68, like=net.map.weight)
    return [x for state in states for x in (state.x, state.x0)]


@pytest.mark.parametrize("variance", [*options("variance"), "analytic"])
@pytest.mark.parametrize("sampler", options("sampler"))
def test_no_step_of_a_sampler_waits(sampler, variance):
    diffusion = diffusion_of(variance)
    net = Net(diffusion.variance.n_outputs)
    expected = sampled(sampler, diffusion, net)
    with pretended() as device:
        net.to(DEVICE)
        before = device.waits
        states = sampled(sampler, diffusion, net)
        assert device.waits == before
        assert all(same(state.cpu(), x) for state, x in zip(states, expected, strict=True))


METERS = {
    "bound": lambda diffusion: BoundMeter(diffusion, diffusion.chain, stride=3, batch=16),
    "estimate": lambda diffusion: BoundEstimator(
        diffusion, diffusion.chain, torch.tensor([0.0] + [1 / (T - 1)] * (T - 1), dtype=torch.float64), k=3, batch=16
    ),
    "gamma": lambda diffusion: GammaMeter(diffusion, (2, 5, 12), batch=16),
    "errors": lambda diffusion: ErrorMeter(diffusion, (2, 5, 12), batch=16),
}


@pytest.mark.parametrize("variance", ["beta", "learned_range", "analytic"])
@pytest.mark.parametrize("meter", METERS)
def test_no_meter_waits_for_the_batch_that_it_launches(meter, variance):
    """Three batches of data, each in several calls of the network; each is taken in once the next is launched."""
    diffusion, x0 = diffusion_of(variance), on_grid((30, *SHAPE), 17, dtype=torch.float32)
    net, expected = Net(diffusion.variance.n_outputs), METERS[meter](diffusion)
    for first in (0, 10, 20):
        expected.add(net, x0[first : first + 10], first)
    with pretended() as device:
        net.to(DEVICE)
        there, measured = x0.to(DEVICE), METERS[meter](diffusion)
        before = device.waits
        for first in (0, 10, 20):
            measured.add(net, there[first : first + 10], first)
            assert (device.counts["event"] > 0) == (first > 0)
        assert same(tuple(measured.tally), tuple(expected.tally))
        assert device.waits == before


def test_gamma_of_another_schedule_or_time_is_nan_on_a_device():
    """Where the CPU raises: the host does not wait for the device to know."""
    diffusion = diffusion_of("analytic")
    other = linear(T, beta_start=0.02, beta_end=0.5).chain()
    few = Analytic(diffusion.variance.gamma.__class__(**{**vars(diffusion.variance.gamma), **_first(diffusion, 4)}))
    t = torch.tensor([3, 8])
    with pretended() as device:
        x = torch.zeros(2, *SHAPE).to(DEVICE)
        before = device.waits
        wrong = diffusion.variance.mean_var(other.step(t, x)), few.mean_var(diffusion.chain.step(t, x))
        assert device.waits == before
        assert [[math.isnan(c) for c in cov.flatten().cpu().tolist()] for cov in wrong] == [[True, True], [False, True]]


def _first(diffusion, n):
    gamma = diffusion.variance.gamma
    return {"times": gamma.times[:n]} | {
        name: getattr(gamma, name)[:n] for name in ("alphas_bar", "mean", "se", "cov", "cov_se")
    }
