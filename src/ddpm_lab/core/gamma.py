"""γ, the log of noise over signal, along continuous time: ᾱ = sigmoid(−γ) (VDM, Kingma et al. 2021, section 3.1).

A place u in [0, 1] stands for the time t = 1 + u (T − 1). γ rises from the first time that is noised to the last, and a table
of any T is read off it. A fixed schedule is interpolated; a learned one is a monotone network.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
from annotated_types import Ge, Le
from jaxtyping import Float64
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm_lab.core.path import Marginal, NoiseSchedule, Step
from ddpm_lab.core.types import Incompatible, PerExample
from ddpm_lab.domains import checked

Along = Float64[Tensor, "..."]
"""One number for each place u."""
LEAST = 0.01
"""Share of a learned γ that stays a line."""
ENDS = -20.0, 30.0
"""Of a learned γ: below, float64 cannot tell ᾱ_1 from ᾱ_2."""


class OnPath(NamedTuple):
    """γ and its derivative by the place."""

    gamma: Along
    rate: Along


class Path(ABC):
    """γ(u), rising strictly over u in [0, 1], in float64 and differentiable by whatever parameters it has."""

    @abstractmethod
    def at(self, u: Along) -> OnPath:
        """At places on the device of the path."""

    def alphas_bar(self, T: int) -> Float64[Tensor, " times"]:
        """ᾱ_0..ᾱ_T of the table with T times, two or more: ᾱ_0 = 1, and the others evenly spaced in place."""
        gamma = self.at(torch.linspace(0, 1, T, dtype=torch.float64, device=self.device)).gamma
        return torch.cat([torch.ones_like(gamma[:1]), torch.sigmoid(-gamma)])

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


class Interpolated(Path):
    """γ of a table, linear between whole times. Raises Incompatible for fewer than two times, and where ᾱ_T = 0."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        if schedule.T < 2 or schedule.reaches_zero:
            raise Incompatible(
                f"continuous time needs two times or more with 0 < ᾱ_t < 1; there are T = {schedule.T} and ᾱ_T = "
                f"{float(schedule.alphas_bar[-1]):.3g}",
                "schedule",
                "time",
            )
        self._gamma = -torch.logit(schedule.alphas_bar[1:])

    def at(self, u: Along) -> OnPath:
        n = len(self._gamma) - 1
        low = (u * n).long().clamp(0, n - 1)
        one, other = self._gamma[low], self._gamma[low + 1]
        return OnPath(torch.lerp(one, other, u * n - low), (other - one) * n)

    def place(self, gamma: Along) -> Along:
        """The inverse: where γ lies, between its ends."""
        n = len(self._gamma) - 1
        low = (torch.searchsorted(self._gamma, gamma, right=True) - 1).clamp(0, n - 1)
        one, other = self._gamma[low], self._gamma[low + 1]
        return (low + (gamma - one) / (other - one)) / n


class Monotone(nn.Module, Path):
    """A learned γ, monotone as that of VDM's appendix H: γ_0 + (γ_1 − γ_0) times a share, (f(u) − f(0)) / (f(1) − f(0)), with
    f(u) = a u + Σ_j v_j sigmoid(w_j (u − c_j)), a, v, w > 0: a line plus logistic bumps. A hundredth of the share is u itself,
    so that γ rises whatever is learned. It starts close to a line. `learn_ends`: γ_0 and γ_1 are parameters too. Computed in
    float64, from parameters of any type."""

    def __init__(self, first: float, last: float, bumps: int, learn_ends: bool) -> None:
        super().__init__()
        self.slope = nn.Parameter(_before_softplus(torch.tensor(0.5)))
        self.heights = nn.Parameter(_before_softplus(torch.full((bumps,), 0.5 / bumps)))
        self.widths = nn.Parameter(_before_softplus(torch.full((bumps,), float(bumps))))
        self.centres = nn.Parameter((torch.arange(bumps) + 0.5) / bumps)
        self.first = nn.Parameter(torch.tensor(float(first)), requires_grad=learn_ends)
        self.rise = nn.Parameter(_before_softplus(torch.tensor(float(last - first))), requires_grad=learn_ends)

    @property
    def device(self) -> torch.device:
        return self.slope.device

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """γ_0 and γ_1, within `ENDS` however they are trained, and 1 apart or more."""
        first = self.first.double().clamp(ENDS[0], ENDS[1] - 1)
        return first, (first + F.softplus(self.rise.double()).clamp(min=1)).clamp(max=ENDS[1])

    def at(self, u: Along) -> OnPath:
        return self.between(*self.share(u))

    def trained_at(self, u: Along) -> tuple[OnPath, "ByVariance"]:
        """The same, for a loss whose mean depends on γ's ends alone."""
        share, rate = self.share(u)
        return self.between(share, rate), ByVariance(share, rate)

    def between(self, share: Along, rate: Along) -> OnPath:
        """γ where a share of its rise lies behind, and its derivative from that of the share."""
        first, last = self.ends
        return OnPath(first + (last - first) * share, (last - first) * rate)

    def share(self, u: Along) -> tuple[Along, Along]:
        """Of the rise, and its derivative."""
        a, v, w = (F.softplus(p.double()) for p in (self.slope, self.heights, self.widths))
        bumps = torch.sigmoid(w * (u[..., None] - self.centres.double()))
        low, high = (torch.sigmoid(w * (end - self.centres.double())) @ v for end in (0.0, 1.0))
        span = (a + high - low) / (1 - LEAST)
        share, rate = (a * u + bumps @ v - low) / span, (a + (w * bumps * (1 - bumps)) @ v) / span
        return LEAST * u + share, LEAST + rate


class ByVariance:
    """VDM appendix I.2: the bound does not depend on γ between its ends, and what is left to train there is the variance of
    its estimate. The gradient of an unbiased estimate L from one datum becomes that of L², 2 L ∇L: datum by datum, so that it
    does not matter how a batch is shared. `loss` is the L of each, to be set before backward."""

    loss: PerExample

    def __init__(self, *shape: Tensor) -> None:
        for tensor in shape:
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: 2 * self.loss.to(gradient) * gradient)


def _before_softplus(x: Tensor) -> Tensor:
    """What softplus makes x of, for x > 0."""
    return x + torch.log(-torch.expm1(-x))


@dataclass(frozen=True, eq=False)
class ReadOff(NoiseSchedule):
    """A table read off γ. The network is told γ, scaled to 0..1000 between its ends, and no t: x_t of one γ are alike whatever
    the table (VDM section 3.2)."""

    path: "Monotone" = field(kw_only=True)
    ends: tuple[Tensor, Tensor] = field(kw_only=True)
    """γ at u = 0 and 1; with a gradient in training."""

    def __post_init__(self) -> None:
        if not self.alphas_bar.requires_grad:  # in training nobody waits for the device to look
            super().__post_init__()

    @property
    def trained_ends(self) -> bool:
        return self.ends[1].requires_grad

    def told(self, t: Tensor, step: Step) -> Tensor:
        first, last = self.ends
        told = 1000 * (2 * step.at_t.sigma.log() - first) / (last - first)
        return told.flatten() if told.ndim else torch.full(t.shape, float(told), device=t.device)


@dataclass(frozen=True, eq=False)
class LearnedSchedule(NoiseSchedule):
    """The table that a learned γ starts from, and how it is learned."""

    path: Callable[[], "Monotone"] = field(kw_only=True)
    """Makes γ as it is before training."""


def read_off(path: Monotone, T: int) -> ReadOff:
    """The table of T times as γ stands, with its gradient."""
    return ReadOff(path.alphas_bar(T), path=path, ends=path.ends)


@torch.inference_mode(False)  # in which Lightning validates: training goes on with this table
@torch.no_grad()
def fixed(path: Monotone, T: int) -> ReadOff:
    """The same without, on the CPU."""
    first, last = path.ends
    return ReadOff(path.alphas_bar(T).cpu(), path=path, ends=(first.detach().cpu(), last.cpu()))


@checked
def learned(
    T: Annotated[int, Ge(2), Le(10**6)] = 1000,
    gamma_min: float = -13.3,
    gamma_max: float = 5.0,
    learn_ends: bool = False,
    bumps: Annotated[int, Ge(1), Le(1024)] = 64,
) -> LearnedSchedule:
    """VDM (Kingma et al. 2021), section 3.1: γ is a monotone network, trained with the bound, from `gamma_min` to `gamma_max`,
    the paper's ends for 256 grey levels. It starts close to a line. `learn_ends` trains them too; `bumps` are hidden units.
    Raises ValueError where nothing is left to learn, and where float64 could not tell ᾱ of neighbouring times."""
    if not (ENDS[0] <= gamma_min <= gamma_max - 1 and gamma_max <= ENDS[1]):
        allowed = f"gamma_min >= {ENDS[0]:g}, gamma_max <= {ENDS[1]:g}, 1 apart or more"
        raise ValueError(f"gamma_min={gamma_min} gamma_max={gamma_max}: allowed is {allowed}")
    if T == 2 and not learn_ends:
        raise ValueError("T=2: γ is held at both times, and nothing is learned: allowed is T >= 3, or learn_ends=true")
    line = gamma_min + torch.tensor([0.0, LEAST * (gamma_max - gamma_min) / (T - 1)], dtype=torch.float64)
    if float(-torch.sigmoid(-line).diff()) < 2.0**-52:
        raise ValueError(
            f"gamma_min={gamma_min} gamma_max={gamma_max} T={T}: float64 cannot tell ᾱ of neighbouring times: allowed are ends "
            "further apart, a larger gamma_min, or a smaller T"
        )
    path = functools.partial(Monotone, gamma_min, gamma_max, bumps, learn_ends)
    return LearnedSchedule(path().alphas_bar(T).detach(), path=path)


def marginal_of(gamma: Along) -> Marginal:
    """DDPM Eq. 4 at γ: √sigmoid(−γ) and √sigmoid(γ)."""
    return Marginal(torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt())
