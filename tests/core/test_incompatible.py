"""Parts that are valid alone and do not go together: which are refused, under which names, and that all others are accepted."""

import itertools
from contextlib import contextmanager

import pytest
import torch

from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.loss import Weighted
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.schedule import linear
from ddpm_lab.core.spacing import spaced_times
from ddpm_lab.core.types import Incompatible
from ddpm_lab.core.variance import Beta, LearnedRange
from ddpm_lab.likelihood.bound import BoundMeter

from .support import NEED_SIGNAL, Setting, diffusion_of, make, options, reaches_zero


@contextmanager
def refused(*names: str):
    """Incompatible must be raised, for the parts of these names."""
    with pytest.raises(Incompatible) as error:
        yield error
    assert error.value.arguments == names


def pairs(first, second):
    return list(itertools.product(first, second))


LEARNED = {"learned_range", "learned_diagonal"}
TRAINS = {"vlb", "hybrid"}
BOUNDS = {"vlb", "vdm", "likelihood"}
BOUNDED = {
    "min_snr": ("eps", "x0", "v", "edm"),
    "p2": ("eps", "x0", "v", "edm"),
    "truncated_snr": ("x0", "v", "edm"),
    "constant_weight": ("x0", "v", "edm"),
    "edm": ("x0", "v", "edm"),
}
"""The predictions on whose output the weight is finite at every t of every schedule."""


@pytest.mark.parametrize("loss", options("loss"))
@pytest.mark.parametrize("variance", options("variance"))
def test_a_learned_variance_needs_a_loss_that_trains_it(loss, variance):
    diffusion = diffusion_of(linear(10), Setting("v", variance))
    untrained = variance in LEARNED and loss not in TRAINS
    if untrained or (loss == "hybrid" and variance not in LEARNED):
        with refused("loss", "variance"):
            make("loss", loss).check(diffusion)
    else:
        make("loss", loss).check(diffusion)


@pytest.mark.parametrize(("loss", "prediction"), pairs(BOUNDED, options("prediction")))
def test_weights_stay_finite_on_the_output(loss, prediction):
    diffusion = diffusion_of(linear(10), Setting(prediction))
    if prediction in BOUNDED[loss]:
        make("loss", loss).check(diffusion)
    else:
        with refused("loss", "prediction"):
            make("loss", loss).check(diffusion)


@pytest.mark.parametrize(("loss", "schedule"), pairs(options("loss"), options("schedule")))
def test_where_sampling_starts_has_weight(loss, schedule):
    """min(SNR, γ) and SNR/(k + SNR)^γ vanish where ᾱ_T = 0. And a learned schedule is trained by a bound alone."""
    diffusion = diffusion_of(make("schedule", schedule), Setting("v", "learned_range" if loss == "hybrid" else "beta"))
    if (loss in ("min_snr", "p2") and reaches_zero(schedule)) or (schedule == "learned" and loss not in BOUNDS):
        with refused("loss", "schedule"):
            make("loss", loss).check(diffusion)
    else:
        make("loss", loss).check(diffusion)


def test_a_weight_is_asked_and_not_its_class():
    class Mine(Weighted):
        def weight(self, snr):
            return 2 + 0 * snr

    Mine().check(diffusion_of(linear(10), Setting("v")))
    with refused("loss", "prediction"):
        Mine().check(diffusion_of(linear(10), Setting("eps")))


@pytest.mark.parametrize(("schedule", "prediction"), pairs(options("schedule"), options("prediction")))
def test_a_prediction_that_divides_by_the_signal_needs_some(schedule, prediction):
    parts = make("schedule", schedule), make("prediction", prediction)
    if reaches_zero(schedule) and prediction in NEED_SIGNAL:
        with refused("schedule", "prediction"):
            GaussianDiffusion(*parts, Beta())
    else:
        diffusion = GaussianDiffusion(*parts, Beta())
        last, out = diffusion.chain[diffusion.schedule.T], torch.ones(1, 1, dtype=torch.float64)
        assert diffusion.prediction.x0(out, out, last).isfinite().all()


@pytest.mark.parametrize("sampler", [Ancestral, DDIM])
def test_steps_do_not_exceed_the_schedule(sampler):
    assert len(sampler(steps=10).chain(linear(10))) == 10
    with refused("sampler", "schedule") as error:
        sampler(steps=11).chain(linear(10))
    assert all(part in str(error.value) for part in ("steps=11", "T=10"))


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "quadratic"])
@pytest.mark.parametrize("schedule", ["jsd", "zero_terminal_snr", "cosine"])
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_sampling_starts_where_there_is_no_signal(schedule, spacing, steps):
    path, sampler = make("schedule", schedule, T=10), Ancestral(steps, spacing)
    if reaches_zero(schedule) and spaced_times(10, steps, spacing)[-1] < 10:
        with refused("sampler", "schedule") as error:
            sampler.check(diffusion_of(path, Setting("v")))
        assert f"spacing={spacing}" in str(error.value)
    else:
        sampler.check(diffusion_of(path, Setting("v")))


@pytest.mark.parametrize("schedule", ["jsd", "zero_terminal_snr"])
@pytest.mark.parametrize("name", options("sampler"))
def test_what_divides_by_the_signal_is_refused_where_there_is_none(name, schedule):
    """And all others end at the true x_0 of a network that knows it."""
    diffusion = diffusion_of(make("schedule", schedule, T=20), Setting("x0", levels=None))
    sampler, x0 = make("sampler", name, steps=7, spacing="trailing"), torch.full((2, 3), 0.3, dtype=torch.float64)
    if name in ("dpm_solver", "heun", "edm_churn", "pndm"):
        with refused("sampler", "schedule"):
            sampler.check(diffusion)
    else:
        sampler.check(diffusion)
        states = list(sampler(diffusion, lambda x, t: x0, torch.ones_like(x0), lambda t: x0))
        assert all(state.x.isfinite().all() for state in states)
        torch.testing.assert_close(states[-1].x, x0)


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_spacings_by_noise_need_two_ends(spacing):
    sampler = DDIM(1, spacing=spacing)
    with refused("sampler") as error:
        sampler.chain(linear(10))
    assert all(part in str(error.value) for part in (f"spacing={spacing}", "steps=1", ">= 2"))
    with refused("sampler", "schedule") as error:
        DDIM(5, spacing=spacing).chain(make("schedule", "zero_terminal_snr", T=10))
    assert f"spacing={spacing}" in str(error.value)
    with refused("sampler", "schedule") as error:
        DDIM(11, spacing=spacing).chain(linear(10))
    assert all(part in str(error.value) for part in ("steps=11", "T=10"))


def test_data_without_grey_levels_are_not_clipped():
    with_levels, without = (diffusion_of(linear(10), Setting(levels=levels)) for levels in (256, None))
    x = torch.zeros(1, 2)
    for sampler in (DDIM(clip=True), Ancestral(clip=True), DDIM(clip=0.9)):
        sampler.steps = 5
        sampler.check(with_levels)
        with refused("sampler", "data"):
            sampler.check(without)
        with refused("sampler", "data"):
            next(sampler(without, lambda x, t: x, x, lambda t: x))
    with refused("sampler", "data"):
        BoundMeter(without, without.chain, clip=True)


def test_hybrid_computes_nothing_without_a_learned_variance():
    diffusion = diffusion_of(linear(4), Setting())
    x = torch.zeros(4, 1)
    with refused("loss", "variance"):
        make("loss", "hybrid")(diffusion, x, diffusion.noised(x, x, torch.arange(1, 5)))
    assert LearnedRange.n_outputs == 2
