"""The times that give the lowest variational bound in a given number of steps.

The bound of a chain 0 = t_0 < t_1 < … < t_N = T is L_T and one cost for each step (Watson et al. 2021, "Learning to
efficiently sample from diffusion probabilistic models"). Under a σ² that does not depend on x_t a cost follows from what the
network errs by at t alone: the means of q(x_s | x_t, x_0) and p_θ(x_s | x_t) differ by c (x_0 − x̂_0), c the share of x_0 in the
mean. So one measurement at every t gives the bound of every chain, in expectation over data and noise.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from ddpm_lab.core.gaussian import Normal, kl_nats, log_density_nats
from ddpm_lab.core.path import NoiseSchedule, Step, transition
from ddpm_lab.core.spacing import check_number
from ddpm_lab.core.types import Incompatible
from ddpm_lab.core.variance import ReverseVariance, Seen
from ddpm_lab.domains import PositiveInt, checked

LOG_VARIANCES = math.log(2) * torch.linspace(-20, 2, 45, dtype=torch.float64)
"""log σ² at which the decoder's term of data with grey levels is measured. The least σ is a quarter of half a level of 256."""
TOGETHER = 2**20
"""Steps whose costs are computed at once."""


class Errors(NamedTuple):
    """What a network errs by at t = 1..T, as means over data, noise and dimensions."""

    square: Float64[Tensor, " T"]
    """E‖x_0 − x̂_0‖²/d, x̂_0 clipped as in the bound."""
    decoder: Float64[Tensor, "T V"] | None
    """−log p_θ(x_0 | x_t) of the step to s = 0, nats per dimension, at each of `LOG_VARIANCES`; None for data without grey
    levels, whose Gaussian density needs E‖x_0 − x̂_0‖² alone."""


class Costs(NamedTuple):
    """Of each step, in nats per dimension; infinite where s ≥ t. Rows are s = 1..T, columns t = 1..T."""

    between: Float64[Tensor, "T T"]
    """The divergence of the step from t to s."""
    opening: Float64[Tensor, "T T"]
    """The same with the decoder's term of the step from s to 0, whose σ² may be that of the second step: see `Step`."""
    alone: Float64[Tensor, ""]
    """The decoder's term of the one step from T to 0."""


def costs(schedule: NoiseSchedule, variance: ReverseVariance, errors: Errors) -> Costs:
    """The terms of DDPM Eq. 5 for every s < t, by the errors at t. For the variance of Bao et al. 2022 (Analytic-DPM) a
    divergence is ½ log(σ²/β̃), as far as the network is E[x_0 | x_t]. Raises Incompatible for a variance that is not `fixed`."""
    if not variance.fixed:
        raise Incompatible(f"{type(variance).__name__} gives no σ² that is the same for every x_t", "sampler", "variance")
    ab, T, zero = schedule.alphas_bar, schedule.T, torch.zeros((), dtype=torch.float64)

    def log_var(step: Step) -> Tensor:
        return variance.covariance(Seen(zero, step, zero, None)).log_var()

    between, opening = torch.full((2, T, T), math.inf, dtype=torch.float64)
    for s, t in map(torch.unbind, (torch.triu_indices(T, T, 1) + 1).split(TOGETHER, dim=1)):
        later = transition(ab, s, t)
        first = transition(ab, torch.zeros_like(s), s)._replace(log_beta_tilde=later.log_beta_tilde)
        shift = later.posterior.x0_coef * errors.square[t - 1].sqrt()
        divergence = kl_nats(Normal(shift, later.log_beta_tilde), Normal(zero, log_var(later)))
        between[s - 1, t - 1] = divergence
        opening[s - 1, t - 1] = divergence + decoder_cost(errors, s, log_var(first))
    alone = decoder_cost(errors, torch.tensor(T), log_var(schedule.chain((T,))[T]))
    return Costs(between, opening, alone)


def decoder_cost(errors: Errors, t: Int64[Tensor, "*n"], log_var: Float64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
    """DDPM Eq. 5, L_0 in nats per dimension where the step to 0 leaves from t: the Gaussian density, or with grey levels what
    was measured, linear between `LOG_VARIANCES`."""
    if errors.decoder is None:
        return -log_density_nats(errors.square[t - 1].sqrt(), Normal(torch.zeros_like(log_var), log_var))
    place = (log_var - LOG_VARIANCES[0]) / (LOG_VARIANCES[1] - LOG_VARIANCES[0])
    place = place.clamp(0, len(LOG_VARIANCES) - 1)
    low = place.long().clamp(max=len(LOG_VARIANCES) - 2)
    return torch.lerp(errors.decoder[t - 1, low], errors.decoder[t - 1, low + 1], place - low)


@checked
def cheapest(costs: Costs, n: PositiveInt) -> tuple[int, ...]:
    """The n increasing times, T the last, whose costs add up to least, by dynamic programming in O(n T²): Watson et al. 2021.
    The least cost of reaching t in k steps is that of reaching some s < t in k − 1 steps, and of the step from t to s. The
    search starts from the first two steps, whose costs depend on each other. Raises Incompatible for n > T."""
    T = len(costs.between)
    check_number(T, n)
    if n == 1:
        return (T,)
    least, before = costs.opening.min(0)
    came_from, between = [before], costs.between.T.contiguous()
    for _ in range(n - 2):
        least, before = (least + between).min(1)
        came_from.append(before)
    times = [T]
    for before in reversed(came_from):
        times.append(int(before[times[-1] - 1]) + 1)
    return tuple(reversed(times))
