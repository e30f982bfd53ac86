"""Lightning's Trainer with everything that is not a choice, and the choices of where and how fast."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy

from ddpm_lab.core.types import states
from ddpm_lab.domains import Given, PositiveInt, checked
from ddpm_lab.errors import UserError
from ddpm_lab.models.compiling import Compile, check_compile, compile_model
from ddpm_lab.models.run import prefers_channels_last
from ddpm_lab.training.callbacks.progress import Bar
from ddpm_lab.training.checkpoint import AtomicCheckpointIO
from ddpm_lab.training.module import TrainingModule


class NoProfiler(Profiler):
    """Lightning asks its profiler around each hook, some twenty times a step: this one answers at once."""

    nothing: AbstractContextManager[Any] = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self.nothing

    def start(self, action_name: str) -> None: ...

    def stop(self, action_name: str) -> None: ...


PASSED = (
    "benchmark",
    "detect_anomaly",
    "deterministic",
    "enable_progress_bar",
    "limit_train_batches",
    "limit_val_batches",
    "max_time",
    "min_steps",
    "overfit_batches",
    "sync_batchnorm",
)
"""Arguments of Lightning's Trainer that `make` hands on as they are. All others it sets itself, or they have no meaning
here."""
ALWAYS: dict[str, Any] = {
    "check_val_every_n_epoch": None,
    "enable_model_summary": False,
    "limit_val_batches": 1.0,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}
Precision = Literal["32-true", "bf16-mixed", "64-true"]


@checked
@states(further=Trainer, passed=PASSED)
def make(
    accelerator: Literal["cpu", "gpu", "auto"] = "cpu",
    devices: PositiveInt | None = 1,
    num_nodes: PositiveInt = 1,
    precision: Precision = "32-true",
    sample_precision: Literal["32-true", "bf16-mixed"] = "32-true",
    tf32: bool = True,
    channels_last: bool | None = None,
    compile: Compile = False,
    accumulate: PositiveInt = 1,
    max_steps: PositiveInt = 100000,
    validate_every: PositiveInt = 5000,
    log_every: PositiveInt = 50,
    fast_dev_run: bool = False,
    other_world_size: bool = False,
    data_on_device: bool = False,
    *,
    module: TrainingModule,
    callbacks: Given[list[Callback]],
    logger: Logger | list[Logger],
    run_dir: Path,
    **more: Any,
) -> Trainer:
    """The whole run is one epoch of `max_steps` batches, each in `accumulate` pieces; validation comes by step. The callbacks'
    order is kept, but for checkpoints, which Lightning puts last. `more`: `PASSED`. Raises UserError for absent devices,
    ValueError for arguments that are not allowed. (The last two are for whoever resumes, and the data.)"""
    if wrong := sorted(set(more) - set(PASSED)):
        raise ValueError(f"{wrong[0]}={more[wrong[0]]}: not an argument of this trainer; it hands on {PASSED}")
    place = _place(accelerator, devices, num_nodes, compile, module.model.trains_in_phases)
    layout = prefers_channels_last(place["accelerator"], precision) if channels_last is None else channels_last
    _prepare(module, precision, sample_precision, tf32, layout, compile)
    steps, validations, rows = (1, 1, 1) if fast_dev_run else (max_steps, validate_every, log_every)
    settings: dict[str, Any] = {
        "accumulate_grad_batches": accumulate,
        "max_steps": steps,
        "max_epochs": 1 if "limit_train_batches" in more else -1,  # the one epoch ends there
        "val_check_interval": validations * accumulate,  # Lightning counts pieces of batches
        "log_every_n_steps": rows,
    } | _helpers(callbacks, bar=more.get("enable_progress_bar", True))
    return Trainer(**ALWAYS | place | settings | more, precision=precision, logger=logger, default_root_dir=run_dir)


def _helpers(callbacks: list[Callback], bar: bool) -> dict[str, Any]:
    """The objects that Lightning calls."""
    return {
        "callbacks": [*callbacks, Bar()] if bar else callbacks,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "plugins": [AtomicCheckpointIO()],
        "profiler": NoProfiler(),
    }


def check_precisions(precision: str, sample_precision: str) -> None:
    """Raises ValueError for a float64 network that would sample in bfloat16."""
    if precision == "64-true" and sample_precision == "bf16-mixed":
        raise ValueError("sample_precision=bf16-mixed: a network with precision=64-true samples with sample_precision=32-true")


def _place(accelerator: str, devices: int | None, num_nodes: int, compile: Compile, in_phases: bool) -> dict[str, Any]:
    """Which accelerator, and how many processes on how many machines."""
    there = torch.cuda.device_count()
    if accelerator == "auto":
        accelerator = "gpu" if there else "cpu"
    if accelerator == "gpu" and not there:
        raise UserError("trainer.accelerator=gpu: torch finds no CUDA device here; use trainer=cpu")
    if accelerator == "cpu":  # fused optimisers ask torch at every step for a GPU; Lightning has it load NVML for the answer
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    check_compile(compile, accelerator, "trainer.compile")
    if accelerator == "cpu" and devices is None:
        raise UserError("trainer.devices=null: without GPUs say how many processes, e.g. trainer.devices=2")
    devices = there if devices is None else devices
    if accelerator == "gpu" and devices > there:
        raise UserError(f"trainer.devices={devices}: torch finds {there} CUDA devices here")
    ddp = DDPStrategy(gradient_as_bucket_view=True, find_unused_parameters=in_phases)
    strategy = ddp if devices * num_nodes > 1 else "auto"
    return {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes, "strategy": strategy}


def _prepare(
    module: TrainingModule, precision: str, sample_precision: str, tf32: bool, channels_last: bool, compile: Compile
) -> None:
    """What changes no result but by rounding."""
    check_precisions(precision, sample_precision)
    if precision == "64-true":
        module.double()  # Lightning would only after it has read the checkpoint
    module.model.sample_in_bf16 = sample_precision == "bf16-mixed"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True  # batches have one shape; benchmark= and deterministic= of Lightning come later
    if channels_last:
        module.model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile:
        compile_model(module.model, compile, "trainer.compile")
