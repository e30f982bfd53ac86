"""Exponential multistep solvers: DPM-Solver, DPM-Solver++ and UniPC as one family.

With λ = log(√ᾱ/√(1−ᾱ)), half the log of the SNR, the probability flow from time t to s < t is an integral over λ of what the
network gives (Lu et al. 2022, "DPM-Solver", Proposition 3.1; "DPM-Solver++"), h = λ_s − λ_t:

    x_s = √ᾱ_s/√ᾱ_t x_t − √ᾱ_s σ_t ∫_0^h e^(−v) ε̂(λ_t + v) dv                        in ε̂, σ = √(1−ᾱ)/√ᾱ
    x_s = √(1−ᾱ_s)/√(1−ᾱ_t) x_t + √ᾱ_s ∫_0^h e^(−v) x̂_0(λ_s − v) dv                   in x̂_0

A method of order k puts the polynomial through the last k outputs in place of ε̂ or x̂_0 (Adams–Bashforth), and integrates it
exactly. k = 1 is DDIM in both forms. A corrector (UniPC) puts the polynomial through the output at s as well.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Le
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core.diffusion import Denoise, implied_eps
from ddpm_lab.core.path import Chain, Marginal, Step
from ddpm_lab.core.sampler import Settings, Spacing
from ddpm_lab.core.solver import Solver, combined
from ddpm_lab.core.types import Clip, Coefficient, Data
from ddpm_lab.domains import PositiveInt, checked

Order = Annotated[int, Ge(1), Le(6)]
"""Steps of order k extrapolate a polynomial of degree k − 1; beyond 6 they amplify any error of the network."""
TwoPoints = Literal["exact", "bh1", "bh2"]
"""How a polynomial through two points is integrated: exactly; or by its slope times h B(h)/2, with B(h) = h (bh1) or 1 − e^(−h)
(bh2), the simplification of UniPC for p = 2. The rule of DPM-Solver and DPM-Solver++(2M) is that of bh2, the midpoint."""


class Output(NamedTuple):
    """What the network gave at λ, as x̂_0 or ε̂."""

    lam: Coefficient
    value: Data


class History(NamedTuple):
    """What a multistep method keeps of the last step."""

    remaining: int
    """Steps to go."""
    outputs: tuple[Output, ...] = ()
    """Those that the step used, the newest first."""
    start: tuple[Data, Marginal] | None = None
    """The x_t that it left from, and its marginal."""


def half_log_snr(at: Marginal) -> Coefficient:
    """λ = log(√ᾱ/√(1−ᾱ)): +∞ at t = 0, −∞ where ᾱ_t = 0."""
    return at.signal_scale.log() - at.noise_scale.log()


def integral(distances: Sequence[Coefficient], values: Sequence[Data], h: Coefficient, two_points: TwoPoints = "exact") -> Data:
    """∫_0^h e^(−v) p(v) dv, p the polynomial through `values` at `distances` from v = 0; h may be infinite for one value."""
    moments = exponential_moments(h, len(values))
    if len(values) == 2 and two_points == "bh2":
        moments[1] = h / 2 * moments[0]
    elif len(values) == 2 and two_points == "bh1":
        moments[1] = h * moments[0] - h**2 / 2
    powers = torch.stack(list(distances)) ** torch.arange(len(values), dtype=torch.float64)[:, None]
    weights = torch.linalg.solve(powers, moments)
    return combined(weights.unbind(), values)


def exponential_moments(h: Coefficient, n: int) -> Float64[Tensor, " n"]:
    """∫_0^h e^(−v) v^j dv = j! P(j + 1, h) for j = 0..n−1, P the regularised incomplete gamma function."""
    j = torch.arange(1, n + 1, dtype=torch.float64)
    return torch.special.gammainc(j, h) * torch.lgamma(j).exp()


class Multistep(Solver[History]):
    """The family, in ε̂ or in x̂_0. The order rises from 1 to `order` over the first steps, and falls with the steps that are
    left: at t = 0 λ is infinite, so that the last step is DDIM's, as in diffusers with `final_sigmas_type=zero`."""

    corrects = False

    def __init__(self, steps: int | None, order: int, two_points: TwoPoints, spacing: Spacing, clip: Clip | None) -> None:
        super().__init__(steps, spacing, clip)
        self.order = order
        self.two_points: TwoPoints = two_points

    @property
    def settings(self) -> Settings:
        return {"order": self.order, "two_points": self.two_points}

    def start(self, chain: Chain) -> History:
        return History(len(chain))

    def step(self, denoise: Denoise, xt: Data, step: Step, z: Data | None, state: History) -> tuple[Data, Data, History]:
        x0 = denoise(xt, int(step.t)).x0
        new = Output(half_log_snr(step.at_t), self.output(x0, xt, step))
        if self.corrects and state.start is not None and state.outputs:
            xt = self.flow(*state.start, step.at_t, (new, *state.outputs))
        outputs = (new, *state.outputs)[: min(self.order, state.remaining)]
        xs = self.flow(xt, step.at_t, step.at_s, outputs)
        kept = outputs if new.lam.isfinite() else ()  # no polynomial passes through λ = −∞
        return xs, x0, History(state.remaining - 1, kept, (xt, step.at_t))

    def output(self, x0: Data, xt: Data, step: Step) -> Data:
        """What the method interpolates: x̂_0."""
        return x0

    def flow(self, x: Data, start: Marginal, end: Marginal, outputs: Sequence[Output]) -> Data:
        """x at `end` from x at `start`, in x̂_0."""
        lam = half_log_snr(end)
        distances, values = [lam - output.lam for output in outputs], [output.value for output in outputs]
        added = integral(distances, values, lam - half_log_snr(start), self.two_points)
        return end.noise_scale / start.noise_scale * x + end.signal_scale * added


@checked
class DPMSolver(Multistep):
    """Multistep DPM-Solver (Lu et al. 2022), in ε̂. Order 1 is DDIM. `midpoint` takes the paper's rule through two points, which
    diffusers has as `solver_type=midpoint`, in place of the exact integral (`heun`)."""

    def __init__(
        self,
        steps: PositiveInt | None = 20,
        order: Order = 2,
        midpoint: bool = False,
        spacing: Spacing = "trailing",
        clip: Clip | None = None,
    ) -> None:
        super().__init__(steps, order, "bh2" if midpoint else "exact", spacing, clip)

    def output(self, x0: Data, xt: Data, step: Step) -> Data:
        return implied_eps(x0, xt, step.at_t)

    def flow(self, x: Data, start: Marginal, end: Marginal, outputs: Sequence[Output]) -> Data:
        """The same in ε̂."""
        lam = half_log_snr(start)
        distances, values = [output.lam - lam for output in outputs], [output.value for output in outputs]
        added = integral(distances, values, half_log_snr(end) - lam, self.two_points)
        return end.signal_scale * (x / start.signal_scale - start.sigma * added)


@checked
class DPMSolverPP(Multistep):
    """Multistep DPM-Solver++ (Lu et al. 2022), in x̂_0: 2M and, of order 3, 3M. `midpoint` takes the rule through two points of
    DPM-Solver++ Algorithm 2 in place of the exact integral, from which it differs by O(h³) in a step. Order 1 is DDIM."""

    needs_signal = False

    def __init__(
        self,
        steps: PositiveInt | None = 20,
        order: Order = 2,
        midpoint: bool = False,
        spacing: Spacing = "trailing",
        clip: Clip | None = None,
    ) -> None:
        super().__init__(steps, order, "bh2" if midpoint else "exact", spacing, clip)


@checked
class UniPC(Multistep):
    """UniPC-p (Zhao et al. 2023) in x̂_0, p = `order`: the predictor is Adams–Bashforth, and the output at s, which
    the next step needs anyway, corrects x_s (Adams–Moulton). B(h) acts where a polynomial passes through two points, in the
    predictor of order 2 and the corrector of order 1; from more points all B(h) give the exact integral."""

    needs_signal, corrects = False, True

    def __init__(
        self,
        steps: PositiveInt | None = 20,
        order: Order = 3,
        B: Literal["bh1", "bh2"] = "bh2",
        spacing: Spacing = "trailing",
        clip: Clip | None = None,
    ) -> None:
        super().__init__(steps, order, B, spacing, clip)
