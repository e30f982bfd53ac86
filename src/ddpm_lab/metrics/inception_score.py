"""Inception Score (Salimans et al. 2016, Section 4) from logits that come in batches: memory is flat in n."""

import torch
from torch import Tensor

from ddpm_lab.errors import UserError
from ddpm_lab.metrics.score import Score


class InceptionScore:
    """exp E_x KL(p(y|x) ‖ p(y)), mean over `splits` parts of the samples: sample i is in part i mod `splits`, so that no order
    of the samples, as by class, gathers alike ones in one part. Of each part sums are kept, in float64."""

    def __init__(self, classes: int, splits: int = 10) -> None:
        self.n = torch.zeros(splits, dtype=torch.float64)
        self._entropy = torch.zeros(splits, dtype=torch.float64)
        self._probability = torch.zeros(splits, classes, dtype=torch.float64)

    def add(self, logits: Tensor, first: int) -> "InceptionScore":
        """Logits N×classes of the samples number `first` and on; returns itself."""
        p = logits.detach().double().cpu().softmax(1)
        part = (first + torch.arange(len(logits))) % len(self.n)
        self.n += torch.bincount(part, minlength=len(self.n))
        self._entropy.index_add_(0, part, torch.special.entr(p).sum(1))
        self._probability.index_add_(0, part, p)
        return self

    def plus(self, other: "InceptionScore") -> "InceptionScore":
        """Of both together: one process's samples and another's."""
        both = InceptionScore(self._probability.shape[1], len(self.n))
        both.n, both._entropy = self.n + other.n, self._entropy + other._entropy
        both._probability = self._probability + other._probability
        return both

    def score(self) -> Score:
        """`std` is that over parts, as published; `se` the standard error of their mean, None for one part. The score rises
        with n, so it has n in its name. Raises UserError where there are fewer samples than parts."""
        splits = len(self.n)
        if (self.n == 0).any():
            raise UserError(f"inception score: {int(self.n.sum())} samples do not fill {splits} splits: use fewer splits.")
        marginal = self._probability / self.n[:, None]
        scores = (
            torch.special.entr(marginal).sum(1) - self._entropy / self.n
        ).exp()  # KL is the entropy that y gains without x
        se = float(scores.std() / splits**0.5) if splits > 1 else None
        return Score(float(scores.mean()), se, float(scores.std(correction=0)))
