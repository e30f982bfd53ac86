"""Improved precision and recall (Kynkäänniemi et al. 2019): the share of samples in the manifold of the data, and of data in
that of the samples. A manifold is the union of balls around features, of the distance to the k-th neighbour as radius."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.score import Score


class PrecisionRecallScores(NamedTuple):
    precision: Score
    recall: Score


def precision_recall(
    samples: Tensor, real: Tensor, k: int = 3, block: int = 2048, device: torch.device | str = "cpu"
) -> PrecisionRecallScores:
    """Kynkäänniemi et al. 2019 Eq. 2, from features N×dim and M×dim (the paper: 50,000 of each; both numbers change with N and
    M). Distances are float64, `block`×`block` at a time. `se` is binomial, for a fixed
    manifold. Raises UserError for sets of k features or fewer."""
    fewest = min(len(samples), len(real))
    if fewest <= k:
        raise UserError(f"precision and recall: {fewest} features have no {k}-th neighbour each: at least {k + 1} are needed.")
    of_samples, of_real = (squared_radii(x, k, block, device) for x in (samples, real))
    precise, recalled = (torch.zeros(len(x), dtype=torch.bool, device=device) for x in (samples, real))
    for i, x in _blocks(samples, block, device):
        for j, y in _blocks(real, block, device):
            distance = squared_distances(x, y)
            precise[i] |= (distance <= of_real[j]).any(1)
            recalled[j] |= (distance <= of_samples[i, None]).any(0)
    return PrecisionRecallScores(_share(precise), _share(recalled))


def squared_radii(features: Tensor, k: int, block: int, device: torch.device | str) -> Float64[Tensor, " n"]:
    """Kynkäänniemi et al. 2019 Eq. 1, squared: from each feature to its k-th neighbour other than itself."""
    radii = []
    for i, x in _blocks(features, block, device):
        nearest = torch.full((len(x), k), torch.inf, dtype=torch.float64, device=device)
        for j, y in _blocks(features, block, device):
            distance = squared_distances(x, y)
            if i == j:
                distance.fill_diagonal_(torch.inf)
            nearest = torch.cat([nearest, distance], 1).topk(k, largest=False).values
        radii.append(nearest[:, -1])
    return torch.cat(radii)


def squared_distances(x: Float64[Tensor, "m dim"], y: Float64[Tensor, "n dim"]) -> Float64[Tensor, "m n"]:
    """|x − y|² by one matrix product, exactly 0 between equal features."""
    norms = (x**2).sum(1)[:, None] + (y**2).sum(1)
    distance = norms - 2 * x @ y.T
    return distance.masked_fill_(distance < 1e-14 * norms, 0)


def _blocks(features: Tensor, block: int, device: torch.device | str) -> Iterator[tuple[slice, Float64[Tensor, "rows dim"]]]:
    for start in range(0, len(features), block):
        rows = slice(start, min(start + block, len(features)))
        yield rows, features[rows].to(device).double()


def _share(inside: Bool[Tensor, " n"]) -> Score:
    share = float(inside.double().mean())
    return Score(share, (share * (1 - share) / len(inside)) ** 0.5)
