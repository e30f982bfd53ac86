"""What models share that have a Boltzmann machine in them: its Gibbs sweeps, and its log Z."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from ddpm_lab.core import rng
from ddpm_lab.core.boltzmann import ENUMERABLE, Machine
from ddpm_lab.likelihood.annealed import annealed_log_z
from ddpm_lab.models.binary import BinaryModel
from ddpm_lab.models.contract import Plain
from ddpm_lab.models.meter import PerDatum, Shared

Bits = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
FRAMES = 20
"""States of a sample's chain that are shown, at most."""
ANNEALED = "annealed importance sampling"
"""How log Z is found where it is not exact, as records name it."""


def swept(machine: Machine, v: Tensor, u: Tensor) -> Tensor:
    """The visible units after k sweeps, from u uniform in [0, 1), B × k × (H + V)."""
    for one in u.unbind(1):
        v = machine.sweep(v, one)
    return v


class WithLogZ(PerDatum):
    """A meter whose data share log Z, NaN where the estimate of it is refuted."""

    def record(self) -> dict[str, Plain]:
        refuted = self.shared is not None and math.isnan(self.shared.bpd)
        return super().record() | ({"refuted": "by a lower bound of log Z"} if refuted else {})


class GibbsModel(BinaryModel):
    """Samples are made by `sweeps` Gibbs sweeps of the machine `joint`. Its log Z is exact where one side has at most 20 units,
    else estimated by annealed importance sampling with `chains` and `temperatures`."""

    sweeps: int
    chains: int
    temperatures: int

    @property
    @abstractmethod
    def joint(self) -> Machine:
        """The machine that is sampled."""

    @property
    def annealed_from(self) -> Tensor | None:
        """Means of the visible units of `joint` where annealing begins; None for ½."""
        return None

    # --- likelihood -----------------------------------------------------------------------------------------------------

    @property
    def enumerable(self) -> bool:
        return min(self.joint.weights.shape) <= ENUMERABLE

    @torch.no_grad()
    def log_z(self, seed: int) -> Shared:
        """In bits/dim; NaN where the estimate lies below a lower bound."""
        machine, unit = self.joint, self.nats_per_bpd
        if self.enumerable:
            return Shared("log_z", "log Z", float(machine.log_z()) / unit, 0.0)
        found = annealed_log_z(machine, self.annealed_from, self.chains, self.temperatures, seed)
        if found.refuted:
            label = f"log Z: the estimate, {found.log_z / unit:.4f}, is refuted by a lower bound, {found.lower / unit:.4f}"
            return Shared("log_z", label, math.nan, math.nan)
        label = (
            f"log Z by annealing {found.chains} chains at {found.temperatures} temperatures, {found.effective:.0f} effective"
        )
        return Shared("log_z", label, found.log_z / unit, found.se / unit)

    def bound_by(self, seed: int, label: str, bits: Bits, labels: Mapping[str, str]) -> WithLogZ:
        """The meter of a bound, of which `bits` are all summands but log Z. Where that is exact the bound is a true one."""
        if self.enumerable:
            return WithLogZ(label, bits, labels, lambda: self.log_z(seed))
        return WithLogZ(f"{label} by an estimate of log Z", bits, labels, lambda: self.log_z(seed), {"log_z": ANNEALED})

    # --- samples --------------------------------------------------------------------------------------------------------

    @property
    def shown_sweeps(self) -> list[int]:
        """After which a sample is shown."""
        return sorted({-(-self.sweeps * i // FRAMES) for i in range(1, FRAMES + 1)})

    @property
    def sample_steps(self) -> int:
        return len(self.shown_sweeps)

    def shown(self, h: Tensor, start: int, stop: int, seed: int) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """Of chains for samples start..stop−1, which begin at h, visible units of `joint`, the sweeps that are shown: a label,
        the units before, the numbers u of the sweep, the units after."""
        machine, shown = self.joint, set(self.shown_sweeps)
        for sweep in range(1, self.sweeps + 1):
            u = rng.uniform(seed, "sampling", sweep, start, stop, (sum(machine.weights.shape),))
            before, h = h, machine.sweep(h, u)
            if sweep in shown:
                yield f"sweep {sweep}", before, u, h

    def sample_record(self) -> dict[str, Plain]:
        return super().sample_record() | {"sampler": "gibbs", "steps": self.sweeps}
