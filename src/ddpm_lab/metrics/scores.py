"""Scores that need more than moments: the distance at infinity, KID, Inception Score, precision and recall."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.frechet import Moments, frechet_distance, stats_of, symmetric_sqrt

KID_DRAWS, FD_INF_DRAWS, MIND_DRAWS, DATA_DRAWS = 1, 2, 3, 4
"""Counters under which features are drawn, projections of them, and data where not all count."""


class Score(NamedTuple):
    """A measured number. `se`: standard error of the value, None where it is not known. `std`: spread over splits or subsets,
    which published numbers give after ±; it is not a standard error. None where a number has none."""

    value: float
    se: float | None
    std: float | None = None


def drawn(n: int, size: int, seed: int, *counters: int) -> Int[Tensor, " size"]:
    """Indices of `size` among n features, without replacement."""
    return torch.randperm(n, generator=rng.generator(seed, "evaluation", *counters))[:size]


def subset(features: Tensor, n: int, seed: int = 0) -> Tensor:
    """n of the N×dim features of real data, drawn without replacement; all of them in their order where there are no more. Data
    may be sorted by class, so the first n may be of few classes."""
    return features if n >= len(features) else features[drawn(len(features), n, seed, DATA_DRAWS)]


def fd_infinity(features: Tensor, reference: Moments, points: int = 15, smallest: int | None = None, seed: int = 0) -> Score:
    """FID∞ (Chong & Forsyth 2020): the bias of the distance is linear in 1/n, so a line through the distances of `points`
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
    sizes, root = torch.linspace(first, n, points).int().tolist(), symmetric_sqrt(reference.cov)
    distances = []
    for i, size in enumerate(sizes):
        rows = drawn(n, size, seed, FD_INF_DRAWS, i)
        distances.append(frechet_distance(reference, stats_of(features[piece] for piece in rows.split(4096)), root))
    return intercept(1 / torch.tensor(sizes, dtype=torch.float64), torch.tensor(distances, dtype=torch.float64))


def intercept(x: Float64[Tensor, " n"], y: Float64[Tensor, " n"]) -> Score:
    """Intercept of the least-squares line, with its standard error from the residuals."""
    centred = x - x.mean()
    slope = (centred * y).sum() / (centred**2).sum()
    value = y.mean() - slope * x.mean()
    variance = ((y - value - slope * x) ** 2).sum() / (len(x) - 2)
    return Score(float(value), float((variance * (1 / len(x) + x.mean() ** 2 / (centred**2).sum())).sqrt()))


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
    """Kernel distance between two sets of features (Bińkowski et al. 2018), KID in those of Inception; unbiased at every n.

    Mean of MMD² over `subsets` pairs of subsets, `size` features of each of N×dim and M×dim, drawn without replacement as in
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
        x, y = (features[drawn(len(features), size, seed, KID_DRAWS, i, side)] for side, features in enumerate((a, b)))
        values[i] = unbiased_mmd2(x.to(device).double(), y.to(device).double())
    spread = values.var(correction=0)
    se = None if size == fewest else float((spread * (size / (fewest - size) + 1 / subsets)).sqrt())
    return Score(float(values.mean()), se, float(spread.sqrt()))


class ClassSums(NamedTuple):
    """Sums over the samples of each split, for the Inception Score: memory is flat in n. Sample i belongs to split i mod S, so
    that no order of the samples, such as by class, concentrates similar samples in one split."""

    n: Float64[Tensor, " S"]
    entropy: Float64[Tensor, " S"]
    """Σ H(p(y|x)), in nats."""
    probability: Float64[Tensor, "S classes"]
    """Σ p(y|x)."""

    @classmethod
    def empty(cls, classes: int, splits: int = 10) -> "ClassSums":
        n, entropy = torch.zeros(2, splits, dtype=torch.float64)
        return cls(n, entropy, torch.zeros(splits, classes, dtype=torch.float64))

    def add(self, logits: Tensor, first: int) -> "ClassSums":
        """With N×classes logits of the samples first, first + 1, …"""
        p = logits.detach().to(self.probability).softmax(1)
        split = (first + torch.arange(len(logits), device=p.device)) % len(self.n)
        return ClassSums(
            self.n + torch.bincount(split, minlength=len(self.n)),
            self.entropy.index_add(0, split, torch.special.entr(p).sum(1)),
            self.probability.index_add(0, split, p),
        )


def inception_score(sums: ClassSums) -> Score:
    """Salimans et al. 2016, Section 4: exp E_x KL(p(y|x) ‖ p(y)), mean over the splits. `std` is that over splits, as
    published; `se` the standard error of their mean, None for one split. The score rises with n. Raises UserError for fewer
    samples than splits."""
    n, entropy, probability = sums
    splits = len(n)
    if (n == 0).any():
        raise UserError(f"inception score: {int(n.sum())} samples do not fill {splits} splits: use fewer splits.")
    marginal = probability / n[:, None]
    scores = (torch.special.entr(marginal).sum(1) - entropy / n).exp()  # E_x KL(p(y|x) ‖ p(y)) = H(p(y)) − E_x H(p(y|x))
    se = float(scores.std() / splits**0.5) if splits > 1 else None
    return Score(float(scores.mean()), se, float(scores.std(correction=0)))


class PrecisionRecallScores(NamedTuple):
    """The share of samples in the manifold of the data, and of data in that of the samples. A manifold is the union of balls
    around features, of the distance to the k-th neighbour as radius."""

    precision: Score
    recall: Score


def precision_recall(
    samples: Tensor, real: Tensor, k: int = 3, block: int = 2048, device: torch.device | str = "cpu"
) -> PrecisionRecallScores:
    """Improved precision and recall, Kynkäänniemi et al. 2019 Eq. 2, from features N×dim and M×dim (the paper: 50,000 of each;
    both numbers change with N and M). Distances are float64, `block`×`block` at a time. `se` is binomial, for a fixed manifold.
    Raises UserError for sets of k features or fewer."""
    fewest = min(len(samples), len(real))
    if fewest <= k:
        raise UserError(f"precision and recall: {fewest} features have no {k}-th neighbour each: at least {k + 1} are needed.")
    of_samples, of_real = (squared_radii(x, k, block, device) for x in (samples, real))
    precise, recalled = (torch.zeros(len(x), dtype=torch.bool, device=device) for x in (samples, real))
    for i, x in blocks(samples, block, device):
        for j, y in blocks(real, block, device):
            distance = squared_distances(x, y)
            precise[i] |= (distance <= of_real[j]).any(1)
            recalled[j] |= (distance <= of_samples[i, None]).any(0)
    return PrecisionRecallScores(*(share_of(float(inside.double().mean()), len(inside)) for inside in (precise, recalled)))


def squared_radii(features: Tensor, k: int, block: int, device: torch.device | str) -> Float64[Tensor, " n"]:
    """Kynkäänniemi et al. 2019 Eq. 1, squared: from each feature to its k-th neighbour other than itself."""
    radii = []
    for i, x in blocks(features, block, device):
        nearest = torch.full((len(x), k), torch.inf, dtype=torch.float64, device=device)
        for j, y in blocks(features, block, device):
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


def blocks(features: Tensor, block: int, device: torch.device | str) -> Iterator[tuple[slice, Float64[Tensor, "rows dim"]]]:
    """Features N×dim in float64, `block` at a time, with their places."""
    for start in range(0, len(features), block):
        rows = slice(start, min(start + block, len(features)))
        yield rows, features[rows].to(device).double()


def share_of(share: float, n: int) -> Score:
    """A share of n with its binomial standard error; none where all or none are in it, which says nothing of the error."""
    return Score(share, (share * (1 - share) / n) ** 0.5 if 0 < share < 1 else None)
