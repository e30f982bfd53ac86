"""Solvers of the probability flow on Gaussian data, where the flow is known: x_t keeps its share of std(x_t)."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from ddpm_lab.core.diffusion import GaussianDiffusion, implied_eps
from ddpm_lab.core.gamma import Interpolated
from ddpm_lab.core.heun import EDMChurn, Heun
from ddpm_lab.core.multistep import DPMSolver, DPMSolverPP, UniPC, integral
from ddpm_lab.core.path import Marginal, NoiseSchedule, Step
from ddpm_lab.core.pndm import PNDM
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.core.schedule import cosine, linear
from ddpm_lab.core.variance import Beta

from .edm_reference import edm_network
from .support import assert_close, make, normal_like, options

F64 = torch.float64
STD = torch.tensor([0.3, 0.5, 1.0, 2.0], dtype=F64)
"""Standard deviations of the data, by dimension."""


def std(at: Marginal) -> torch.Tensor:
    return (at.signal_scale**2 * STD**2 + at.noise_scale**2).sqrt()


def exact(schedule: NoiseSchedule, prediction: str = "eps"):
    """The diffusion of these data and the network that gives E[x_0 | x_t], as `prediction`."""
    diffusion = GaussianDiffusion(schedule, make("prediction", prediction), Beta(), levels=None)
    if prediction == "edm":
        return diffusion, edm_network(lambda x, sigma: STD**2 / (STD**2 + sigma**2) * x)

    def net(xt, t):
        step = diffusion.chain[int(t[0])]
        x0 = step.at_t.signal_scale * STD**2 / std(step.at_t) ** 2 * xt
        return diffusion.prediction.target(x0, implied_eps(x0, xt, step.at_t), xt, step)

    return diffusion, net


def by_log_snr(n: int, start: float = 0.98, end: float = 0.02) -> NoiseSchedule:
    """The table whose n steps divide the log SNR of the cosine path evenly from t/T = start to end: nothing is rounded, and no
    β is clipped. One more step leads to 0."""
    alphas_bar = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (end, start)]
    logits = torch.linspace(*(math.log(ab / (1 - ab)) for ab in alphas_bar), n + 1, dtype=F64)
    return NoiseSchedule(torch.cat([torch.ones(1, dtype=F64), torch.sigmoid(logits)]))


def flow_error(sampler, n: int, prediction: str, started: int) -> float:
    """Relative error after n steps, the first `started` of which end on the exact solution."""
    diffusion, net = exact(by_log_snr(n), prediction)
    chain = sampler.chain(diffusion.schedule)
    denoise, state = sampler.denoiser(diffusion, net, chain), sampler.start(chain)
    *steps, _ = chain.steps_down()
    x = std(steps[0].at_t)[None]
    for i, step in enumerate(steps):
        x, _, state = sampler.step(denoise, x, step, None, state)
        x = std(step.at_s)[None] if i < started else x
    return float((x / std(steps[-1].at_s) - 1).norm())


BARS = {
    "ddim": (DDIM(None), 0, 0.9),
    "2m": (DPMSolverPP(None, order=2), 1, 1.8),
    "3m": (DPMSolverPP(None, order=3), 2, 2.5),
    "unipc": (UniPC(None, order=3), 2, 2.5),
    "heun": (Heun(None, "trailing"), 0, 1.8),
}
OTHERS = {
    "eps-2": (DPMSolver(None, order=2), 1, 1.8),
    "eps-3": (DPMSolver(None, order=3), 2, 2.5),
    "midpoint": (DPMSolverPP(None, order=2, midpoint=True), 1, 1.8),
    "unipc-2": (UniPC(None, order=2), 1, 2.5),
    "bh1": (UniPC(None, order=2, B="bh1"), 1, 2.5),
    "pndm": (PNDM(None), 0, 1.8),
}
"""(sampler, steps that are given the exact solution, the least order); the second group for one prediction alone."""
CASES = [(name, prediction) for name in BARS for prediction in options("prediction")] + [(name, "eps") for name in OTHERS]


@pytest.mark.parametrize(("name", "prediction"), CASES)
@pytest.mark.long
def test_order_of_convergence(name, prediction):
    sampler, started, order = (BARS | OTHERS)[name]
    numbers = (40, 113, 320)
    errors = [flow_error(sampler, n, prediction, started) for n in numbers]
    slope, _ = np.polyfit(np.log(numbers), np.log(errors), 1)
    assert order <= -slope, errors


DETERMINISTIC = [name for name in options("sampler") if not make("sampler", name).draws_noise]


@pytest.mark.parametrize("schedule", [linear, cosine])
@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.long
def test_error_falls_with_the_calls_on_tables(name, schedule):
    """Times rounded to the table, β clipped, the order rising from 1, the last step to 0 of order 1; spacing by the yaml."""
    diffusion, net = exact(schedule())
    x, errors, calls = std(diffusion.chain[1000].at_t)[None], [], []
    for steps in (10, 20, 40, 80, 160):
        sampler = make("sampler", name, steps=steps)
        *_, last = sampler(diffusion, net, x, lambda t: STD)
        errors.append(float((last.x / STD - 1).norm()))
        calls.append(sampler.calls(sampler.chain(diffusion.schedule)))
    assert all(b > 1.5 * a for a, b in itertools.pairwise(calls))
    assert all(fine < coarse for coarse, fine in itertools.pairwise(errors)), errors


@pytest.mark.parametrize("steps", [5, 10, 18, 50])
@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_rounding_times_to_the_table_changes_the_error_by_less_than_a_hundredth(name, spacing, steps):
    """Against the same γ at 64,000 times. Linear schedule: cosine's last are far apart in log SNR. No step adds noise."""
    table, errors = linear(), []
    for schedule in (table, NoiseSchedule(Interpolated(table).alphas_bar(64000))):
        diffusion, net = exact(schedule)
        x = std(diffusion.chain[schedule.T].at_t)[None]
        *_, last = make("sampler", name, steps=steps, spacing=spacing)(diffusion, net, x, lambda t: STD)
        errors.append(float((last.x / STD - 1).norm()))
    rounded, exactly = errors
    assert rounded != exactly
    assert rounded == pytest.approx(exactly, rel=0.01)


@pytest.mark.parametrize("schedule", [linear, cosine])
@pytest.mark.parametrize("prediction", options("prediction"))
def test_order_one_is_ddim(schedule, prediction):
    """In both forms, at any length of a step and at any output."""
    diffusion = GaussianDiffusion(schedule(), make("prediction", prediction), Beta(), levels=None)
    x = normal_like(torch.zeros(2, 3, dtype=F64), 0)
    for steps in (1, 2, 9):
        runs = [
            torch.stack([s.x for s in sampler(diffusion, lambda x, t: torch.sin(3 * x), x, lambda t: x)])
            for sampler in (DDIM(steps), DPMSolver(steps, order=1), DPMSolverPP(steps, order=1))
        ]
        assert_close(runs[1], runs[0], rtol=1e-10)
        assert_close(runs[2], runs[0], rtol=1e-10)


@pytest.mark.parametrize("h", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("order", range(1, 7))
def test_polynomials_are_integrated_exactly(order, h):
    """Of degree k − 1 through k points at uneven distances, whatever their order."""
    coefficients = np.random.default_rng(order).normal(size=order)
    distances = [h * d for d in (1.0, 2.1, 2.9, 4.5, 5.2, 6.0)[:order]]
    wanted, _ = quad(lambda v: math.exp(-v) * np.polyval(coefficients, v / h), 0, h, epsabs=1e-13 * h, epsrel=1e-12)
    values = [torch.tensor([np.polyval(coefficients, d / h)]) for d in distances]
    found = integral([torch.tensor(d, dtype=F64) for d in distances], values, torch.tensor(h, dtype=F64))
    scale = h * sum(float(v.abs()) for v in values)
    assert_close(found, [wanted], rtol=0, atol=1e-11 * scale)


# Churn


def churned(step: Step, sampler: EDMChurn, schedule: NoiseSchedule, n: int, s: float) -> tuple[float, float]:
    """(a, b) of x_s = a x_t + b z by EDM Algorithm 2 in its own x̃ and σ, for data N(0, s²): D = s² x̃/(s² + σ²)."""
    table = np.sqrt(1 / schedule.alphas_bar[1:].numpy() - 1)
    sigma, sigma_next = table[int(step.t) - 1], 0.0 if step.s == 0 else table[int(step.s) - 1]
    most = math.inf if sampler.churn_max is None else sampler.churn_max
    gamma = min(sampler.churn / n, math.sqrt(2) - 1) if sampler.churn_min <= sigma <= most else 0.0
    hat = table[np.argmin(abs(np.log(table) - math.log((1 + gamma) * sigma)))]
    d = hat / (s**2 + hat**2)
    slope = 1 + (sigma_next - hat) * d
    if sigma_next > 0:
        slope = 1 + (sigma_next - hat) * (d + sigma_next / (s**2 + sigma_next**2) * slope) / 2
    noise = sampler.noise_scale * math.sqrt(hat**2 - sigma**2)
    to_x, from_x = 1 / math.sqrt(1 + sigma_next**2), math.sqrt(1 + sigma**2)
    return to_x * slope * from_x, to_x * slope * noise


CHURNS = {
    "default": {},
    "everywhere": {"churn": 1000.0, "churn_min": 0.0, "churn_max": None, "noise_scale": 1.0},
    "little": {"churn": 3.0, "noise_scale": 1.1},
}


@pytest.mark.parametrize("changes", CHURNS.values(), ids=CHURNS)
@pytest.mark.parametrize("schedule", [linear, cosine])
def test_moments_under_churn_follow_the_recursion(schedule, changes):
    diffusion, net = exact(schedule())
    sampler = EDMChurn(steps=20, **changes)
    chain = sampler.chain(diffusion.schedule)
    denoise = sampler.denoiser(diffusion, net, chain)
    probes, noises = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    found, wanted, added = torch.ones(2, len(STD), dtype=F64), torch.ones(2, len(STD), dtype=F64), 0
    for step in chain.steps_down():
        z = noises.to(F64).expand(2, len(STD)) if sampler.adds_noise(step) else None
        a, b = sampler.step(denoise, probes.to(F64).expand(2, len(STD)), step, z, chain)[0]
        expected = [churned(step, sampler, diffusion.schedule, len(chain), float(s)) for s in STD]
        a_wanted, b_wanted = torch.tensor(expected, dtype=F64).T
        found = torch.stack([a * found[0], a**2 * found[1] + b**2])
        wanted = torch.stack([a_wanted * wanted[0], a_wanted**2 * wanted[1] + b_wanted**2])
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)
        added += int(bool((b != 0).any()))
    assert added > 2


def test_without_churn_it_is_heun():
    diffusion, net = exact(linear())
    x = normal_like(torch.zeros(2, 4, dtype=F64), 0)
    without, plain = (
        torch.stack([s.x for s in sampler(diffusion, net, x, lambda t: x)]) for sampler in (EDMChurn(9, churn=0.0), Heun(9))
    )
    assert torch.equal(without, plain)
