"""No update from a loss or gradient that is not finite, and a message that says where it came from.

The update is skipped on the device: fused optimisers leave weights and moments alone where `found_inf` is 1. The flag itself
is read at once on a CPU. On a GPU it is copied to the host and read every 50 steps, but for the flag of the latest step, which
the GPU may still be computing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ddpm_lab import ranks
from ddpm_lab.core.transfer import OnItsWay
from ddpm_lab.errors import UserError
from ddpm_lab.models.contract import Positions


class Trained(NamedTuple):
    """What a training step of this process leaves for callbacks and for the guard, detached."""

    counter: int
    """The number of the batch in the run."""
    parts: dict[str, Tensor]
    weight: Tensor
    per_example: Tensor
    """The sum of the parts."""
    positions: Positions | None
    loss: Tensor


class NonFiniteGuard:
    """Watches each step. `every`: how many steps pass between readings of the flags (None: 1 on a CPU, else 50). `advice`: what
    else may help against a loss that is not finite."""

    def __init__(self, every: int | None = None, advice: str = "") -> None:
        self.every, self.advice = every, advice
        self._pending: list[tuple[int, Sequence[Trained], OnItsWay]] = []

    def watch(self, step: int, pieces: Sequence[Trained], grad_norm: Tensor, optimizer: Any) -> None:
        """Call between backward and update, with the pieces of the step's batch. Raises UserError for a step that was not
        finite, now or since the last reading."""
        losses = sum((piece.loss for piece in pieces), grad_norm)
        bad = ranks.summed((losses - losses != 0).float())  # ∞ − ∞ is NaN, and NaN is not 0
        torch_optimizer = getattr(optimizer, "optimizer", optimizer)
        torch_optimizer.found_inf, torch_optimizer.grad_scale = bad if ranks.world() == 1 else bad.clamp(max=1), None
        self._pending.append((step, pieces, OnItsWay(bad)))
        every, running = (1, 0) if bad.device.type == "cpu" else (50, 1)
        if len(self._pending) >= (self.every or every) + running:
            self.read(running)

    def read(self, running: int = 0) -> None:
        """Read the flags since the last reading, but for those of so many steps that may still be `running`; also to be called
        when training ends."""
        count = len(self._pending) - running
        pending, self._pending = self._pending[:count], self._pending[count:]
        if bad := [(step, pieces) for step, pieces, flag in pending if flag.arrived()]:
            step, pieces = bad[0]
            cause = next(filter(None, map(_bad_part, pieces)), "")
            causes = ranks.gather(cause)  # one process may have seen it
            where, known = f"step {step} (batch {pieces[-1].counter})", next(filter(None, causes), None)
            if known is not None:
                remedy = "A lower optim.lr, a longer optim.warmup or a smaller optim.clip often helps"
                raise UserError(f"the loss is not finite at {where}: {known}. It changed no weight. {remedy}{self.advice}.")
            of_gradient = pieces[-1].loss.isfinite()
            means = f"its parts are, with means {_means(pieces[-1])}"
            problem = f"a gradient is not finite at {where}, though the loss is ({means})"
            problem = problem if of_gradient else f"the loss is not finite at {where}, though {means}"
            raise UserError(f"{problem}. It changed no weight. A lower optim.lr or a longer optim.warmup often helps.")


def _bad_part(trained: Trained) -> str | None:
    """The first part of the loss that is not finite, in words."""
    for name, values in trained.parts.items():
        wrong = ~values.isfinite().cpu()
        if wrong.any():
            value, count = values[wrong.to(values.device)][0], int(wrong.sum())
            return f"its part '{name}' is {value:.3g} for {count} of {len(values)} examples{_range(trained, wrong)}"
    return None


def _means(trained: Trained) -> str:
    return ", ".join(f"'{name}' {values.mean():.3g}" for name, values in trained.parts.items()) + _range(trained)


def _range(trained: Trained, rows: Tensor | slice = slice(None)) -> str:
    """Where on the model's axis the examples were."""
    if trained.positions is None:
        return ""
    values = trained.positions.values[rows]
    return f", {trained.positions.name} in [{values.min()}, {values.max()}]"
