"""Data from a mixture of Gaussians with diagonal covariances: the mean and the variance of x_0 given x_t in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddpm_lab.core.path import NoiseSchedule

F64 = torch.float64


@dataclass
class Mixture:
    """`means` and `stds`, K×d; components have equal weights."""

    schedule: NoiseSchedule
    means: Tensor
    stds: Tensor

    @classmethod
    def random(cls, schedule: NoiseSchedule, components: int, size: int, spread: float = 1.0) -> "Mixture":
        means, stds = torch.rand(2, components, size, generator=torch.Generator().manual_seed(0), dtype=F64)
        return cls(schedule, spread * (2 * means - 1), 0.15 + 0.45 * stds)

    def data(self, n: int, seed: int = 0) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        which = torch.randint(len(self.means), (n,), generator=g)
        return self.means[which] + self.stds[which] * torch.randn(n, self.means.shape[1], generator=g, dtype=F64)

    def components(self, xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Given x_t [n d]: of each component its probability [n K 1], and mean and variance of x_0 [n K d]."""
        ab = self.schedule.alphas_bar[t.long()][:, None, None]
        total = ab * self.stds**2 + 1 - ab
        error = xt[:, None] - ab.sqrt() * self.means
        shares = (-0.5 * (error**2 / total + total.log()).sum(-1, keepdim=True)).softmax(1)
        return shares, self.means + ab.sqrt() * self.stds**2 / total * error, self.stds**2 * (1 - ab) / total

    def given(self, xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] and Var(x_0 | x_t) of each dimension."""
        shares, means, variances = self.components(xt, t)
        mean = (shares * means).sum(1)
        return mean, (shares * (variances + means**2)).sum(1) - mean**2

    def posterior(self, xt: Tensor, t: int, n: int) -> Tensor:
        """n draws of x_0 given one x_t."""
        g = torch.Generator().manual_seed(t)
        shares, means, variances = (part[0] for part in self.components(xt[None], torch.tensor([t])))
        which = torch.multinomial(shares[:, 0], n, replacement=True, generator=g)
        return means[which] + variances[which].sqrt() * torch.randn(n, len(xt), generator=g, dtype=F64)


class TrueDenoiser(nn.Module):
    """E[ε | x_t] of a mixture. Its features are, beside that, its square, the components' probabilities and the time."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.anything = nn.Parameter(torch.zeros((), dtype=F64))

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        ab = self.mixture.schedule.alphas_bar[t.long()][:, None]
        eps = (x - ab.sqrt() * self.mixture.given(x, t)[0]) / (1 - ab).sqrt()
        times = nn.functional.one_hot(t.long(), self.mixture.schedule.T + 1).to(x)
        return torch.cat([eps, eps**2, self.mixture.components(x, t)[0].flatten(1), times], 1)

    def leave(self, features: Tensor) -> Tensor:
        return features[:, : self.mixture.means.shape[1]]

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.leave(self.features(x, t))
