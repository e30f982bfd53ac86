"""PNDM (Liu et al. 2022, "Pseudo numerical methods for diffusion models on manifolds")."""

from typing import NamedTuple

from ddpm_lab.core.diffusion import Denoise, implied_eps
from ddpm_lab.core.heun import euler, heun
from ddpm_lab.core.path import Chain, NoiseSchedule, Step, marginal
from ddpm_lab.core.sampler import Settings
from ddpm_lab.core.solver import Solver, combined
from ddpm_lab.core.spacing import Even
from ddpm_lab.core.types import Clip, Data
from ddpm_lab.domains import PositiveInt, checked

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of the last 1 to 4 slopes at equal steps, the newest first: PNDM Eq. 12 has the last."""


class Slopes(NamedTuple):
    """The last ε̂, the newest first; and the schedule, for the times between those of a chain."""

    schedule: NoiseSchedule
    eps: tuple[Data, ...] = ()


@checked
class PNDM(Solver[Slopes]):
    """DDIM's step with an ε̂ of linear multistep methods in t, which rest on equal gaps: PLMS, the order rising to 4.

    `runge_kutta` begins with three pseudo Runge–Kutta steps of four network calls each, at t, twice half-way to s, and at s;
    else the first step is Heun's, of two calls, as in latent diffusion (`skip_prk_steps` in diffusers). Both hold for steps to
    s > 0; that to 0 takes the slopes there are. The time half-way is rounded up.
    """

    def __init__(
        self, steps: PositiveInt | None = 50, runge_kutta: bool = True, spacing: Even = "leading", clip: Clip | None = None
    ) -> None:
        super().__init__(steps, spacing, clip)
        self.runge_kutta = runge_kutta

    @property
    def settings(self) -> Settings:
        return {"runge_kutta": self.runge_kutta}

    def calls(self, chain: Chain) -> int:
        N = len(chain)
        return N + (3 * min(3, N - 1) if self.runge_kutta else min(1, N - 1))

    def start(self, chain: Chain) -> Slopes:
        return Slopes(chain.schedule)

    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: Slopes) -> tuple[Data, Data, Slopes]:
        if self.runge_kutta and len(state.eps) < 3 and step.s > 0:
            xs, x0 = runge_kutta(denoise, xt, step, state.schedule)
        elif not self.runge_kutta and not state.eps:
            xs, x0 = heun(denoise, xt, int(step.t), step.at_t, step)
        else:
            x0, xs = denoise(xt, int(step.t)).x0, None
        eps = (implied_eps(x0, xt, step.at_t), *state.eps)[:4]
        if xs is None:
            xs = euler(combined(ADAMS_BASHFORTH[len(eps) - 1], eps), xt, step.at_t, step.at_s)
        return xs, x0, Slopes(state.schedule, eps)


def runge_kutta(denoise: Denoise, xt: Data, step: Step, schedule: NoiseSchedule) -> tuple[Data, Data]:
    """(x_s, x̂_0 at t): PNDM Eq. 13."""
    s, t = int(step.s), int(step.t)
    middle = t - (t - s) // 2
    at_middle = marginal(schedule.alphas_bar[middle])
    x0 = denoise(xt, t).x0
    slope = total = implied_eps(x0, xt, step.at_t)
    for weight, time, at in ((2, middle, at_middle), (2, middle, at_middle), (1, s, step.at_s)):
        x = euler(slope, xt, step.at_t, at)
        slope = implied_eps(denoise(x, time).x0, x, at)
        total = total + weight * slope
    return euler(total / 6, xt, step.at_t, step.at_s), x0
