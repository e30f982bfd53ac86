"""Continuous time: the limit of the discrete bound, VDM's loss by hand, its estimate, the gradient that lowers its variance."""

import itertools
import math

import numpy as np
import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.gamma import Interpolated, Monotone, fixed, read_off
from ddpm_lab.core.loss import VDM
from ddpm_lab.core.path import Marginal, NoiseSchedule
from ddpm_lab.core.terms import rounding_bpd, term_bpd
from ddpm_lab.core.time import Continuous, Discrete
from ddpm_lab.core.timesteps import Antithetic
from ddpm_lab.core.types import Incompatible
from ddpm_lab.likelihood.continuous import ContinuousMeter

from .linear_model import SPECTRUM, LinearModel
from .support import Setting, assert_close, diffusion_of, make, normal_like, on_grid
from .test_learned import Smooth, corners, path

F64 = torch.float64


class Linear:
    """A linear network of N(0, diag λ), at a real t of a schedule whose γ is linear between whole times."""

    def __init__(self, schedule: NoiseSchedule, prediction: str, wrong: float = 0.9) -> None:
        self.schedule, self.prediction, self.wrong = schedule, prediction, wrong
        self.gamma = -torch.logit(schedule.alphas_bar[1:]).numpy()

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        gamma = torch.tensor(np.interp(t.numpy(), np.arange(1, len(self.gamma) + 1), self.gamma))[:, None]
        ab, noise = torch.sigmoid(-gamma), torch.sigmoid(gamma)
        x0 = self.wrong * ab.sqrt() * SPECTRUM / (ab * SPECTRUM + noise) * x
        eps = (x - ab.sqrt() * x0) / noise.sqrt()
        return {"x0": x0, "eps": eps, "v": ab.sqrt() * eps - noise.sqrt() * x0}[self.prediction]


def integral_bpd(schedule: NoiseSchedule, prediction: str, nodes: int = 6) -> float:
    """The mean of loss=vdm over u, by Gauss-Legendre between all whole times, and over the data by `corners`."""
    process, T = diffusion_of(schedule, Setting(prediction, levels=None)), schedule.T
    at, weight = np.polynomial.legendre.leggauss(nodes)
    t = (np.arange(1, T)[:, None] + (at + 1) / 2).ravel()
    x0, eps, _ = corners(len(t))
    times = torch.tensor(t).repeat_interleave(4)
    noised = Continuous().noised(process, x0, eps, times)
    losses = VDM()(process, process.output(Linear(schedule, prediction), noised.xt, times, noised.step), noised)
    return float(losses.reshape(-1, 4).mean(1) @ torch.tensor(np.tile(weight / 2, T - 1))) / (T - 1)


def discrete_bpd(schedule: NoiseSchedule, T: int) -> float:
    """Σ_{t≥2} L_{t−1} of the table with T times that is read off the interpolated γ, under σ² = β̃."""
    table = NoiseSchedule(Interpolated(schedule).alphas_bar(T))
    model = LinearModel(table, wrong=0.9)
    return sum(model.term_bpd(t - 1, t, model.moments(t - 1, t)[1]) for t in range(2, T + 1))


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_bound_is_the_limit_of_the_discrete_one(name, prediction):
    """Richardson's extrapolation over three tables, each with every whole time of the coarsest."""
    schedule = make("schedule", name, T=20)
    values = [discrete_bpd(schedule, 19 * n + 1) for n in (8, 16, 32)]
    first = [2 * b - a for a, b in itertools.pairwise(values)]
    limit = (4 * first[1] - first[0]) / 3
    assert abs(values[-1] - limit) > 1e-4  # the limit is not yet reached
    assert_close(integral_bpd(schedule, prediction), limit, rtol=1e-4, atol=0)


def test_the_bound_depends_on_the_ends_alone():
    """Of two paths between the same ends under one denoiser that is told γ."""

    def value(gamma: Monotone) -> float:
        process = diffusion_of(fixed(gamma, 9), Setting("eps", levels=None))
        at, weight = np.polynomial.legendre.leggauss(200)
        x0, eps, _ = corners(200)
        t = torch.tensor(1 + 8 * (at + 1) / 2).repeat_interleave(4)
        noised = Continuous().noised(process, x0, eps, t)
        told = process.schedule.told(t, noised.step)
        ab = torch.sigmoid(-(-4.0 + 7.0 * told / 1000))[:, None]
        out = 0.9 * (1 - ab).sqrt() * noised.xt / (ab * SPECTRUM + 1 - ab)
        return float(VDM()(process, out, noised).detach().reshape(-1, 4).mean(1) @ torch.tensor(weight / 2))

    one, other = path(), Monotone(-4.0, 3.0, 3, True).double()
    assert not torch.allclose(fixed(one, 9).alphas_bar, fixed(other, 9).alphas_bar, rtol=1e-2)
    assert_close(value(one), value(other), rtol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("learn_ends", [False, True])
def test_the_loss_is_that_of_the_paper(prediction, learn_ends):
    """Kingma et al. 2021, one example at a time, γ' by finite differences."""
    gamma, T, levels = path(learn_ends=learn_ends), 7, 17
    process = diffusion_of(read_off(gamma, T), Setting(prediction, levels=levels))
    x0 = on_grid((4, 1, 2, 2), levels)
    eps, t = normal_like(x0, 1), torch.tensor([1.0, 2.75, 6.1, 7.0], dtype=F64)
    noised = Continuous().noised(process, x0, eps, t)
    out = process.output(Smooth(1), noised.xt, t, noised.step)
    parts = VDM().parts(process, out, noised)

    def at(u: float) -> float:
        return float(gamma.at(torch.tensor([u], dtype=F64)).gamma.detach())

    for i in range(4):
        u, step = (float(t[i]) - 1) / (T - 1), 1e-6
        low, high = max(u - step, 0.0), min(u + step, 1.0)
        rate, snr = (at(high) - at(low)) / (high - low), math.exp(-at(u))
        a, s = math.sqrt(snr / (1 + snr)), math.sqrt(1 / (1 + snr))
        xt = a * x0[i] + s * eps[i]
        assert_close(noised.xt[i].detach(), xt)
        eps_hat = {"eps": out[i], "x0": (xt - a * out[i]) / s, "v": s * xt + a * out[i]}[prediction]
        nats = 0.5 * rate * ((eps[i] - eps_hat) ** 2).mean()
        assert_close(parts["vdm"][i].detach(), nats.detach() / math.log(2), rtol=1e-5)
    assert set(parts) == ({"vdm", "prior", "decoder"} if learn_ends else {"vdm"})
    if learn_ends:
        ab = 1 / (1 + math.exp(at(1.0)))
        prior = 0.5 * (ab * x0**2 + (1 - ab) - 1 - math.log(1 - ab)).flatten(1).mean(1) / math.log(2)
        assert_close(parts["prior"].detach(), prior)


def test_the_decoder_normalises_over_the_grey_levels():
    levels, at = 5, [m.double() for m in (torch.tensor(0.9), torch.tensor(0.43589))]
    x0 = on_grid((3, 1, 2, 2), levels)
    eps = normal_like(x0, 1)
    found = rounding_bpd(x0, eps, Marginal(*at), levels)
    for i in range(3):
        total = 0.0
        for x, e in zip(x0[i].flatten().tolist(), eps[i].flatten().tolist(), strict=True):
            z = 0.9 * x + 0.43589 * e
            density = [math.exp(-((z - 0.9 * k) ** 2) / (2 * 0.43589**2)) for k in (-1, -0.5, 0, 0.5, 1)]
            total -= math.log2(math.exp(-((z - 0.9 * x) ** 2) / (2 * 0.43589**2)) / sum(density))
        assert_close(found[i], total / 4, rtol=1e-5)
    density = rounding_bpd(x0, eps, Marginal(*at), None)
    std = 0.43589 / 0.9
    assert_close(density, (0.5 * math.log(2 * math.pi * std**2) + 0.5 * (eps**2).flatten(1).mean(1)) / math.log(2), rtol=1e-5)


@pytest.mark.long
def test_the_estimate_is_unbiased_and_has_a_fair_error():
    """Within three standard errors of the integral, whatever the batches."""
    schedule = make("schedule", "cosine", T=20)
    process = diffusion_of(schedule, Setting("eps", levels=None))
    data = LinearModel(schedule).data(4000)
    meter = ContinuousMeter(process, k=4, seed=3)
    for start in range(0, 4000, 500):
        meter.add(Linear(schedule, "eps"), data[start : start + 500], start)
    found = meter.result()
    assert abs(found.kl_bpd - integral_bpd(schedule, "eps")) < 3 * found.kl_se
    assert 0 < found.kl_se < 0.1 * found.kl_bpd
    first = schedule.alphas_bar[1]
    decoder = 0.5 * math.log2(2 * math.pi * math.e * float((1 - first) / first))
    assert abs(found.decoder_bpd - decoder) < 3 * found.decoder_se
    assert_close(found.quarters_bpd.sum(), found.kl_bpd)
    assert_close(found.per_datum_bpd.mean(), found.total_bpd)
    other = ContinuousMeter(process, k=4, seed=3, batch=64)
    for start in range(0, 4000, 1600):
        other.add(Linear(schedule, "eps"), data[start : start + 1600], start)
    assert_close(other.result().per_datum_bpd, found.per_datum_bpd)


def test_between_its_ends_gamma_follows_the_variance():
    """VDM appendix I.2: the gradient of the mean of L² for what gives γ its shape, of the mean of L for its ends."""
    gamma, T = path(), 7
    x0 = on_grid((4, 1, 2, 2), None)
    eps, t = normal_like(x0, 1), torch.tensor([1.0, 2.75, 6.1, 7.0], dtype=F64)
    shape = [gamma.slope, gamma.heights, gamma.widths, gamma.centres]

    def losses(rows: slice, half: bool = False) -> torch.Tensor:
        process = diffusion_of(read_off(gamma, T), Setting("eps", levels=None))
        noised = Continuous().noised(process, x0[rows], eps[rows], t[rows])
        # told by t: what the schedule tells has a gradient of its own
        parts = VDM().parts(process, Smooth(1)(noised.xt, 143 * t[rows]), noised)
        if half:
            noised.by_variance.loss = torch.tensor(0.5)  # 2 L ∇L is ∇L
        return parts["vdm"]

    whole, plain = losses(slice(0, 4)), losses(slice(0, 4), half=True)
    for parameters, wanted in ((shape, (plain**2).mean()), ([gamma.first, gamma.rise], plain.mean())):
        expected = torch.autograd.grad(wanted, parameters, retain_graph=True)
        found = torch.autograd.grad(whole.mean(), parameters, retain_graph=True)
        pieces = torch.autograd.grad((losses(slice(0, 2)).mean() + losses(slice(2, 4)).mean()) / 2, parameters)
        for one, other, shared in zip(found, expected, pieces, strict=True):
            assert other.abs().max() > 0
            assert_close(one, other)
            assert_close(shared, other)


def test_antithetic_rows_share_one_offset():
    u = rng.uniform(0, "t", 0, 0, 1).expand(8)
    place = Antithetic().placed(u, make("schedule", "linear"), 0, 8).place
    assert_close(place.sort().values.diff(), [1 / 8] * 7)
    assert_close(Antithetic().placed(u[:4], make("schedule", "linear"), 4, 8).place, place[4:])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"loss": "vlb"}, ("loss", "time")),
        ({"loss": "hybrid", "variance": "learned_range"}, ("loss", "time")),
        ({"prediction": "mu"}, ("prediction", "time")),
        ({"schedule": "jsd", "prediction": "v"}, ("schedule", "time")),
        ({"timesteps": "importance"}, ("timesteps", "time")),
    ],
)
def test_what_continuous_time_refuses(changes, names):
    parts = {"schedule": "linear", "prediction": "eps", "variance": "beta", "loss": "simple", "timesteps": "uniform"} | changes
    made = {group: make(group, name) for group, name in parts.items()}
    process = GaussianDiffusion(made["schedule"], made["prediction"], made["variance"], levels=None)
    with pytest.raises(Incompatible) as refused:
        Continuous().check(process, made["loss"], made["timesteps"])
    assert refused.value.arguments == names
    Discrete().check(process, made["loss"], made["timesteps"])


def test_discrete_time_refuses_a_loss_of_the_rate():
    with pytest.raises(Incompatible) as refused:
        Discrete().check(diffusion_of(make("schedule", "linear")), VDM(), make("timesteps", "uniform"))
    assert refused.value.arguments == ("loss", "time")


def test_a_step_of_continuous_time_has_no_transition():
    process = diffusion_of(make("schedule", "linear", T=10), Setting(levels=None))
    x0 = on_grid((2, 3), None)
    noised = Continuous().noised(process, x0, normal_like(x0, 1), torch.tensor([1.5, 9.0], dtype=F64))
    assert term_bpd(process, x0, noised).isnan().all()
