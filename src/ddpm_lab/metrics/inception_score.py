"""Inception Score (Salimans et al. 2016, Section 4) from sums over logits: memory is flat in n."""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.score import Score


class ClassSums(NamedTuple):
    """Sums over the samples of each split. Sample i belongs to split i mod S, so that no order of the samples, such as by
    class, concentrates similar samples in one split."""

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

    def plus(self, other: "ClassSums") -> "ClassSums":
        """The sums of both sets of samples."""
        return ClassSums(*(a + b for a, b in zip(self, other, strict=True)))


def inception_score(sums: ClassSums) -> Score:
    """exp E_x KL(p(y|x) ‖ p(y)), mean over the splits. `std` is that over splits, as published; `se` the standard error of
    their mean, None for one split. The score rises with n. Raises UserError for fewer samples than splits."""
    n, entropy, probability = sums
    splits = len(n)
    if (n == 0).any():
        raise UserError(f"inception score: {int(n.sum())} samples do not fill {splits} splits: use fewer splits.")
    marginal = probability / n[:, None]
    scores = (torch.special.entr(marginal).sum(1) - entropy / n).exp()  # E_x KL(p(y|x) ‖ p(y)) = H(p(y)) − E_x H(p(y|x))
    se = float(scores.std() / splits**0.5) if splits > 1 else None
    return Score(float(scores.mean()), se, float(scores.std(correction=0)))
