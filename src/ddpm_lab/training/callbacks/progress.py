"""How training goes: loss by quartile of t, throughput, and the bar."""

import logging
import sys
import time
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from ddpm_lab import cores, ranks
from ddpm_lab.core.transfer import to_device
from ddpm_lab.training.guard import Trained
from ddpm_lab.training.module import TrainingModule
from ddpm_lab.training.results import log, row_is_due, step_is_whole

logger = logging.getLogger("ddpm_lab")


class LossQuartiles(Callback):
    """train/loss and, of a model with positions, train/loss_q1 .. q4: mean loss since the last row, over all t and over each
    quarter of 1..T; with the learning rate and the last gradient norm. Sums stay on the device until a row is due, and travel
    with checkpoints: those of each process, for sums of several are rounded by their order."""

    def __init__(self) -> None:
        self._sums = torch.zeros(2, 4)
        self._since: list[Trained] = []  # steps not in the sums yet: adding them up together costs a step less

    def on_train_start(self, trainer: Trainer, module: TrainingModule) -> None:
        self._sums = self._sums.to(module.device)

    def on_train_batch_end(self, trainer: Trainer, module: TrainingModule, *_: Any) -> None:
        assert module.trained is not None
        self._since.append(module.trained)
        if row_is_due(trainer):
            self._write(trainer, module, module.trained)
        elif len(self._since) >= 100:
            self._add_up()

    def _add_up(self) -> None:
        if not self._since:
            return
        weight, losses = (torch.cat([getattr(step, name) for step in self._since]) for name in ("weight", "per_example"))
        positions = [step.positions for step in self._since if step.positions is not None]
        self._since = []
        losses = losses.float()
        weights = weight.to(losses)  # 1 but for a choice of t that is not uniform: the mean stays one over t
        quarter = torch.zeros(len(losses), dtype=torch.long)
        if positions:
            quarter = (torch.cat([position.values for position in positions]) - 1) * 4 // positions[0].count
        self._sums.index_add_(1, to_device(quarter, self._sums.device), torch.stack([weights * losses, weights]))

    def _write(self, trainer: Trainer, module: TrainingModule, trained: Trained) -> None:
        self._add_up()
        sums, counts = ranks.summed(self._sums).double().cpu()
        self._sums.zero_()
        metrics = {"train/loss": float(sums.sum() / counts.sum())}
        if trained.positions is not None:
            metrics |= {f"train/loss_q{i + 1}": float(sums[i] / counts[i]) for i in range(4) if counts[i] > 0}
        metrics["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        if module.grad_norm is not None:
            metrics["train/grad_norm"] = float(module.grad_norm)
        log(trainer, metrics)

    def state_dict(self) -> dict[str, Any]:
        """2×4 sums of each process, side by side."""
        self._add_up()
        return {"sums": torch.cat([sums.cpu() for sums in ranks.gather(self._sums)], dim=1)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Where another number of processes saved, and of versions before 0.2, process 0 takes the sum of all."""
        parts = state_dict["sums"].split(4, dim=1)
        same = len(parts) == ranks.world()
        self._sums = parts[ranks.rank()].clone() if same else torch.stack(parts).sum(0) * (ranks.rank() == 0)


FORETOLD_AFTER = 50
"""Steps."""
CROWDED = 0.4
"""Share of their time that threads wait for cores, from which a run on a CPU says so."""
LONG = 3600.0
"""Seconds of training beyond which a run on a CPU says how long it will take."""


class Throughput(Callback):
    """train/images_per_s since the last row, and train/images_seen. Time spent in validation does not count. On a CPU one line
    says, after 50 steps, where training will take more than an hour, and one where other programs take its cores."""

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0
        self._row = (0, 0.0)
        self._start = (0, 0.0)
        self._cores = cores.Cores(0.0, 0.0)

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._last = time.perf_counter()
        self._start = (trainer.global_step, self.seconds)
        self._cores = cores.used()

    def on_validation_end(self, *_: Any) -> None:
        self._last = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: TrainingModule, outputs: Any, batch: Any, *_: Any) -> None:
        now = time.perf_counter()
        self.seconds, self._last = self.seconds + now - self._last, now
        if not step_is_whole(trainer):
            return
        self.images += batch.size
        if trainer.global_step - self._start[0] == FORETOLD_AFTER and module.device.type == "cpu":
            self._foretell(trainer)
        if row_is_due(trainer):
            images, seconds = self.images - self._row[0], self.seconds - self._row[1]
            self._row = (self.images, self.seconds)
            log(trainer, {"train/images_seen": self.images, "train/images_per_s": round(images / seconds, 1)})

    def _foretell(self, trainer: Trainer) -> None:
        threads, share = torch.get_num_threads(), cores.used().share_waited_since(self._cores)
        if threads > 1 and share > CROWDED and trainer.is_global_zero:
            logger.warning(
                "%d threads waited for cores %.0f%% of the time, as other programs run here: OMP_NUM_THREADS=1 may be faster",
                threads,
                100 * share,
            )
        per_step = (self.seconds - self._start[1]) / FORETOLD_AFTER
        left = per_step * (trainer.max_steps - trainer.global_step)
        if left > LONG and trainer.is_global_zero:
            logger.warning(
                "at %.2f s a step, the %d steps that are left will take about %.1f hours on this CPU: a smaller network "
                "(net=unet_small, net.channels), data.batch_size or trainer.max_steps takes less, and so does trainer=gpu",
                per_step,
                trainer.max_steps - trainer.global_step,
                left / 3600,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.images, self.seconds = state_dict["images"], state_dict["seconds"]
        self._row = (self.images, self.seconds)


class Bar(TQDMProgressBar):
    """One bar for the whole run, drawn a few times a second whatever a step takes; in a file, twice a minute."""

    def __init__(self, seconds: float | None = None) -> None:
        super().__init__(refresh_rate=1)
        self.seconds = (0.3 if sys.stdout.isatty() else 30.0) if seconds is None else seconds
        self._drawn = float("-inf")

    def _should_update(self, current: int, total: int | float) -> bool:
        now = time.monotonic()
        due = self.is_enabled and (now - self._drawn >= self.seconds or current == total)
        self._drawn = now if due else self._drawn
        return due

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Without the number of the epoch: the run is one."""
        pieces = trainer.accumulate_grad_batches
        self.train_progress_bar.reset(trainer.max_steps * pieces)
        self.train_progress_bar.initial = trainer.global_step * pieces
        self.train_progress_bar.set_description("Training")

    def get_metrics(self, trainer: Trainer, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """With the last logged loss."""
        metrics, logged = super().get_metrics(trainer, *args, **kwargs), trainer.callback_metrics
        metrics.pop("v_num", None)
        return metrics | ({"loss": float(logged["train/loss"])} if "train/loss" in logged else {})
