"""The loop that runs a sampler, and what is common to all."""

import pytest
import torch
from omegaconf import OmegaConf

from ddpm_lab.core.diffusion import GaussianDiffusion, diffuse, implied_eps
from ddpm_lab.core.heun import EDMChurn
from ddpm_lab.core.loss import Simple
from ddpm_lab.core.sampler import DDIM, Ancestral, draw
from ddpm_lab.core.schedule import linear
from ddpm_lab.core.spacing import spaced_times

from .support import CONF, Setting, assert_close, diffusion_of, make, normal_like, options

F64 = torch.float64


@pytest.mark.parametrize("T", [1, 2, 3, 10])
@pytest.mark.parametrize("name", options("sampler"))
@pytest.mark.parametrize("variance", options("variance"))
def test_the_loop(name, variance, T):
    """As many calls as it says, one per time from t_N down where a step has one; noise for every step but the last, under
    churn for σ within its limits; and the true x_0 for a network that knows it."""
    diffusion, calls, drawn = diffusion_of(linear(T), Setting(variance=variance)), [], []
    x0, steps = torch.full((3, 1, 2, 2), 0.3, dtype=F64), max(1, T // 2)

    def net(xt, t):
        assert t.shape == (3,)
        assert t.dtype == torch.int64
        calls.append(int(t[0]))
        ab = diffusion.schedule.alphas_bar[t].reshape(-1, 1, 1, 1)
        eps = (xt - ab.sqrt() * x0) / (1 - ab).sqrt()
        return torch.cat([eps] * diffusion.variance.n_outputs, dim=1)

    def noise(t):
        drawn.append(t)
        return normal_like(x0, t)

    sampler = make("sampler", name, steps=steps, spacing="trailing")
    chain, states = sampler.chain(diffusion.schedule), []
    for state in sampler(diffusion, net, normal_like(x0, 99), noise):
        assert not torch.is_inference_mode_enabled()  # the caller's own mode, between steps
        states.append(state)
    times = list(reversed(spaced_times(T, steps)))
    assert len(calls) == sampler.calls(chain)
    assert calls == times or len(calls) > len(chain)
    if isinstance(sampler, EDMChurn):
        assert drawn == [t for t in times if 0.05 <= chain[t].at_t.sigma <= 50]
    else:
        assert drawn == (times[:-1] if sampler.noisy(diffusion.variance) else [])
    assert [s.t for s in states] == [*times[1:], 0]
    assert_close(torch.stack([s.x0 for s in states]), x0.expand(len(states), *x0.shape))
    assert_close(states[-1].x, x0)


CLIPS = [(None, 256, True), (None, None, False), (True, 256, True), (False, 256, False), (False, None, False), (0.5, 256, True)]


@pytest.mark.parametrize(("clip", "levels", "clipped"), CLIPS)
@pytest.mark.parametrize("name", options("sampler"))
def test_null_clips_what_has_grey_levels(name, clip, levels, clipped):
    diffusion = diffusion_of(linear(20), Setting(levels=levels))
    x = torch.full((1, 1), 4.0, dtype=F64)
    states = list(
        make("sampler", name, clip=clip, steps=5, spacing="trailing")(diffusion, lambda x, t: -3 + 0 * x, x, lambda t: 0 * x)
    )
    assert all(bool(s.x0.abs().max() <= 1) == clipped for s in states)


CHANGED = {
    "steps": 7,
    "spacing": "linspace",
    "clip": 0.9,
    "eta": 0.5,
    "order": 4,
    "midpoint": True,
    "B": "bh1",
    "churn": 1.0,
    "churn_min": 0.5,
    "churn_max": 2.0,
    "noise_scale": 1.1,
    "runge_kutta": False,
}
KEYS = [
    (name, key) for name in options("sampler") for key in OmegaConf.load(CONF / "sampler" / f"{name}.yaml") if key[0] != "_"
]


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_every_key_of_every_sampler_changes_samples(name, key):
    diffusion, x = diffusion_of(linear()), normal_like(torch.zeros(2, 1, 3, 3, dtype=F64), 0)

    def drawn(**changes):
        sampler = make("sampler", name, **{"steps": 9, **changes})
        *_, last = sampler(diffusion, lambda x, t: 3 * torch.sin(2 * x), x, lambda t: normal_like(x, t))
        return last.x

    assert not torch.equal(drawn(), drawn(**{key: CHANGED[key]}))


def test_all_steps_by_default():
    assert Ancestral().chain(linear(30)).times == tuple(range(1, 31))
    assert len(DDIM(steps=None).chain(linear(30))) == 30


@pytest.mark.parametrize("prediction", options("prediction"))
def test_clipped_ddim_stays_consistent(prediction):
    """x_s lies on the line through clipped x̂_0 and the ε̂ that agrees with it (iDDPM's own order)."""
    diffusion = diffusion_of(linear(100), Setting(prediction, "beta"))
    chain = diffusion.schedule.chain((10, 60, 100))
    x = 3 * normal_like(torch.zeros(4, 5, dtype=F64), 0)
    denoised = diffusion.denoiser(lambda x, t: 2 * torch.cos(5 * x), chain, clip=True)(x, 60)
    assert float(denoised.x0.abs().max()) == 1
    eps = implied_eps(denoised.x0, x, chain[60].at_t)
    assert_close(diffuse(denoised.x0, eps, chain[60]), x)
    xs, x0, _ = DDIM().step(lambda xt, t: denoised, x, chain[60], None, None)
    step = chain[60]
    assert_close(xs, step.at_s.signal_scale * x0 + step.at_s.noise_scale * eps)


@pytest.mark.parametrize(("variance", "channels"), [("beta", 3), ("learned_range", 2)])
def test_a_head_of_two_channels_is_refused_where_it_does_not_fit(variance, channels):
    """Three-channel data under a fixed variance; two-channel data under a learned one, which needs four."""
    diffusion = GaussianDiffusion(linear(10), make("prediction", "eps"), make("variance", variance))
    x = torch.zeros(2, channels, 4, 4)
    out = torch.zeros(2, 2, 4, 4)
    with pytest.raises((ValueError, RuntimeError)):
        diffusion.reverse(diffusion.seen(out, x, diffusion.chain[5]))
    with pytest.raises((ValueError, RuntimeError)):
        Simple()(diffusion, out, diffusion.noised(x, x, torch.tensor([3, 4])))


def test_a_head_with_a_variance_may_be_used_with_a_fixed_one():
    diffusion = GaussianDiffusion(linear(10), make("prediction", "eps"), make("variance", "beta"))
    x, out = normal_like(torch.zeros(2, 1, 4, 4), 0), normal_like(torch.zeros(2, 2, 4, 4), 1)
    with_head, without = (diffusion.reverse(diffusion.seen(o, x, diffusion.chain[5])) for o in (out, out[:, :1]))
    assert_close(with_head.mean, without.mean)


def test_drawn_samples_depend_on_their_index_alone():
    """And are the same in float64 as in float32, up to rounding."""
    diffusion = diffusion_of(linear(20), Setting("v"))

    def final(start, stop, seed=1, like=torch.zeros(())):  # noqa: B008
        states = draw(
            DDIM(5, eta=1.0), diffusion, lambda x, t: torch.sin(x), (1, 2, 2), seed=seed, start=start, stop=stop, like=like
        )
        *_, last = states
        return last.x

    samples = final(0, 130)
    assert samples.shape == (130, 1, 2, 2)
    assert torch.equal(samples[60:70], final(60, 70))
    assert len(samples.flatten(1).unique(dim=0)) == 130
    assert not torch.equal(final(0, 2, seed=2), samples[:2])
    torch.testing.assert_close(final(0, 9, like=torch.zeros((), dtype=F64)).float(), samples[:9], rtol=1e-3, atol=1e-4)
