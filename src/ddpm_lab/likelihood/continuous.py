"""The bound in continuous time, T → ∞: VDM (Kingma et al. 2021), section 4.2. L_T at γ(1), ½ ∫ γ' E ‖ε − ε̂‖² du, and the
decoder at γ(0), which is VDM's own. The integral does not depend on γ but for its ends, nor on any reverse variance."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.gamma import marginal_of
from ddpm_lab.core.guidance import Network, of_rows
from ddpm_lab.core.loss import VDM
from ddpm_lab.core.terms import prior_at_bpd, rounding_bpd
from ddpm_lab.core.time import Continuous
from ddpm_lab.core.transfer import OnItsWay, like, to_device
from ddpm_lab.core.types import Data, PerExample
from ddpm_lab.likelihood.estimate import Estimate, EstimateTally, of_tally
from ddpm_lab.likelihood.meter import Meter


@dataclass
class ContinuousMeter(Meter):
    """VDM Eq. 17, estimated with k network calls per datum: of its k places the j-th is uniform in [j/k, (j+1)/k). Places and
    noise of datum i depend on (seed, i) alone. Unbiased; x̂_0 is not clipped.

    Raises Incompatible for a schedule or a prediction that continuous time does not allow."""

    diffusion: GaussianDiffusion
    k: int = 10
    seed: int = 0
    batch: int = 512

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k}: allowed is int >= 1")
        self.tally = EstimateTally()
        Continuous().check_process(self.diffusion)

    def _part(self, net: Network, x0: Data, start: int, stop: int) -> Callable[[], EstimateTally]:
        n, T = len(x0), self.diffusion.schedule.T
        u = torch.cat([(j + rng.uniform(self.seed, "estimate_t", j, start, stop)) / self.k for j in range(self.k)])
        eps = [rng.normal(x0.shape[1:], self.seed, "estimate", j, start, stop) for j in range(self.k + 1)]
        drawn, t, datum = torch.cat(eps[1:]), 1 + (T - 1) * u, torch.arange(n).repeat(self.k)
        measured = []
        for part in torch.arange(len(u)).split(self.batch):
            rows = to_device(datum[part], x0.device)
            measured.append(self._terms(of_rows(net, rows), x0[rows], like(drawn[part], x0), t[part]))
        results, at_ends = OnItsWay(torch.cat(measured)), [OnItsWay(end) for end in self._ends(x0.double(), eps[0])]

        def tally() -> EstimateTally:
            terms = results.arrived().double().reshape(self.k, n) / self.k
            parts = torch.zeros(n, 4, dtype=torch.float64)
            parts.scatter_add_(1, (4 * u).long().clamp(max=3).reshape(self.k, n).T, terms.T)
            sums = torch.stack([parts.sum(0), (parts**2).sum(0)])
            return EstimateTally(torch.arange(start, stop), *(end.arrived() for end in at_ends), terms.sum(0), sums)

        return tally

    def _ends(self, x0: Data, eps: Tensor) -> tuple[PerExample, PerExample]:
        """L_T at γ(1), and the decoder at γ(0) from noise on the CPU."""
        path = self.diffusion.path
        first, last = (marginal_of(gamma) for gamma in path.at(torch.tensor([0.0, 1.0], device=path.device).double()).gamma)
        return prior_at_bpd(last.signal_scale**2, x0), rounding_bpd(x0, like(eps, x0), first, self.diffusion.levels)

    def _terms(self, net: Network, x0: Data, eps: Data, t: Tensor) -> Tensor:
        """½ γ' ‖ε − ε̂‖² at times t (on the CPU), in bits/dim."""
        noised = Continuous().noised(self.diffusion, x0, eps, t)
        out = self.diffusion.output(net, noised.xt, to_device(t, x0.device), noised.step)
        return VDM().parts(self.diffusion, out, noised)["vdm"]

    def result(self) -> Estimate:
        """The estimate so far. Raises ValueError for fewer than two data."""
        return of_tally(self.tally, self.k)
