"""A run of several processes, before Lightning starts: the number of this process, and the folder that all share.

On one machine Lightning starts the other processes itself. Process 0 passes them the folder in an environment variable, and
they read the configuration there. torchrun and srun start all processes at once: they open a process group, process 0 chooses
the folder, and broadcasts it or its refusal. Under SLURM the job's number names the folder, so a requeued job uses it again.
"""

import atexit
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from omegaconf import DictConfig

from ddpm_lab.errors import UserError

FOLDER = "DDPM_LAB_RUN_FOLDER"

Decision = TypeVar("Decision")


def number() -> int:
    """Rank of this process, from the environment; 0 if there is none."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK") if in_slurm() else ("RANK", "LOCAL_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def in_slurm() -> bool:
    """Whether srun started this process as one of several."""
    return int(os.environ.get("SLURM_NTASKS", 1)) > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def in_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def started() -> int:
    """Number of processes that torchrun or srun started; 1 without them."""
    return int(os.environ["WORLD_SIZE"]) if in_torchrun() else int(os.environ["SLURM_NTASKS"]) if in_slurm() else 1


def requeued() -> bool:
    """Whether SLURM has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def check(world: int) -> None:
    """Raises UserError if torchrun or srun started another number of processes than the trainer's `world`: each would train
    alone in the same folder, or wait forever for the others."""
    if started() not in (1, world):
        raise UserError(
            f"{started()} processes were started, and the trainer has {world}: use trainer=ddp, with trainer.devices processes "
            "on each of trainer.num_nodes machines"
        )


def started_by_another() -> bool:
    """Whether Lightning in process 0 started this process."""
    return FOLDER in os.environ and not in_torchrun() and not in_slurm() and number() > 0


def configuration() -> "tuple[DictConfig, Path]":
    """The configuration and the run folder of a process that process 0 started."""
    from omegaconf import DictConfig, OmegaConf

    folder = Path(os.environ[FOLDER])
    cfg = OmegaConf.load(folder / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return cfg, folder


def agree(decide: Callable[[], Decision], cfg: "DictConfig") -> Decision:
    """The decision of process 0, on every process. If it raises, all processes end with its exit code."""
    if started() == 1:
        return decide()
    from ddpm_lab import ranks

    _meet(cfg)
    decision = None
    with ranks.by_first():
        if number() == 0:
            decision = decide()
    return ranks.agreed(decision)


def _meet(cfg: "DictConfig") -> None:
    """Opens the process group that Lightning will use. Raises UserError if the trainer has another number of processes."""
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count() if cfg.trainer.accelerator != "cpu" else 0
    if devices := cfg.trainer.devices or gpus:
        check(devices * cfg.trainer.num_nodes)
    if in_slurm():
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        try:
            slurm = SLURMEnvironment()
        except RuntimeError as error:  # --ntasks, and Lightning needs --ntasks-per-node
            raise UserError(str(error)) from error
        os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
    if gpus:
        torch.cuda.set_device(int(os.environ["SLURM_LOCALID" if in_slurm() else "LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpus else "gloo", rank=number(), world_size=started())
    atexit.register(_part)


def _part() -> None:
    """Closes the group: its threads would abort a process that ends early."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
