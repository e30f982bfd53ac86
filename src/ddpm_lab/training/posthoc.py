"""Averages by powers of the step with snapshots, from which averages of other lengths are solved after training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen
from lightning import Trainer

from ddpm_lab import ranks
from ddpm_lab.core.posthoc import Length, exponent, past
from ddpm_lab.domains import PositiveInt, checked
from ddpm_lab.models.checkpoint import MOST_SNAPSHOTS
from ddpm_lab.models.snapshots import (
    FOLDER,
    LISTED,
    STORED_AS,
    Dtype,
    averaged,
    coarser,
    place,
    present,
    remove_others,
    write_snapshot,
)
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.module import TrainingModule

USUAL = 40
"""Snapshots of a run, where `every` does not say."""


@checked
class PostHoc(EMA):
    """The averages of the lengths `sigma_rel` (Karras et al. 2024, section 3): after t steps the network of step τ ≤ t has the
    weight that grows as τ^γ. They start from the network of the first step, and t alone decides their update.

    Every so many steps (`every`, by default a 40th of the run) a snapshot of them is written to checkpoints/snapshots, its
    numbers as `dtype`. From these averages of other lengths are solved after training. Evaluation uses the first length that is
    listed. Saved under "ema/<σ_rel>".
    """

    def __init__(
        self,
        sigma_rel: Annotated[tuple[Length, ...], MinLen(1)] = (0.05, 0.10),
        every: PositiveInt | None = None,
        dtype: Dtype = "float32",
    ) -> None:
        super().__init__()
        self.decays, self.every = tuple(sigma_rel), every
        self.dtype: Dtype = dtype
        self.stored_as: Dtype = dtype
        """The coarsest dtype of the snapshots so far."""
        if len(set(self.decays)) < len(self.decays):
            raise ValueError(f"sigma_rel={list(sigma_rel)}: each length once")
        self._exponents = {each: exponent(each) for each in self.decays}
        self.listed: dict[int, str] = {}
        """By step the sha256 of each snapshot so far."""

    def check(self, max_steps: int) -> None:
        """Raises ValueError for a run without a snapshot, and for one with too many."""
        if self.every is not None and self.every > max_steps:
            raise ValueError(f"every={self.every}: a run of {max_steps} steps ends before its first snapshot")
        if self.every is not None and max_steps // self.every > MOST_SNAPSHOTS:
            least = -(-max_steps // MOST_SNAPSHOTS)
            raise ValueError(f"every={self.every}: {max_steps // self.every} snapshots of a run; allowed is {least} or more")

    def rate(self, decay: float, n: int) -> float:
        return past(n + 1, self._exponents[decay])

    def spacing(self, trainer: Trainer) -> int:
        """Steps from one snapshot to the next."""
        return self.every or max(1, trainer.max_steps // USUAL)

    def lines(self, module: TrainingModule, trainer: Trainer, listed: Mapping[int, str]) -> list[str]:
        """For the head of the log: what the snapshots take, and which of those that the run goes on with are lost."""
        state, every = module.model.net.state_dict(), self.spacing(trainer)
        numbers = len(self.decays) * sum(state[name].numel() for name in averaged(module.model.net))
        n, size = trainer.max_steps // every, {"float32": 4, "float16": 2}[self.dtype]
        disk = f"{n * numbers * size / 1e6:,.1f} MB in checkpoints/{FOLDER}"
        lost = listed.keys() - present(self._folder(trainer), listed).keys()
        steps = ", ".join(map(str, sorted(lost)))
        return [
            f"{n} snapshots of averages, one every {every} steps: {disk}",
            *([f"snapshots of steps {steps} are missing or damaged: lengths are solved without them"] if lost else []),
        ]

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        super().on_train_start(trainer, module)
        with ranks.by_first():
            if trainer.is_global_zero:
                remove_others(self._folder(trainer), self.listed)

    def on_train_batch_end(self, trainer: Trainer, module: TrainingModule, *rest: Any) -> None:
        before = self._updated
        super().on_train_batch_end(trainer, module, *rest)
        step = trainer.global_step
        if step > before and step % self.spacing(trainer) == 0:
            module.guard.read()  # raises for a step that was not finite: it is in no snapshot
            with ranks.by_first():
                if trainer.is_global_zero:
                    nets = {key: model.net for key, model in zip(self.keys, self.models.values(), strict=True)}
                    self.listed[step] = write_snapshot(nets, self.dtype, place(self._folder(trainer), step))

    def on_save_checkpoint(self, trainer: Trainer, module: TrainingModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, module, checkpoint)
        checkpoint |= {LISTED: dict(self.listed), STORED_AS: self.stored_as}

    def on_load_checkpoint(self, trainer: Trainer, module: TrainingModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, module, checkpoint)
        self.listed = present(self._folder(trainer), checkpoint[LISTED])
        if self.listed:
            self.stored_as = coarser(self.dtype, checkpoint.get(STORED_AS, "float16"))

    def _folder(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "checkpoints"
