"""Whether samples are copies of training data, by distances to the nearest of them: C_T and authenticity."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from scipy.stats import ranksums
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.scores import Score, blocks, share_of, squared_distances


class CopyScores(NamedTuple):
    """What `copies` measures."""

    c_t: Score
    authenticity: Score
    of_held_out: Score
    """The authenticity of the held-out data: what samples of the very distribution would have."""


def copies(
    samples: Tensor, held_out: Tensor, training: Tensor, block: int = 2048, device: torch.device | str = "cpu"
) -> CopyScores:
    """From features N×dim, M×dim and K×dim; distances are float64, `block`×`block` at a time.

    C_T (Meehan et al. 2020, Section 3.1, in one cell): the z-score of the Mann-Whitney U of distances to the nearest training
    datum, of samples against held-out data. Below 0 samples are nearer. Standard normal where both distances have one
    distribution; elsewhere it grows as the root of N and M.

    Authenticity (Alaa et al. 2022, Section 3.3): the share of samples that are farther from their nearest training datum than
    that one is from its own nearest. `se` is binomial, for fixed training data. Raises UserError where there is no sample, no
    held-out datum, or only one of training.
    """
    n, m, k = map(len, (samples, held_out, training))
    if min(n, m) < 1 or k < 2:
        raise UserError(f"copies: {n} samples, {m} held-out and {k} training data: at least 1, 1 and 2 are needed.")
    of_each = [nearest(features, training, block, device) for features in (samples, held_out)]
    distances, places = (torch.cat(parts) for parts in zip(*of_each, strict=True))
    neighbours, which = places.unique(return_inverse=True)
    own = [nearest(training[some.cpu()], training, block, device, some).distances for some in neighbours.split(block)]
    authentic = (distances > torch.cat(own)[which]).double()
    of_samples, of_held_out = (part.cpu().numpy() for part in distances.split([n, m]))
    c_t = ranksums(of_samples, of_held_out).statistic
    shares = (share_of(float(part.mean()), len(part)) for part in authentic.split([n, m]))
    return CopyScores(Score(float(c_t), None), *shares)


class Nearest(NamedTuple):
    """Of each of n features the squared distance to the nearest training feature, and its place; the first of equals."""

    distances: Float64[Tensor, " n"]
    places: Int[Tensor, " n"]


def nearest(
    features: Tensor, training: Tensor, block: int, device: torch.device | str, but: Int[Tensor, " n"] | None = None
) -> Nearest:
    """`but`: places of training features that do not count, one for each feature."""
    found = []
    for i, x in blocks(features, block, device):
        least = torch.full((len(x),), torch.inf, dtype=torch.float64, device=device)
        places = torch.zeros(len(x), dtype=torch.int64, device=device)
        for j, y in blocks(training, block, device):
            distance = squared_distances(x, y)
            if but is not None:
                distance.masked_fill_(but[i, None] == torch.arange(j.start, j.stop, device=device), torch.inf)
            here, at = distance.min(1)
            places = places.where(here >= least, at + j.start)
            least = least.minimum(here)
        found.append((least, places))
    return Nearest(*(torch.cat(parts) for parts in zip(*found, strict=True)))
