"""Solvers step by step against the schedulers of diffusers, on one float64 table; each calls the network at its own x."""

from types import SimpleNamespace
from typing import Any

import diffusers.schedulers.scheduling_dpmsolver_multistep as dpm_module
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler

from ddpm_lab.core.diffusion import limited
from ddpm_lab.core.heun import Heun
from ddpm_lab.core.multistep import DPMSolver, DPMSolverPP, UniPC
from ddpm_lab.core.pndm import PNDM
from ddpm_lab.core.sampler import Sampler
from ddpm_lab.core.schedule import cosine, linear

from .support import Setting, assert_close, diffusion_of, normal_like
from .test_diffusers import SHAPE, THEIR_PREDICTION, state, toy_net

pytestmark = [
    pytest.mark.filterwarnings("ignore:`algorithm_types dpmsolver:FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
F64 = torch.float64
SCHEDULES = {"linear": linear, "cosine": cosine}


@pytest.fixture(autouse=True)
def _float64(monkeypatch):
    """Their DPM-Solver casts x to float32 in each step."""
    monkeypatch.setattr(dpm_module, "torch", SimpleNamespace(**{**vars(torch), "float32": F64}))


def ours(sampler: Sampler, schedule: str, prediction: str = "eps") -> list[torch.Tensor]:
    diffusion = diffusion_of(SCHEDULES[schedule](), Setting(prediction))
    return [s.x for s in sampler(diffusion, toy_net, state(5), lambda t: state(t))]


def on_table(theirs: Any, sampler: Sampler, schedule: str) -> tuple[Any, list[int], torch.Tensor]:
    """The scheduler with our σ of the times visited, the times from t_N down, and √ᾱ at each and at 0."""
    path = SCHEDULES[schedule]()
    times = [*reversed(sampler.chain(path).times)]
    sigmas = torch.cat([(1 / path.alphas_bar[times] - 1).sqrt(), torch.zeros(1, dtype=F64)])
    theirs.set_timesteps(len(times))
    theirs.sigmas = sigmas
    theirs.set_begin_index(0)
    return theirs, times, path.alphas_bar[[*times, 0]].sqrt()


def multistep(theirs: Any, sampler: Sampler, schedule: str) -> list[torch.Tensor]:
    theirs, times, _ = on_table(theirs, sampler, schedule)
    x, states = state(5), []
    for t, their_t in zip(times, theirs.timesteps, strict=True):
        x = theirs.step(toy_net(x, torch.full(SHAPE[:1], t)), their_t, x).prev_sample
        states.append(x)
    return states


def agree(found: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for own, other in zip(found, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


DPM: dict[str, Any] = {"final_sigmas_type": "zero", "algorithm_type": "dpmsolver++"}


@pytest.mark.parametrize("prediction", THEIR_PREDICTION)
@pytest.mark.parametrize("midpoint", [False, True])
@pytest.mark.parametrize("spacing", ["trailing", "quadratic"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dpm_solver_pp_2m(schedule, spacing, midpoint, prediction):
    """The paper's 2M is `midpoint`; the exact integral is called `heun` there."""
    sampler = DPMSolverPP(12, 2, midpoint, spacing, clip=False)
    kind = {"solver_type": "midpoint" if midpoint else "heun", "prediction_type": THEIR_PREDICTION[prediction]}
    theirs = DPMSolverMultistepScheduler(solver_order=2, **DPM, **kind)
    agree(ours(sampler, schedule, prediction), multistep(theirs, sampler, schedule))


@pytest.mark.parametrize("midpoint", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_dpm_solver_2(schedule, midpoint):
    """But for the last step, to σ = 0, where theirs is 0 · ∞ and ours is x̂_0."""
    sampler, kind = DPMSolver(12, 2, midpoint, clip=False), "midpoint" if midpoint else "heun"
    theirs = DPMSolverMultistepScheduler(
        solver_order=2, algorithm_type="dpmsolver", solver_type=kind, final_sigmas_type="sigma_min"
    )
    found, wanted = ours(sampler, schedule), multistep(theirs, sampler, schedule)
    agree(found[:-1], wanted[:-1])
    assert wanted[-1].isnan().all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("form", "kind"), [(DPMSolverPP, "dpmsolver++"), (DPMSolver, "dpmsolver")])
def test_order_3_has_twice_their_second_difference(form, kind, schedule):
    """Their polynomial of degree 2 takes half of the second divided difference, D2 for 2 D2, as the code of the paper's authors
    does, which leaves order 2; ours is the integral. From the same states and outputs the two differ by that half alone."""
    sampler = form(10, 3, clip=False)
    theirs = DPMSolverMultistepScheduler(
        solver_order=3, algorithm_type=kind, final_sigmas_type="zero" if form is DPMSolverPP else "sigma_min"
    )
    theirs, times, scale = on_table(theirs, sampler, schedule)
    diffusion, x, history = diffusion_of(SCHEDULES[schedule]()), state(5), sampler.start(sampler.chain(SCHEDULES[schedule]()))
    chain = sampler.chain(diffusion.schedule)
    denoise = sampler.denoiser(diffusion, toy_net, chain)
    compared = 0
    for i, step in enumerate(chain.steps_down()):
        xt, (x, _, history) = x, sampler.step(denoise, x, step, None, history)
        if len(history.outputs) < 3:
            continue
        m0, m1, m2 = theirs.model_outputs = [output.value for output in history.outputs]
        theirs.model_outputs, theirs._step_index = [m2, m1, m0], i
        their_x = theirs.multistep_dpm_solver_third_order_update(theirs.model_outputs, sample=xt)
        lam = [-theirs.sigmas[j].log() for j in (i + 1, i, i - 1, i - 2)]
        h, r0, r1 = lam[0] - lam[1], lam[1] - lam[2], lam[2] - lam[3]
        second = ((m0 - m1) / r0 - (m1 - m2) / r1) / (r0 + r1) * h**2
        factor = (
            scale[i + 1] * (0.5 - (torch.expm1(-h) + h) / h**2)
            if form is DPMSolverPP
            else scale[i + 1] * theirs.sigmas[i + 1] * (0.5 - (torch.expm1(h) - h) / h**2)
        )
        torch.testing.assert_close(x - their_x, factor * second, rtol=1e-6, atol=1e-9)
        assert float(second.abs().max()) > 1e-3
        compared += 1
    assert compared == 6, times


@pytest.mark.parametrize("prediction", THEIR_PREDICTION)
@pytest.mark.parametrize("B", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_unipc(schedule, order, B, prediction):
    """But for the last step of bh1, to σ = 0, where theirs is 0 · ∞ and ours is x̂_0, as theirs of bh2."""
    sampler = UniPC(12, order, B, clip=False)
    theirs = UniPCMultistepScheduler(
        solver_order=order, solver_type=B, prediction_type=THEIR_PREDICTION[prediction], final_sigmas_type="zero"
    )
    found, wanted = ours(sampler, schedule, prediction), multistep(theirs, sampler, schedule)
    last = -1 if B == "bh1" else None
    agree(found[:last], wanted[:last])
    assert wanted[-1].isnan().all() == (B == "bh1")


@pytest.mark.parametrize("prediction", THEIR_PREDICTION)
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_heun(schedule, spacing, clip, prediction):
    """Theirs is in x̃ = x/√ᾱ, with each σ but the first twice in its table."""
    sampler = Heun(12, spacing, clip)
    theirs = HeunDiscreteScheduler(clip_sample=clip, prediction_type=THEIR_PREDICTION[prediction])
    theirs, times, scale = on_table(theirs, sampler, schedule)
    theirs.sigmas = torch.cat([theirs.sigmas[:1], theirs.sigmas[1:-1].repeat_interleave(2), theirs.sigmas[-1:]])
    x, states = state(5) / scale[0], []
    for i, t in enumerate(times):
        x = theirs.step(toy_net(x * scale[i], torch.full(SHAPE[:1], t)), t, x).prev_sample
        if i + 1 < len(times):
            x = theirs.step(toy_net(x * scale[i + 1], torch.full(SHAPE[:1], times[i + 1])), times[i + 1], x).prev_sample
        states.append(x * scale[i + 1])
    agree(ours(sampler, schedule, prediction), states)


@pytest.mark.parametrize("runge_kutta", [True, False])
@pytest.mark.parametrize("steps", [5, 10, 50])
@pytest.mark.parametrize(("schedule", "spacing"), [("linear", "leading"), ("linear", "trailing"), ("cosine", "leading")])
def test_pndm(schedule, spacing, steps, runge_kutta):
    """Every call of the network. Of v theirs averages the outputs before ε̂ is formed from another x: of ε they are alike."""
    sampler, path = PNDM(steps, runge_kutta, spacing, clip=False), SCHEDULES[schedule]()
    theirs = PNDMScheduler(skip_prk_steps=not runge_kutta, set_alpha_to_one=True, timestep_spacing=spacing)
    theirs.alphas_cumprod, theirs.final_alpha_cumprod = path.alphas_bar[1:], torch.ones((), dtype=F64)
    theirs.set_timesteps(steps)
    x, called, theirs_called = state(5), [], []
    for t in theirs.timesteps.tolist():
        theirs_called.append((t + 1, x))
        x = theirs.step(toy_net(x, torch.full(SHAPE[:1], t + 1)), t, x).prev_sample

    def net(x, t):
        called.append((int(t[0]), x))
        return toy_net(x, t)

    *_, last = sampler(diffusion_of(path), net, state(5), lambda t: state(t))
    assert [t for t, _ in called] == [t for t, _ in theirs_called]
    assert len(called) == sampler.calls(sampler.chain(path))
    agree([*(x for _, x in called), last.x], [*(x for _, x in theirs_called), x])


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995])
def test_dynamic_thresholding(quantile):
    """Images beyond [−1, 1] by 3, by a little, and not at all; theirs has an upper limit of s too."""
    x0 = (
        torch.tensor([4.0, 1.1, 0.3], dtype=F64).reshape(3, 1, 1, 1) * normal_like(torch.zeros(3, 2, 5, 5, dtype=F64), 0).tanh()
    )
    theirs = DPMSolverMultistepScheduler(thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=100.0)
    found = limited(x0, quantile)
    assert_close(found, theirs._threshold_sample(x0))
    assert_close(found[2], x0[2])
    assert float(found.abs().max()) == 1
