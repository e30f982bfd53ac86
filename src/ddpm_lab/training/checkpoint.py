"""Checkpoints: tensors and plain containers, written so that a kill or a full disk at any moment leaves the last one whole."""

import logging
import math
import operator
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ddpm_lab import ranks
from ddpm_lab.domains import PositiveInt, Text, checked
from ddpm_lab.models.checkpoint import read_checkpoint, save_checkpoint
from ddpm_lab.training.interrupt import Interrupt, Interrupted
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.results import step_is_whole

logger = logging.getLogger("ddpm_lab")
DEFAULT = "val/bound_bpd"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs, and renames: another folder might be another file system, where a move is a copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return read_checkpoint(Path(path))


@checked
class Checkpoints(Checkpoint):
    """checkpoints/ of the run: `last` every `last_every` steps, after each validation, when interrupted and at the end; `best`
    whenever the logged number `monitor` is better than ever (`mode`); `step_<n>` every `keep_every` steps, kept for good."""

    def __init__(
        self,
        last_every: PositiveInt = 1000,
        keep_every: PositiveInt | None = None,
        monitor: Text = DEFAULT,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        self.last_every, self.keep_every = last_every, keep_every
        self.monitor, self.mode = monitor, mode
        self.best: float | None = None
        self.interrupt = Interrupt()
        self._saved_at = -1
        self._warned = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = Path(trainer.default_root_dir) / "checkpoints"
        for left in self.folder.glob("*.tmp.*"):  # by a run that was killed while it wrote
            left.unlink(missing_ok=True)  # another process may be as quick

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = trainer.global_step
        self.interrupt.listen()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if not step_is_whole(trainer):
            return
        step, every = trainer.global_step, trainer.val_check_batch
        pieces = trainer.accumulate_grad_batches
        validates = every is not None and step * pieces % every == 0  # then saved after it, or a resumed run would skip it
        stopping = self.interrupt.agreed(step)
        if (step % self.last_every == 0 and not validates) or stopping:
            self._save_last(trainer)
        if self.keep_every and step % self.keep_every == 0:
            self._save(trainer, f"step_{step:07d}")
        if stopping:
            raise Interrupted(stopping)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is None and not self._warned and self.monitor != DEFAULT and trainer.is_global_zero:
            known = ", ".join(sorted(trainer.callback_metrics))
            logger.warning(
                "callbacks.checkpoints.monitor=%s: not logged yet, so there is no best.ckpt; logged are %s", self.monitor, known
            )
            self._warned = True
        better = operator.lt if self.mode == "min" else operator.gt
        if value is not None and math.isfinite(value) and (self.best is None or better(float(value), self.best)):
            self.best = float(value)
            self._save(trainer, "best")
        self._save_last(trainer, again=True)
        self.interrupt.check()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_last(trainer)
        self.interrupt.check()

    def _save_last(self, trainer: Trainer, again: bool = False) -> None:
        """Once per step, unless `again`: a validation since has changed what a resumed run must know."""
        if again or trainer.global_step != self._saved_at:
            self._save(trainer, "last")
            self._saved_at = trainer.global_step

    def _save(self, trainer: Trainer, name: str) -> None:
        module = trainer.lightning_module
        assert isinstance(module, TrainingModule)
        module.guard.read()  # raises for a step that was not finite: it is in no checkpoint
        with ranks.by_first():
            try:
                trainer.save_checkpoint(self.folder / f"{name}.ckpt", weights_only=False)  # False: the optimiser too
            except Exception:
                trainer.strategy.barrier()  # where the others wait until it is written
                raise

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of another number than now there is no best yet."""
        best = state_dict.get("best", state_dict.get("best_bpd"))  # as versions before 0.2 called it
        known = state_dict.get("monitor", DEFAULT) == self.monitor and best is not None and best < float("inf")
        self.best = best if known else None
