"""Networks that are told the classes of their rows, and guidance, which pushes samples further towards their class."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from ddpm_lab.core.batch import Classes
from ddpm_lab.core.path import Step
from ddpm_lab.core.types import Data, Incompatible
from ddpm_lab.domains import NonNegativeFloat, checked, shown

Network = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B ...], t [B]) → output [B n_outputs·C ...]."""
ClassNetwork = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The same of (x_t, t, labels [B])."""


class Guidance:
    """The network's output without the class plus `scale` times what the class changes of it, at times whose log-SNR,
    log ᾱ_t/(1 − ᾱ_t), lies in `interval` (None: at all times). Elsewhere, and at scale 1, it is that of the class."""

    scale: float = 1.0
    interval: tuple[float, float] | None = None

    def acts(self, step: Step) -> bool:
        """Whether it changes the output at the time t of the step."""
        if self.scale == 1 or self.interval is None:
            return self.scale != 1
        snr, (low, high) = float(step.at_t.snr), self.interval
        return low <= (math.log(snr) if snr > 0 else -math.inf) <= high

    def check(self, classes: Classes | None) -> None:
        """Raises Incompatible for a model without classes, and for one that was never trained without them."""
        lacking = None
        if classes is None:
            lacking = "that is told classes, as of data with conditional=true; this one is not"
        elif classes.dropout == 0:
            lacking = "that was also trained without classes, and label_dropout=0 never hid one; allowed is scale=1"
        if self.scale != 1 and lacking:
            raise Incompatible(f"scale={self.scale} needs a network {lacking}", "guidance", "data")


class Unguided(Guidance):
    """Samples of the model itself."""


@checked
class ClassifierFree(Guidance):
    """Classifier-free guidance (Ho & Salimans 2022 Eq. 6), ε_u + scale · (ε_c − ε_u): their w is scale − 1, so 1 is the model
    itself and 0 ignores the class. `interval` as in Kynkäänniemi et al. 2024, who bound the noise level σ: log-SNR is −2 log σ.

    Mixed are outputs of the network, whatever it predicts: at one x_t each of ε, x_0, v and μ̃ is an affine function of another,
    and the weights of the mixture add up to 1. Outputs for the variance are those of the class.
    """

    def __init__(self, scale: NonNegativeFloat = 2.0, interval: tuple[float, float] | None = None) -> None:
        if interval is not None and not interval[0] < interval[1]:
            raise ValueError(f"interval={shown(interval)}: allowed is list of 2 float, the lower first, or null")
        self.scale, self.interval = scale, None if interval is None else (interval[0], interval[1])


@dataclass(frozen=True, eq=False)
class Conditional:
    """A network with the class of each row it will be called on: a `Network` as it is; under `guidance` by `at`."""

    net: ClassNetwork
    labels: Int[Tensor, " B"]
    guidance: Guidance = Unguided()  # noqa: RUF009  (it is never changed)
    null: int = 0
    """The class that stands for none."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t, self.labels)

    def at(self, step: Step) -> Network:
        """The network at the time t of the step, guided where guidance acts: then by one call of 2B rows."""
        return self._guided if self.guidance.acts(step) else self

    def _guided(self, x: Data, t: Tensor) -> Data:
        labels = torch.cat([self.labels, torch.full_like(self.labels, self.null)])
        out = self.net(torch.cat([x, x]), torch.cat([t, t]), labels).to(x.dtype)
        (given, variance), (free, _) = ((half[:, : x.shape[1]], half[:, x.shape[1] :]) for half in out.chunk(2))
        return torch.cat([free + self.guidance.scale * (given - free), variance], 1)


def conditioned(net: Network | ClassNetwork, labels: Tensor | None) -> Network:
    """The network for rows of these classes; as it is for rows without any."""
    return net if labels is None else Conditional(net, labels)  # type: ignore[return-value, arg-type]


def of_rows(net: Network, rows: Tensor | slice) -> Network:
    """The network for those of its rows, which may be reordered and repeated: classes go with them."""
    return replace(net, labels=net.labels[rows]) if isinstance(net, Conditional) else net
