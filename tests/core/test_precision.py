"""float32 against float64, and gradients where one of two branches is not used."""

import itertools

import pytest
import torch

from ddpm_lab.core.gaussian import kl_nats
from ddpm_lab.core.loss import VLB, Hybrid
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.schedule import cosine, linear
from ddpm_lab.core.terms import prior_bpd, term_bpd

from .support import GOLDEN, Setting, all_times, assert_close, diffusion_of, normal_like, normal_of, on_grid

F32, F64 = torch.float32, torch.float64


def terms_at(column: str, setting: Setting, dtype: torch.dtype, error: float = 0.05) -> torch.Tensor:
    """Every term of a network off by `error`, computed in `dtype` from numbers that are exact in float32."""
    diffusion = diffusion_of(GOLDEN[column](), setting)
    T = diffusion.schedule.T
    x0 = on_grid((T, 1, 4, 4), 256).to(dtype)
    eps, miss = (normal_like(x0.float(), seed).to(dtype) for seed in (1, 2))
    noised = diffusion.noised(x0, eps, all_times(T))
    out = diffusion.prediction.target(x0, eps, noised.xt, noised.step) + error * miss
    if setting.variance == "learned_range":
        out = torch.cat([out, 0.5 * miss], dim=1)
    return term_bpd(diffusion, out, noised).double()


@pytest.mark.parametrize("variance", ["beta", "beta_tilde", "learned_range"])
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("column", ["linear-1k", "cosine-4k"])
def test_float32_terms(column, prediction, variance):
    """Each term to 2e-6 bits/dim, the sum of all of them to 2e-5."""
    setting = Setting(prediction, variance, 256)
    low, high = (terms_at(column, setting, dtype) for dtype in (F32, F64))
    assert_close(low, high, rtol=0, atol=2e-6)
    assert_close(low.sum(), high.sum(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("column", ["linear-1k", "cosine-4k"])
def test_float32_oracle(column):
    """With the true ε all that is left is rounding: the sum of what should be nothing."""
    low = terms_at(column, Setting("eps", "beta_tilde", 256), F32, error=0.0)
    assert float(low[1:].min()) >= 0
    assert float(low[1:].sum()) < 1e-8
    low, high = (terms_at(column, Setting("eps", "beta", 256), dtype, error=0.0) for dtype in (F32, F64))
    assert_close(low[1:].sum(), high[1:].sum(), rtol=0, atol=2e-5)


CHOICES = list(itertools.product(("eps", "v"), ("beta", "beta_tilde", "learned_range"), (None, 17, 256)))


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_no_gradient_is_lost_to_the_unused_branch(dtype, choice, size):
    """Huge outputs at t = 1, 2 and T, raw variances up to ±3: every gradient is a finite number."""
    for schedule in (linear(1000), cosine(4000), linear(2), linear(1)):
        diffusion = diffusion_of(schedule, Setting(*choice))
        t = torch.tensor(sorted({1, min(2, schedule.T), schedule.T}))
        x0 = on_grid((len(t), 1, 2, 2), choice[2]).to(dtype)
        noised = diffusion.noised(x0, normal_like(x0, 1), t)
        out = size * normal_like(x0, 2)
        if diffusion.variance.n_outputs == 2:
            out = torch.cat([out, torch.linspace(-3, 3, x0.numel(), dtype=dtype).reshape(x0.shape)], dim=1)
        out.requires_grad_()
        for loss in [VLB()] + [Hybrid()] * (diffusion.variance.n_outputs == 2):
            value = loss(diffusion, out, noised)
            (grad,) = torch.autograd.grad(value.sum(), out)
            assert torch.isfinite(value).all()
            assert torch.isfinite(grad).all()


def test_an_overflow_of_the_divergence_stays_out_of_the_decoder():
    """At t = 1 with raw = -290 the float32 KL that nobody asked for is infinite, the decoder term is not."""
    diffusion = diffusion_of(linear(), Setting(variance="learned_range"))
    x0 = on_grid((1, 1, 2, 2), 256).float()
    noised = diffusion.noised(x0, normal_like(x0, 1), torch.tensor([1]))
    out = torch.cat([noised.eps + 0.1, torch.full_like(x0, -290.0)], dim=1).requires_grad_()
    reverse = normal_of(diffusion.reverse(diffusion.seen(out, noised.xt, noised.step)))
    assert torch.isinf(kl_nats(diffusion.posterior(noised), reverse)).any()
    term = term_bpd(diffusion, out, noised)
    (grad,) = torch.autograd.grad(term.sum(), out)
    assert torch.isfinite(term).all()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("raw", [-3.0, -1.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("column", GOLDEN)
def test_learned_range_outside_its_range(column, raw):
    diffusion = diffusion_of(GOLDEN[column](), Setting(variance="learned_range"))
    T = diffusion.schedule.T
    x0 = on_grid((T, 1, 1, 2), 256).float()
    noised = diffusion.noised(x0, normal_like(x0, 1), all_times(T))
    out = torch.cat([noised.eps, torch.full_like(x0, raw)], dim=1).requires_grad_()
    terms = term_bpd(diffusion, out, noised)
    (grad,) = torch.autograd.grad(terms.sum(), out)
    assert torch.isfinite(terms).all()
    assert torch.isfinite(grad).all()
    assert terms[1:].min() > -1e-6


@pytest.mark.parametrize("sampler", [Ancestral(clip=True), DDIM(50, clip=True), DDIM(50, eta=1.0, clip=True)])
@pytest.mark.parametrize("variance", ["beta", "learned_range"])
@pytest.mark.long
def test_float32_sampling_follows_float64(sampler, variance):
    diffusion = diffusion_of(cosine(1000), Setting("eps", variance))

    def net(x, t):
        out = 0.9 * torch.tanh(x)
        return torch.cat([out] * diffusion.variance.n_outputs, dim=1)

    def end(dtype):
        start, *noise = (normal_like(torch.zeros(2, 1, 2, 2), t).to(dtype) for t in range(1001))
        *_, last = sampler(diffusion, net, start, lambda t: noise[t - 1])
        assert last.x.dtype == dtype
        return last.x.double()

    torch.testing.assert_close(end(F32), end(F64), rtol=1e-3, atol=1e-3)


def test_a_head_of_zeros_is_the_geometric_middle():
    diffusion = diffusion_of(linear(), Setting(variance="learned_range"))
    x = torch.zeros(2, 1, 2, 2, dtype=F64)
    step = diffusion.chain.step(torch.tensor([1, 700]), x)
    log_var = normal_of(diffusion.reverse(diffusion.seen(torch.zeros(2, 2, 2, 2, dtype=F64), x, step))).log_var
    torch.testing.assert_close(log_var, (0.5 * (step.log_beta + step.log_beta_tilde)).expand_as(x))


def test_a_schedule_without_signal_suits_v():
    """ᾱ_T = 0 where linear is rescaled to T = 20: 1/√ᾱ_T is infinite for ε, and no trouble for v."""
    schedule = linear(20, rescale=True)
    assert schedule.alphas_bar[-1] == 0
    for choice in itertools.product(("beta", "beta_tilde", "learned_range"), (None, 17, 256)):
        diffusion = diffusion_of(schedule, Setting("v", *choice))
        x0 = on_grid((20, 1, 2, 2), choice[1])
        noised = diffusion.noised(x0, normal_like(x0, 1), all_times(20))
        out = torch.cat([normal_like(x0, 2)] * diffusion.variance.n_outputs, dim=1).requires_grad_()
        terms = term_bpd(diffusion, out, noised)
        (grad,) = torch.autograd.grad(terms.sum(), out)
        assert torch.isfinite(terms).all()
        assert torch.isfinite(grad).all()
        assert torch.isfinite(prior_bpd(schedule.chain(), x0)).all()
