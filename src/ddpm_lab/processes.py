"""A run of several processes, before Lightning starts: the number of this process, and the folder that all share.

On one machine Lightning starts the other processes itself. Process 0 passes them the folder in an environment variable, and
they read the configuration there. torchrun and srun start all processes at once: they open a process group, process 0 chooses
the folder, and broadcasts it or its refusal. Whether srun started a process, and with how many others, the variables of its
step say; those of its job are there in a batch script and in the shell of salloc too.
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
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and not in_torchrun()


def job() -> str | None:
    """Number of the job of SLURM in which this process runs, unless somebody types there."""
    return None if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive") else os.environ.get("SLURM_JOB_ID")


def in_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def started() -> int:
    """Number of processes that torchrun or srun started; 1 without them."""
    if in_torchrun():
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ["SLURM_STEP_NUM_TASKS"]) if in_slurm() else 1


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


def exit_code(code: int) -> int:
    """Of a process that has reported its error. Lightning kills process 0 when one that it started ends with another code than
    0. Over gloo process 0 sees the connection go, and ends by itself with a code that says so; over NCCL it may wait."""
    if not started_by_another():
        return code
    import torch.distributed as dist

    return 0 if dist.is_initialized() and dist.get_backend() == "gloo" else code


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
        _check_alone(cfg)
        decision = decide()
        _tell_lightning()
        return decision
    from ddpm_lab import ranks

    _meet(cfg)
    decision = None
    with ranks.by_first():
        if number() == 0:
            decision = decide()
    return ranks.agreed(decision)


def _check_alone(cfg: "DictConfig") -> None:
    """Raises UserError where a run of several processes was started once in a job of several tasks."""
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    if tasks > 1 and "SLURM_STEP_ID" not in os.environ and (cfg.trainer.devices, cfg.trainer.num_nodes) != (1, 1):
        raise UserError(
            f"this job of SLURM has {tasks} tasks, and the command was started once, so it would wait for the others: "
            "type srun before it, as in srun python train.py ..."
        )


def _tell_lightning() -> None:
    """Sets the variables by which Lightning decides whether srun started it, and with how many others, to what the step says.
    By itself it goes by those of the job, whose size and name may be others."""
    if "SLURM_JOB_ID" in os.environ:
        os.environ["SLURM_JOB_NAME"] = "ddpm-lab" if in_slurm() else "interactive"
    if in_slurm():
        nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
        os.environ |= {"SLURM_NNODES": str(nodes), "SLURM_NTASKS_PER_NODE": str(started() // nodes)}


def _meet(cfg: "DictConfig") -> None:
    """Opens the process group that Lightning will use. Raises UserError if the trainer has another number of processes."""
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count() if cfg.trainer.accelerator != "cpu" else 0
    if devices := cfg.trainer.devices or gpus:
        check(devices * cfg.trainer.num_nodes)
    if in_slurm():
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        _tell_lightning()
        slurm = SLURMEnvironment()
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
