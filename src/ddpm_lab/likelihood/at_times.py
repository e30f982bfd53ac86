"""What is measured of x̂_0 at single times, each over all data: the base of such meters, and what a network errs by."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.diffusion import GaussianDiffusion, Noised, limited
from ddpm_lab.core.gaussian import Normal, log_bin_nats
from ddpm_lab.core.guidance import Network, of_rows
from ddpm_lab.core.optimal import LOG_VARIANCES, Errors
from ddpm_lab.core.transfer import OnItsWay, like, to_device
from ddpm_lab.core.types import Data
from ddpm_lab.likelihood.meter import Meter, plus


class TimesTally(NamedTuple):
    """Sums over data."""

    sums: Float64[Tensor, "K N"]
    """Of K numbers of each datum, per time."""
    n: int
    plus = plus


@dataclass
class AtTimesMeter(Meter):
    """Measures at `times`, increasing in 1..T, with one call per datum and time. The noise of datum i depends on (seed, i) and
    what `address` says alone."""

    diffusion: GaussianDiffusion
    times: tuple[int, ...]
    seed: int = 0
    batch: int = 512

    def __post_init__(self) -> None:
        self.diffusion.schedule.chain(self.times)  # raises ValueError for times that do not rise within 1..T
        self.tally = TimesTally(torch.zeros(self.rows, len(self.times), dtype=torch.float64), 0)

    @property
    @abstractmethod
    def rows(self) -> int:
        """K."""

    @abstractmethod
    def address(self, t: int) -> tuple[rng.Stream, int]:
        """Stream and counter of the noise at t."""

    @abstractmethod
    def summands(self, noised: Noised, x0_hat: Data) -> Float64[Tensor, "K B"]:
        """The numbers of each datum. x̂_0 is not clipped, and is that of any prediction."""

    def _part(self, net: Network, x0: Data, start: int, stop: int) -> Callable[[], TimesTally]:
        together = max(1, self.batch // (stop - start))
        groups = [OnItsWay(self._measured(net, x0, start, times)) for times in torch.tensor(self.times).split(together)]
        return lambda: TimesTally(torch.cat([group.arrived().sum(2) for group in groups], 1), len(x0))

    def _measured(self, net: Network, x0: Data, start: int, times: Tensor) -> Float64[Tensor, "K M B"]:
        """One network call for all of x0 at all of `times`."""
        stop = start + len(x0)
        eps = torch.cat([rng.normal(x0.shape[1:], self.seed, *self.address(t), start, stop) for t in times.tolist()])
        t = times.repeat_interleave(len(x0))
        rows = to_device(torch.arange(len(x0)).repeat(len(times)), x0.device)
        noised = self.diffusion.noised(x0[rows], like(eps, x0), t)
        out = self.diffusion.output(of_rows(net, rows), noised.xt, to_device(t, x0.device), noised.step)
        x0_hat = self.diffusion.prediction.x0(self.diffusion.split(out, noised.xt)[0], noised.xt, noised.step)
        return self.summands(noised, x0_hat).reshape(self.rows, len(times), -1)


class ErrorMeter(AtTimesMeter):
    """What a network errs by, from which the bound of any chain follows (`core.optimal`): E‖x_0 − x̂_0‖²/d, and for data with
    grey levels the decoder's term of a step to 0, DDPM Eq. 13, at every σ² that it may have.

    The noise of a datum is the same at every t: chances that all times share do not favour one over its neighbours, of which a
    search would take those that err least by chance."""

    @property
    def rows(self) -> int:
        return 1 if self.diffusion.levels is None else 1 + len(LOG_VARIANCES)

    def address(self, t: int) -> tuple[rng.Stream, int]:
        return "errors", 0

    def summands(self, noised: Noised, x0_hat: Data) -> Float64[Tensor, "K B"]:
        x0, mean, levels = noised.x0, limited(x0_hat, self.diffusion.clips_x0()), self.diffusion.levels
        means = [((x0.double() - mean.double()) ** 2).flatten(1).mean(1)]
        if levels is not None:  # where s = 0 the mean of p_θ is x̂_0
            means += [-log_bin_nats(x0, Normal(mean, log_var), levels).flatten(1).mean(1) for log_var in LOG_VARIANCES]
        return torch.stack([one.double() for one in means])

    def result(self) -> Errors:
        """The errors so far, along `times`. Raises ValueError for no data."""
        sums, n = self.tally
        if n < 1:
            raise ValueError("errors are means over data, and there are none.")
        square, *decoder = sums / n
        return Errors(square, torch.stack(decoder, 1) if decoder else None)
