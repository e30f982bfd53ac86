"""Lightning's Trainer with everything that is not a choice."""

from pathlib import Path

from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger

from ddpm_lab.training.callbacks.progress import Bar
from ddpm_lab.training.checkpoint import AtomicCheckpointIO


def make(
    accelerator: str,
    devices: int,
    max_steps: int,
    validate_every: int,
    log_every: int,
    fast_dev_run: bool,
    callbacks: list[Callback],
    logger: Logger | list[Logger],
    run_dir: Path,
) -> Trainer:
    """The whole run is one epoch of `max_steps` batches; validation comes by step. The callbacks' order is kept, but for
    checkpoints, which Lightning puts last."""
    return Trainer(
        accelerator=accelerator,
        devices=devices,
        max_steps=1 if fast_dev_run else max_steps,
        max_epochs=-1,
        val_check_interval=1 if fast_dev_run else validate_every,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0,
        num_sanity_val_steps=0,
        log_every_n_steps=1 if fast_dev_run else log_every,
        callbacks=[*callbacks, Bar(refresh_rate=50)],
        logger=logger,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=run_dir,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=any(type(callback).__name__ == "Checkpoints" for callback in callbacks),
    )
