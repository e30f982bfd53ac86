"""A command in a job of SLURM: what the variables of a job and of its step say, and which folder it takes."""

import os
from pathlib import Path

import pytest
from helpers import FEW_HELD_OUT, TINY, command_here, composed
from omegaconf import DictConfig, OmegaConf

from ddpm_lab import processes
from ddpm_lab.cli.train import run_folder
from ddpm_lab.errors import UserError

TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
JOB = {"JOB_ID": 77, "JOB_NAME": "script.sh", "PROCID": 0, "LOCALID": 0, "NNODES": 1}
STEP = {"STEP_ID": 0, "STEP_NUM_NODES": 1}


@pytest.fixture
def job(monkeypatch):
    """Sets the variables of a job as SLURM 22.05 does."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in list(os.environ):
        if name.startswith(("SLURM", "TORCHELASTIC")) or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            del os.environ[name]

    def with_(**variables: object) -> None:
        os.environ.update({f"SLURM_{name}": str(value) for name, value in (JOB | variables).items()})

    return with_


def test_outside_of_slurm(job):
    assert (processes.number(), processes.started(), processes.requeued(), processes.job()) == (0, 1, False, None)


def test_one_of_several_tasks_of_a_step(job):
    job(**STEP, NTASKS=4, STEP_NUM_TASKS=4, PROCID=3, RESTART_COUNT=2)
    assert (processes.number(), processes.started(), processes.requeued(), processes.job()) == (3, 4, True, "77")
    assert not processes.started_by_another()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NTASKS": 2, "NTASKS_PER_NODE": 2},
        {**STEP, "NTASKS": 1, "NTASKS_PER_NODE": 2, "STEP_NUM_TASKS": 1},
        {"JOB_NAME": "interactive", "NTASKS": 2},
    ],
    ids=["batch", "batch of two tasks", "step of one task in a job of two", "salloc"],
)
def test_a_process_that_is_alone_trains_alone(job, tmp_path, variables):
    job(**variables)
    assert processes.started() == 1
    done = command_here(*TINY, *FEW_HELD_OUT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "smoke").iterdir()
    assert (folder.name == "slurm-77") == ("JOB_NAME" not in variables)


@pytest.mark.parametrize("name", ["script.sh", "interactive"])
def test_several_processes_without_srun_are_refused(job, tmp_path, name):
    job(JOB_NAME=name, NTASKS=2, NTASKS_PER_NODE=2)
    done = command_here(*TINY, *TWO, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this job of SLURM has 2 tasks")
    assert "srun python train.py" in done.stderr
    assert not (tmp_path / "outputs").exists()


def configuration(*words: str) -> DictConfig:
    cfg = composed(*TINY, *words)
    for key in ("sweep", "launcher"):
        cfg.pop(key)
    return cfg


def folder_of(*words: str) -> str:
    return run_folder(configuration(*words), {"data": "digits", "experiment": "smoke"}).name


def leave(name: str, *words: str, checkpoint: bool = True) -> None:
    """What a run has left that was cut short."""
    cfg, folder = configuration(*words), Path("outputs/smoke") / name
    (folder / "checkpoints").mkdir(parents=True)
    cfg.run.name = name
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    if checkpoint:
        (folder / "checkpoints" / "last.ckpt").touch()


def test_the_second_command_of_a_job_has_a_folder_of_its_own(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job()
    leave("slurm-77")
    assert [folder_of(), folder_of("seed=5")] == ["slurm-77_2", "slurm-77_3"]


def test_a_requeued_job_goes_on_where_its_configuration_is(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job(RESTART_COUNT=1)
    leave("slurm-77", "seed=1")
    leave("slurm-77_2", "seed=2")
    leave("slurm-77_3", "seed=3", checkpoint=False)
    assert [folder_of(f"seed={seed}") for seed in (1, 2, 3)] == ["slurm-77", "slurm-77_2", "slurm-77_3"]
    leave("mine", "seed=1")
    assert folder_of("seed=1", "run.name=mine") == "mine"
    with pytest.raises(UserError, match=r"^run\.name=mine: .* exists"):
        folder_of("seed=2", "run.name=mine")
