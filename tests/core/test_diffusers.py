"""An independent implementation: the schedulers of diffusers, which keep float32 tables and a 0-based t."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.schedule import cosine, linear, quadratic, sigmoid_beta, zero_terminal_snr

from .support import Setting, diffusion_of, normal_like

SCHEDULES = {"linear": linear, "cosine": cosine, "quadratic": quadratic, "sigmoid_beta": sigmoid_beta}
TABLES = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "quadratic": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "scaled_linear"},
    "sigmoid_beta": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "sigmoid"},
}
THEIR_PREDICTION = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
THEIR_VARIANCE = {"beta_tilde": "fixed_small", "beta": "fixed_large"}
SHAPE = (2, 1, 4, 4)


def state(seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * normal_like(torch.zeros(SHAPE, dtype=torch.float64), seed)


def close(found: torch.Tensor, theirs: torch.Tensor, rtol: float = 5e-4) -> None:
    """Their float32 ᾱ costs up to 1.6e-4 of β, and 1/√ᾱ_T carries it into x̂_0."""
    torch.testing.assert_close(found.double(), theirs.double(), rtol=rtol, atol=rtol * float(theirs.abs().max()))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("T", [10, 1000, 4000])
def test_tables(name, T):
    theirs, ours = DDPMScheduler(T, **TABLES[name]), SCHEDULES[name](T)
    np.testing.assert_allclose(ours.betas, theirs.betas.double(), rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(ours.alphas_bar[1:-1], theirs.alphas_cumprod[:-1].double(), rtol=2e-4, atol=1e-9)


def test_zero_terminal_snr():
    theirs = DDPMScheduler(1000, **TABLES["quadratic"], rescale_betas_zero_snr=True)
    ours = zero_terminal_snr(1000, base="quadratic")
    np.testing.assert_allclose(ours.alphas_bar[1:], theirs.alphas_cumprod.double(), rtol=2e-4, atol=1e-7)


def one_step(sampler, diffusion: GaussianDiffusion, t: int, xt, out, z, clip: bool, times=None):
    chain = diffusion.schedule.chain(times)
    denoise = diffusion.denoiser(lambda x, t: out, chain, clip)
    return sampler.step(denoise, xt, chain[t], z, None)[:2]


@pytest.mark.parametrize("t", [1, 2, 300, 999, 1000])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", THEIR_VARIANCE)
@pytest.mark.parametrize("prediction", THEIR_PREDICTION)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_one_ancestral_step(name, prediction, variance, clip, t):
    theirs = DDPMScheduler(
        1000,
        variance_type=THEIR_VARIANCE[variance],
        clip_sample=clip,
        prediction_type=THEIR_PREDICTION[prediction],
        **TABLES[name],
    )
    xt, out = state(0), state(1)
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    result = theirs.step(out, t - 1, xt, generator=torch.Generator().manual_seed(7))
    xs, x0 = one_step(
        Ancestral(), diffusion_of(SCHEDULES[name](), Setting(prediction, variance)), t, xt, out, z if t > 1 else None, clip
    )
    close(x0, result.pred_original_sample)
    close(xs, result.prev_sample)


@pytest.mark.parametrize("t", [20, 40, 500, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", THEIR_PREDICTION)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_one_ddim_step(name, prediction, clip, eta, t):
    theirs = DDIMScheduler(1000, clip_sample=clip, prediction_type=THEIR_PREDICTION[prediction], **TABLES[name])
    theirs.set_timesteps(50)
    xt, out, z = state(0), state(1), state(2)
    result = theirs.step(out, t - 1, xt, eta=eta, use_clipped_model_output=True, variance_noise=z)
    diffusion = diffusion_of(SCHEDULES[name](), Setting(prediction, "beta"))
    xs, x0 = one_step(DDIM(eta=eta), diffusion, t, xt, out, z if t > 20 else None, clip, tuple(range(20, 1001, 20)))
    close(x0, result.pred_original_sample)
    close(xs, result.prev_sample)


def toy_net(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Any smooth function of (x_t, our t)."""
    return 0.9 * torch.sin(xt) + 0.1 * torch.cos(t.reshape(-1, 1, 1, 1) / 100)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_strided_ddim_chain(spacing, steps, eta):
    theirs = DDIMScheduler(1000, clip_sample=True, timestep_spacing=spacing, **TABLES["linear"])
    theirs.set_timesteps(steps)
    noise = {int(t) + 1: state(100 + int(t)) for t in theirs.timesteps}
    sampler, diffusion = DDIM(steps, eta, spacing, clip=True), diffusion_of(linear())
    assert sampler.chain(diffusion.schedule).times == tuple(sorted(noise))
    ours = [s.x for s in sampler(diffusion, toy_net, state(5), lambda t: noise[t])]
    x = state(5)
    for t, own in zip(theirs.timesteps, ours, strict=True):
        out = toy_net(x, torch.full((2,), int(t) + 1))
        last = int(t) < 1000 // steps
        z = torch.zeros_like(x) if last else noise[int(t) + 1]
        x = theirs.step(out, int(t), x, eta=eta, use_clipped_model_output=True, variance_noise=z).prev_sample
        close(own, x)


@pytest.mark.parametrize("variance", THEIR_VARIANCE)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_strided_ancestral_chain(variance, spacing):
    """But for the last step of `trailing`, where theirs is not at its t = 0 and still adds noise."""
    theirs = DDPMScheduler(1000, variance_type=THEIR_VARIANCE[variance], timestep_spacing=spacing, **TABLES["linear"])
    theirs.set_timesteps(25)
    noise, states, x = {}, [], state(5)
    for t in theirs.timesteps.tolist():
        noise[t + 1] = torch.randn(SHAPE, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        out = toy_net(x, torch.full((2,), t + 1))
        x = theirs.step(out, t, x, generator=torch.Generator().manual_seed(t)).prev_sample
        states.append(x)
    sampler, diffusion = Ancestral(25, spacing, clip=True), diffusion_of(linear(), Setting(variance=variance))
    ours = [s.x for s in sampler(diffusion, toy_net, state(5), lambda t: noise[t])]
    for own, x in zip(ours, states, strict=True) if spacing == "leading" else zip(ours[:-1], states[:-1], strict=True):
        close(own, x)
