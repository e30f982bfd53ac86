"""The Fréchet distance extrapolated to infinitely many samples: FID∞ (Chong & Forsyth 2020)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.frechet import Moments, frechet_to, stats_of
from ddpm_lab.metrics.score import Score

DRAWS = 2
"""Counter under which sub-samples are drawn."""


def fd_infinity(features: Tensor, reference: Moments, points: int = 15, smallest: int | None = None, seed: int = 0) -> Score:
    """Chong & Forsyth 2020: the bias of the distance is linear in 1/n, so a line through the distances of `points`
    sub-samples of the N×dim features, with sizes spaced evenly from `smallest` to N, has the unbiased distance at 1/n = 0.
    The bias due to the size of the reference remains.

    `smallest` None is N / 10 as in the paper (5,000 of 50,000), but at least 2·dim: where the covariance is singular the bias
    is not linear. `se` is that of the fitted intercept; the sub-samples share features, so it understates the spread between
    independent sets of samples. Raises UserError for N below twice `smallest`.
    """
    n, dim = features.shape
    first = max(n // 10, 2 * dim) if smallest is None else smallest
    if points < 3 or first < 2 or n < max(2 * first, first + points):
        raise UserError(
            f"Fréchet distance at infinity: a line through {points} sizes from {first} features on takes at least 3 sizes and "
            f"{max(2 * first, first + points)} features, and there are {n} of {dim} dimensions."
        )
    sizes, distance = torch.linspace(first, n, points).int().tolist(), frechet_to(reference)
    distances = [distance(stats_of(_sub_sample(features, size, seed, i))) for i, size in enumerate(sizes)]
    return intercept(1 / torch.tensor(sizes, dtype=torch.float64), torch.tensor(distances, dtype=torch.float64))


def intercept(x: Float64[Tensor, " n"], y: Float64[Tensor, " n"]) -> Score:
    """Intercept of the least-squares line, with its standard error from the residuals."""
    centred = x - x.mean()
    slope = (centred * y).sum() / (centred**2).sum()
    value = y.mean() - slope * x.mean()
    variance = ((y - value - slope * x) ** 2).sum() / (len(x) - 2)
    return Score(float(value), float((variance * (1 / len(x) + x.mean() ** 2 / (centred**2).sum())).sqrt()))


def _sub_sample(features: Tensor, size: int, seed: int, point: int) -> list[Tensor]:
    """`size` features, in pieces."""
    rows = torch.randperm(len(features), generator=rng.generator(seed, "evaluation", DRAWS, point))[:size]
    return [features[piece] for piece in rows.split(4096)]
