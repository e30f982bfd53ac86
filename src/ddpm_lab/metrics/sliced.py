"""MIND: the sliced Wasserstein distance between two sets of features (Berthet et al. 2026)."""

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import normalize

from ddpm_lab.core import rng
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.scores import MIND_DRAWS, Score

TOGETHER = 64
"""Projections of all features that are in memory at once."""


def mind(samples: Tensor, real: Tensor, projections: int = 1000, seed: int = 0, device: torch.device | str = "cpu") -> Score:
    """3·dim times the mean, over random unit vectors u, of the squared Wasserstein-2 distance between the n numbers Xu and the
    n numbers Yu, which sorting gives exactly (Berthet et al. 2026). Features n×dim each; float64.

    It tends to 3|μ_x − μ_y|² between Gaussians of equal covariances as n grows. At finite n it is larger, and above 0 for two
    sets of one distribution. `se` is over new samples, data and projections. For the first two it is that of the potentials
    of the transport, by which the distance changes with each feature (del Barrio & Loubes 2019). It is too large where the two
    distributions are nearly equal. Raises UserError for sets of different sizes, or fewer than 2 features or projections.
    """
    n, dim = samples.shape
    if len(real) != n or min(n, projections) < 2:
        raise UserError(f"mind: {n} and {len(real)} features, {projections} projections: allowed are n and n, and at least 2.")
    numbers = rng.generator(seed, "evaluation", MIND_DRAWS)
    directions = normalize(torch.randn(projections, dim, dtype=torch.float64, generator=numbers)).to(device)
    squares, potentials = [], torch.zeros(2, n, dtype=torch.float64, device=device)
    for some in directions.split(TOGETHER):
        (x, of_x), (y, of_y) = (projected(features, some).sort(1) for features in (samples, real))
        apart = x - y
        squares.append((apart**2).mean(1))
        slopes = apart[:, 1:] + apart[:, :-1]
        for total, order, along in zip(potentials, (of_x, of_y), (x, y), strict=True):
            total.index_add_(0, order[:, 1:].flatten(), (slopes * along.diff()).cumsum(1).flatten())
    each = torch.cat(squares)
    variance = (potentials / projections).var(1).sum() / n + each.var() / projections
    return Score(3 * dim * float(each.mean()), 3 * dim * float(variance.sqrt()))


def projected(features: Tensor, directions: Float64[Tensor, "K dim"], block: int = 4096) -> Float64[Tensor, "K n"]:
    """Xu for each direction u, from features n×dim."""
    return torch.cat([directions @ rows.to(directions).T for rows in features.split(block)], 1)
