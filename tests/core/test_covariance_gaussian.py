"""Reverse covariances of Gaussian data in a rotated basis, where each is known in closed form: samples and bounds."""

import math
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import Tensor

from ddpm_lab.core import jacobian, rng
from ddpm_lab.core.analytic import Analytic, Gamma
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.heads import NPR, OCM, SN, OfHead, SNSquare
from ddpm_lab.core.jacobian import Exact, Hutchinson, Lanczos
from ddpm_lab.core.path import Chain, NoiseSchedule
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.schedule import cosine, linear
from ddpm_lab.core.spacing import spaced_times
from ddpm_lab.core.terms import measure, prior_bpd
from ddpm_lab.core.variance import Interpolated
from ddpm_lab.likelihood.bound import BoundMeter
from ddpm_lab.likelihood.estimate import BoundEstimator

from .edm_reference import edm_network
from .support import assert_close, make, normal_like

F64 = torch.float64
CHAINS = [
    (10, "trailing"),
    (50, "linspace"),
    *(pytest.param(chain, marks=pytest.mark.slow) for chain in ((10, "linspace"), (50, "trailing"))),
    pytest.param((1000, "trailing"), marks=pytest.mark.soak),
]
SCHEDULES = {"linear": linear(1000), "cosine": cosine(1000)}
HEADS = {"npr": NPR, "sn": SN, "sn_square": SNSquare, "ocm": OCM}
D = 6


@dataclass
class Rotated:
    """Data N(0, Q diag(λ) Qᵀ) with λ_k ∝ 1/k² of mean 0.25 and a random Q, and the true denoiser."""

    schedule: NoiseSchedule
    prediction: str = "eps"

    @cached_property
    def q(self) -> Tensor:
        return torch.linalg.qr(normal_like(torch.zeros(D, D, dtype=F64), 5))[0]

    @cached_property
    def spectrum(self) -> Tensor:
        raw = 1 / torch.arange(1, D + 1, dtype=F64) ** 2
        return 0.25 * raw / raw.mean()

    def matrix(self, eigenvalues: Tensor) -> Tensor:
        return self.q @ torch.diag(eigenvalues) @ self.q.T

    def conditional(self, t: int) -> Tensor:
        """Cov(x_0 | x_t)."""
        ab = self.schedule.alphas_bar[t]
        return self.matrix(self.spectrum * (1 - ab) / (ab * self.spectrum + 1 - ab))

    def marginal(self, t: int) -> Tensor:
        ab = self.schedule.alphas_bar[t]
        return self.matrix(ab * self.spectrum + 1 - ab)

    def gain(self, t: int) -> Tensor:
        """x̂_0 = gain x_t."""
        ab = self.schedule.alphas_bar[t]
        return self.matrix(ab.sqrt() * self.spectrum / (ab * self.spectrum + 1 - ab))

    def net(self, xt: Tensor, t: Tensor) -> Tensor:
        if self.prediction == "edm":
            return edm_network(self.denoised)(xt, t)
        ab = self.schedule.alphas_bar[t][:, None]
        x0 = torch.stack([row @ self.gain(int(one)) for row, one in zip(xt, t, strict=True)])
        eps = (xt - ab.sqrt() * x0) / (1 - ab).sqrt()
        return {"x0": x0, "eps": eps, "v": ab.sqrt() * eps - (1 - ab).sqrt() * x0}[self.prediction]

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x_0 + σ ε] of rows."""
        return (x @ self.q) * (self.spectrum / (self.spectrum + sigma**2)) @ self.q.T

    def net_at(self, xt: Tensor, t: Tensor) -> Tensor:
        """The same for rows of one time."""
        ab = self.schedule.alphas_bar[int(t[0])]
        return (xt - ab.sqrt() * xt @ self.gain(int(t[0]))) / (1 - ab).sqrt()

    def with_head(self, variance: OfHead):
        """`net_at` with a head that has learned all there is to learn."""

        def net(xt: Tensor, t: Tensor) -> Tensor:
            ab = self.schedule.alphas_bar[int(t[0])]
            eps_var = ab / (1 - ab) * self.conditional(int(t[0])).diag()
            eps = self.net_at(xt, t)
            h = {OCM: eps_var - 1, SNSquare: eps_var + eps**2}.get(type(variance), eps_var)
            return torch.cat([eps, h.expand(len(xt), D)], 1)

        return net

    def diffusion(self, variance) -> GaussianDiffusion:
        variance = make("variance", variance) if isinstance(variance, str) else variance
        return GaussianDiffusion(self.schedule, make("prediction", self.prediction), variance, levels=None)

    def data(self, n: int) -> Tensor:
        return normal_like(torch.zeros(n, D, dtype=F64), 1) * self.spectrum.sqrt() @ self.q.T

    def analytic(self, chain: Chain) -> Analytic:
        ab, none = self.schedule.alphas_bar[list(chain.times)], torch.zeros(len(chain), dtype=F64)
        cov = torch.stack([self.conditional(t).trace() / D for t in chain.times])
        return Analytic(Gamma(chain.times, ab, 1 - cov * ab / (1 - ab), none, cov, none, 1000))


def rung_of(model: Rotated, name: str, chain: Chain) -> tuple:
    """The variance, and Cov(x_0 | x_t) as it knows it (None: it is between β̃ and β)."""
    one = torch.eye(D, dtype=F64)
    match name:
        case "beta" | "beta_tilde":
            return name, None
        case "interpolated":
            return Interpolated(0.3), None
        case "npr" | "sn" | "sn_square" | "ocm":
            return HEADS[name](), lambda t: torch.diag(model.conditional(t).diag())
        case "analytic":
            return model.analytic(chain), lambda t: one * model.conditional(t).trace() / D
        case "hutchinson":
            return Hutchinson(n_probes=2), lambda t: torch.diag(hutchinson_diagonal(model, t).clamp(0, 1))
        case "lanczos":
            return Lanczos(largest=9.0, steps=D), model.conditional
    return Exact(largest=9.0), model.conditional


def hutchinson_diagonal(model: Rotated, t: int) -> Tensor:
    signs = rng.signs(0, "variance_probe", t, 0, 2, (D,))
    return (signs * (signs @ model.conditional(t))).mean(0)


def wanted_moments(model: Rotated, chain: Chain, known, kind: str, last: bool) -> Tensor:
    """Covariance of the samples by matrices, from ᾱ alone. `last`: with the noise of the last step."""
    ab_of, one = model.schedule.alphas_bar, torch.eye(D, dtype=F64)
    found = one
    for s, t in reversed(list(zip((0, *chain.times[:-1]), chain.times, strict=True))):
        ab_s, ab_t = ab_of[s], ab_of[t]
        beta = 1 - ab_t / ab_s
        share, rest = ab_s.sqrt() * beta / (1 - ab_t), (ab_t / ab_s).sqrt() * (1 - ab_s) / (1 - ab_t)
        beta_tilde = beta * (1 - ab_s) / (1 - ab_t)
        fraction = {"beta": 1.0, "beta_tilde": 0.0, "interpolated": 0.3}.get(kind, 0.0)
        noise = share**2 * known(t) + beta_tilde * one if known else one * beta**fraction * beta_tilde ** (1 - fraction)
        step = share * model.gain(t) + rest * one
        found = step @ found @ step.T + (noise if s > 0 or last else 0)
    return found


def moments(model: Rotated, chain: Chain, variance, last: bool) -> Tensor:
    """The same through samplers and operators, which are linear here: rows are images of a basis."""
    diffusion, one = model.diffusion(variance), torch.eye(D, dtype=F64)
    net = model.with_head(variance) if isinstance(variance, OfHead) else model.net_at
    denoise, found = diffusion.denoiser(net, chain, clip=False), one
    xt, z = torch.cat([one, 0 * one]), torch.cat([0 * one, one])
    for step in chain.steps_down():
        xs, _, _ = Ancestral().step(denoise, xt, step, None if step.s == 0 else z, None)
        if last and step.s == 0:
            xs = xs + denoise(xt, int(step.t)).noise(z)
        of_x, of_z = xs.chunk(2)
        found = of_x.T @ found @ of_x + of_z.T @ of_z
    return found


@pytest.mark.parametrize(
    ("rung", "last"),
    [(rung, False) for rung in ("beta", "beta_tilde", "interpolated")]
    + [(rung, last) for rung in ("analytic", *HEADS, "hutchinson", "lanczos", "exact") for last in (False, True)],
)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.long
def test_samples_have_the_closed_form_covariance(name, chain, rung, last):
    """With and without the noise of the last step, which β, β̃ and what lies between do not have: their first step decodes."""
    steps, spacing = chain
    model = Rotated(SCHEDULES[name])
    chain = model.schedule.chain(spaced_times(1000, steps, spacing))
    variance, known = rung_of(model, rung, chain)
    assert_close(moments(model, chain, variance, last), wanted_moments(model, chain, known, rung, last), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("steps", [3, 50])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_full_covariance_errs_by_the_prior_alone(name, steps):
    """From the true q(x_T) every step gives the true q(x_s), and so do DDIM's with their own share, at any η."""
    model = Rotated(SCHEDULES[name])
    for sampler in (Ancestral(steps), DDIM(steps), DDIM(steps, eta=0.6)):
        chain = sampler.chain(model.schedule)
        denoise, one = model.diffusion(Exact(largest=9.0)).denoiser(model.net_at, chain, clip=False), torch.eye(D, dtype=F64)
        found = model.marginal(chain.times[-1])
        xt, z = torch.cat([one, 0 * one]), torch.cat([0 * one, one])
        for step in chain.steps_down():
            of_x, of_z = sampler.step(denoise, xt, step, z, None)[0].chunk(2)
            found = of_x.T @ found @ of_x + of_z.T @ of_z
            assert_close(found, model.marginal(int(step.s)), rtol=1e-6, atol=1e-9)


def entropy_bpd(model: Rotated, chain: Chain) -> float:
    """E −log q(x_0), and what the prior costs, KL(q(x_T) ‖ N(0, I)), per dimension."""
    data, top = model.matrix(model.spectrum), model.marginal(chain.times[-1])
    nats = 0.5 * (D * math.log(2 * math.pi * math.e) + data.logdet() + top.trace() - D - top.logdet())
    return float(nats) / D / math.log(2)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "edm"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_bound_of_the_full_covariance_is_the_entropy(name, prediction):
    """The reverse kernel is then the true one, and the bound is tight at any number of steps: its mean over data is their
    entropy, and the prior's mismatch."""
    model = Rotated(SCHEDULES[name], prediction)
    chain = model.schedule.chain(spaced_times(1000, 7, "trailing"))
    found = mean_bound(model, chain, Exact(largest=9.0))
    assert_close(found, entropy_bpd(model, chain), rtol=1e-6, atol=1e-6)


def mean_bound(model: Rotated, chain: Chain, variance) -> float:
    """E of the bound over data and noise. Each term is quadratic in (x_0, ε), so its mean over points ± √(2d) e_i is exact:
    they have the moments of N(0, I), of first and second order."""
    points = math.sqrt(2 * D) * torch.cat([torch.eye(2 * D, dtype=F64), -torch.eye(2 * D, dtype=F64)])
    x0, eps = points[:, :D] * model.spectrum.sqrt() @ model.q.T, points[:, D:]
    diffusion, total = model.diffusion(variance), prior_bpd(chain, x0).mean()
    for t in chain.times:
        total = total + measure(diffusion, chain, model.net, x0, eps, torch.full((len(x0),), t), False)[0].mean()
    return float(total)


def test_lanczos_bound_is_within_its_standard_error(monkeypatch):
    """Of spaces as large as the data the quadratures are exact, but for the probes."""
    monkeypatch.setattr(Lanczos, "_whole", lambda self, size: False)  # or matrices this small would be taken whole
    model = Rotated(SCHEDULES["cosine"])
    chain, x0 = model.schedule.chain(spaced_times(1000, 5, "trailing")), model.data(64)
    totals = {}
    for kind in (Exact(largest=9.0), Lanczos(largest=9.0, bound_steps=D, probes=2)):
        meter = BoundMeter(model.diffusion(kind), chain)
        meter.add(model.net, x0, 0)
        totals[type(kind).__name__] = meter.result()
    exact, ours = totals["Exact"], totals["Lanczos"]
    difference = ours.per_datum_bpd - exact.per_datum_bpd
    assert 0 < abs(float(difference.mean())) < 3 * float(difference.std()) / 8
    assert_close(ours.mean_bpd[1:], exact.mean_bpd[1:], rtol=1e-6)
    in_parts = BoundMeter(model.diffusion(kind), chain, batch=7)
    in_parts.add(model.net, x0[:40], 0)
    in_parts.add(model.net, x0[40:], 40)
    assert_close(in_parts.result().per_datum_bpd, ours.per_datum_bpd)
    meter = BoundEstimator(
        model.diffusion(Lanczos(largest=9.0, bound_steps=D)), chain, torch.tensor([0, 0.25, 0.25, 0.25, 0.25]).double(), 4
    )
    meter.add(model.net, x0, 0)
    assert abs(meter.result().total_bpd - exact.total_bpd) < 3 * (meter.result().total_se + exact.total_se)


def test_terms_take_products_of_their_own_kind_alone(monkeypatch):
    """A decoder one for each of its vectors, divergences those of their Krylov spaces. L_0 is that of the exact matrix."""
    monkeypatch.setattr(jacobian, "MOST", 0)
    model, taken = Rotated(SCHEDULES["cosine"]), []

    def counted(product_of):
        def of(seen):
            product = product_of(seen)
            return lambda v: taken.append(len(v)) or product(v)

        return of

    for name in ("data_product", "symmetric_product"):
        monkeypatch.setattr(jacobian, name, counted(getattr(jacobian, name)))
    chain, x0, found = model.schedule.chain(spaced_times(1000, 4, "trailing")), model.data(8), {}
    for kind in (Exact(largest=9.0), Lanczos(largest=9.0, bound_steps=3, probes=2, decoder_probes=D)):
        diffusion = GaussianDiffusion(model.schedule, make("prediction", "eps"), kind, levels=16)
        taken.clear()
        meters = BoundMeter(diffusion, chain), BoundEstimator(diffusion, chain, torch.tensor([0, 1, 1, 1]).double() / 3, 2)
        for meter in meters:
            meter.add(model.net, x0, 0)
        found[type(kind)] = [meter.result().decoder_bpd for meter in meters]
    assert sorted(taken) == sorted([8] * D + [24] * 9 + [8] * D + [16] * 9)
    assert_close(torch.tensor(found[Lanczos]), torch.tensor(found[Exact]), rtol=1e-9)
