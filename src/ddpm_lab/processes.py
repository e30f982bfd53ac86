"""A run of several processes, before Lightning knows of them: which of them this is, and the folder that all must agree on.

Lightning starts the others of one machine itself: process 0 tells them the folder by an environment variable, and they read
the configuration there. torchrun and srun start all at once: they meet, process 0 decides, and the others hear what it
decided or that it refused. Under SLURM the job's number names the folder, so that a job that is requeued finds its own.
"""

import atexit
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.errors import UserError

FOLDER = "DDPM_LAB_RUN_FOLDER"

Decision = TypeVar("Decision")


def number() -> int:
    """Of this process, as whoever started it says; 0 where nobody does."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK") if in_slurm() else ("RANK", "LOCAL_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def in_slurm() -> bool:
    """Whether srun has started this process as one of several."""
    return int(os.environ.get("SLURM_NTASKS", 1)) > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def in_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def started() -> int:
    """How many torchrun or srun has started; 1 where neither did."""
    return int(os.environ["WORLD_SIZE"]) if in_torchrun() else int(os.environ["SLURM_NTASKS"]) if in_slurm() else 1


def requeued() -> bool:
    """Whether SLURM has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0


def check(world: int) -> None:
    """Raises UserError where torchrun or srun started another number of processes than the trainer knows of: each would run
    the whole alone, in one folder, or wait for others that do not come."""
    if started() not in (1, world):
        raise UserError(
            f"{started()} processes were started, and the trainer has {world}: use trainer=ddp, with the processes of each "
            "machine as trainer.devices and the machines as trainer.num_nodes"
        )


def started_by_another() -> bool:
    """Whether process 0 of this machine has started this process to help it."""
    return FOLDER in os.environ and not in_torchrun() and not in_slurm() and number() > 0


def configuration() -> tuple[DictConfig, Path]:
    """What such a process takes part in, and its folder."""
    folder = Path(os.environ[FOLDER])
    cfg = OmegaConf.load(folder / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return cfg, folder


def agree(decide: Callable[[], Decision], cfg: DictConfig) -> Decision:
    """What process 0 decides; its refusal is everybody's."""
    if started() == 1:
        return decide()
    from ddpm_lab import ranks

    _meet(cfg)
    decision = None
    with ranks.by_first():
        if number() == 0:
            decision = decide()
    return ranks.agreed(decision)


def _meet(cfg: DictConfig) -> None:
    """Open the process group that Lightning will find open. Raises UserError where others would be waited for in vain."""
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count() if cfg.trainer.accelerator != "cpu" else 0
    if devices := cfg.trainer.devices or gpus:
        check(devices * cfg.trainer.num_nodes)
    if in_slurm():
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        try:
            slurm = SLURMEnvironment()
        except RuntimeError as error:  # of --ntasks, where Lightning needs --ntasks-per-node
            raise UserError(str(error)) from error
        os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
    if gpus:
        torch.cuda.set_device(int(os.environ["SLURM_LOCALID" if in_slurm() else "LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpus else "gloo", rank=number(), world_size=started())
    atexit.register(_part)


def _part() -> None:
    """Close the group, whose threads would abort a process that ends early."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
