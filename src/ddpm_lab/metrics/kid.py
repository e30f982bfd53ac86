"""Kernel distance between two sets of features (Bińkowski et al. 2018): KID in those of Inception. Unbiased at every n."""

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.score import Score

DRAWS = 1
"""Counter under which subsets are drawn."""


def polynomial_kernel(x: Float64[Tensor, "m dim"], y: Float64[Tensor, "n dim"]) -> Float64[Tensor, "m n"]:
    """Bińkowski et al. 2018, Section 4: k(x, y) = (xᵀy / dim + 1)³."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def unbiased_mmd2(x: Float64[Tensor, "m dim"], y: Float64[Tensor, "n dim"]) -> float:
    """Gretton et al. 2012, Lemma 6: the squared maximum mean discrepancy without the diagonals, so it may fall below 0."""
    m, n = len(x), len(y)
    within_x, within_y, across = polynomial_kernel(x, x), polynomial_kernel(y, y), polynomial_kernel(x, y)
    same_x = (within_x.sum() - within_x.trace()) / (m * (m - 1))
    same_y = (within_y.sum() - within_y.trace()) / (n * (n - 1))
    return float(same_x + same_y - 2 * across.mean())


def kid(a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0, device: torch.device | str = "cpu") -> Score:
    """Mean of MMD² over `subsets` pairs of subsets, `size` features of each of N×dim and M×dim, drawn without replacement as in
    the paper; float64, memory flat in N. `std` is the spread over subsets, which published numbers give after ±.

    `se` is the standard error of the mean over new features: the delete-d jackknife (Shao & Wu 1989), as subsets leave out all
    but `size` of the smaller set, plus the variance of drawing finitely many subsets. None where nothing is left out.
    Raises UserError for subsets larger than a set.
    """
    fewest = min(len(a), len(b))
    if not 2 <= size <= fewest:
        raise UserError(f"kid: subsets of {size} features, and there are {len(a)} and {len(b)}: allowed is 2 to {fewest}.")
    values = torch.empty(subsets, dtype=torch.float64)
    for i in range(subsets):
        x, y = (features[_rows(len(features), size, seed, i, side)] for side, features in enumerate((a, b)))
        values[i] = unbiased_mmd2(x.to(device).double(), y.to(device).double())
    spread = values.var(correction=0)
    se = None if size == fewest else float((spread * (size / (fewest - size) + 1 / subsets)).sqrt())
    return Score(float(values.mean()), se, float(spread.sqrt()))


def _rows(n: int, size: int, seed: int, subset: int, side: int) -> Int[Tensor, " size"]:
    """Indices of one subset among n features."""
    return torch.randperm(n, generator=rng.generator(seed, "evaluation", DRAWS, subset, side))[:size]
