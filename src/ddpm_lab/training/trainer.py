"""Lightning's Trainer with everything that is not a choice, and the choices of where and how fast."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy

from ddpm_lab.errors import UserError
from ddpm_lab.training.callbacks.progress import Bar
from ddpm_lab.training.checkpoint import AtomicCheckpointIO
from ddpm_lab.training.module import DiffusionModule


class NoProfiler(Profiler):
    """Lightning asks its profiler around each hook, some twenty times a step: this one answers at once."""

    nothing: AbstractContextManager[Any] = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing

    def start(self, action_name: str) -> None: ...

    def stop(self, action_name: str) -> None: ...


def make(
    accelerator: str,
    devices: int | None,
    num_nodes: int,
    precision: str,
    sample_precision: str,
    tf32: bool,
    channels_last: bool,
    compile: bool,
    accumulate: int,
    max_steps: int,
    validate_every: int,
    log_every: int,
    fast_dev_run: bool,
    other_world_size: bool,
    module: DiffusionModule,
    callbacks: list[Callback],
    logger: Logger | list[Logger],
    run_dir: Path,
) -> Trainer:
    """The whole run is one epoch of `max_steps` batches, each in `accumulate` pieces; validation comes by step. The callbacks'
    order is kept, but for checkpoints, which Lightning puts last. Raises UserError for devices that are not there.
    (`other_world_size` is for whoever resumes.)"""
    accelerator, devices = _place(accelerator, devices)
    _prepare(module, precision, tf32, channels_last, compile)
    module.sample_in_bf16 = sample_precision == "bf16-mixed"
    return Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if devices * num_nodes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type]
        accumulate_grad_batches=accumulate,
        max_steps=1 if fast_dev_run else max_steps,
        max_epochs=-1,
        val_check_interval=(1 if fast_dev_run else validate_every) * accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0,
        num_sanity_val_steps=0,
        log_every_n_steps=1 if fast_dev_run else log_every,
        callbacks=[*callbacks, Bar()],
        logger=logger,
        plugins=[AtomicCheckpointIO()],
        profiler=NoProfiler(),
        default_root_dir=run_dir,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=any(type(callback).__name__ == "Checkpoints" for callback in callbacks),
    )


def _place(accelerator: str, devices: int | None) -> tuple[str, int]:
    """Which accelerator, and how many processes on this machine."""
    there = torch.cuda.device_count()
    if accelerator == "auto":
        accelerator = "gpu" if there else "cpu"
    if accelerator == "gpu" and not there:
        raise UserError("trainer.accelerator=gpu: torch finds no CUDA device here; use trainer=cpu")
    if accelerator == "cpu" and devices is None:
        raise UserError("trainer.devices=null: without GPUs say how many processes, e.g. trainer.devices=2")
    devices = there if devices is None else devices
    if accelerator == "gpu" and devices > there:
        raise UserError(f"trainer.devices={devices}: torch finds {there} CUDA devices here")
    return accelerator, devices


def _prepare(module: DiffusionModule, precision: str, tf32: bool, channels_last: bool, compile: bool) -> None:
    """What changes no result but by rounding."""
    if precision == "64-true":
        module.double()  # Lightning would only after it has read the checkpoint
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    if channels_last:
        module.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile:
        module.net.compile()
