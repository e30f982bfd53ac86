"""What a part of a diffusion model rests on and is measured of its network first: one number, or several, for each time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ddpm_lab.core.guidance import conditioned
from ddpm_lab.errors import UserError
from ddpm_lab.likelihood.at_times import AtTimesMeter, TimesTally
from ddpm_lab.models.measurement import Conditions

if TYPE_CHECKING:
    from ddpm_lab.models.diffusion import Diffusion


class AtTimes(ABC):
    """Measured over the first n training data, at every time of the chains that are measured or sampled; with `everywhere` at
    every t of the schedule, as the sampler's chain is not known yet. Times are independent of each other: their `sums` are
    columns."""

    argument: ClassVar[str]
    """Of the part's signature, which names so what it rests on."""
    kind: ClassVar[str]
    """Folder of the sums."""
    what: ClassVar[str]
    """In words."""

    def __init__(self, model: "Diffusion", conditions: Conditions, n: int, everywhere: bool = False) -> None:
        self.model, self.conditions, self.n = model, conditions, n
        full, sampled = model.diffusion.chain, model.sampler.chain(model.diffusion.schedule)
        whole = everywhere or conditions.likelihood.chain in ("full", "both")
        self.times = sorted({*sampled.times, *(full.times if whole else ())})

    def sums(self, times: Sequence[int], x0: Tensor, labels: Tensor | None = None) -> Tensor:
        """K×len(times), from all n data."""
        meter = self.meter(times)
        meter.add(conditioned(self.model.network, labels), x0, 0)
        return meter.tally.sums

    def of_sums(self, sums: Tensor) -> Any:
        """The meter's result from the sums at all times, in order. Raises UserError where they are not finite, as nothing
        follows from them."""
        if bad := [t for t, finite in zip(self.times, sums.isfinite().all(0).tolist(), strict=True) if not finite]:
            where = f"t = {', '.join(map(str, bad[:5]))}{' …' if len(bad) > 5 else ''}"
            raise UserError(f"{self.what} is not finite at {where}, as the output of this network is not")
        meter = self.meter(self.times)
        meter.tally = TimesTally(sums, self.n)
        return meter.result()

    @abstractmethod
    def meter(self, times: Sequence[int]) -> AtTimesMeter: ...

    @abstractmethod
    def result(self, sums: Tensor) -> Any:
        """The argument."""

    @abstractmethod
    def tables(self, result: Any) -> dict[str, dict[str, Tensor]]:
        """Columns of files beside the numbers, by name."""
