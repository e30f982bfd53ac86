"""A run of several processes, before they can talk: which of them this is, and the folder that all must agree on.

Lightning starts the others of one machine itself: process 0 tells them the folder by an environment variable, and they read
the configuration there. torchrun starts all at once, and process 0 sends the others its folder. Under SLURM the job's number
names it.
"""

import os
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ddpm_lab.errors import UserError

FOLDER = "DDPM_LAB_RUN_FOLDER"


def number() -> int:
    """Of this process, as whoever started it says; 0 where nobody does."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK") if in_slurm() else ("RANK", "LOCAL_RANK")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def in_slurm() -> bool:
    """Whether srun has started this process as one of several."""
    return int(os.environ.get("SLURM_NTASKS", 1)) > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def in_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def check(world: int) -> None:
    """Raises UserError where torchrun or srun started another number of processes than the trainer knows of: each would run
    the whole alone, in one folder."""
    started = int(os.environ["WORLD_SIZE"]) if in_torchrun() else int(os.environ["SLURM_NTASKS"]) if in_slurm() else world
    if started != world:
        raise UserError(
            f"{started} processes were started, and the trainer has {world}: use trainer=ddp, with the processes of each "
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


def name_for_all(cfg: DictConfig) -> None:
    """Under SLURM no process may look at the clock."""
    if in_slurm() and cfg.run.name is None:
        cfg.run.name = f"slurm-{os.environ['SLURM_JOB_ID']}"


def agree(choose: Callable[[], Path], cfg: DictConfig) -> Path:
    """The folder that process 0 chooses; its refusal is everybody's."""
    if not in_torchrun():
        return choose()
    import torch
    import torch.distributed as dist

    on_gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    box: list[Path | UserError | None] = [None]
    if number() == 0:
        try:
            box = [choose()]
        except UserError as error:
            box = [error]
    dist.broadcast_object_list(box, src=0)
    if isinstance(box[0], UserError):
        raise box[0]
    assert box[0] is not None
    return box[0]
