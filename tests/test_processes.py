"""Several processes, and pieces of a batch, give what one process gives."""

import csv
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Process
from helpers import ROOT, arrays, command, command_here, environment
from PIL import Image

from ddpm_lab.models.checkpoint import read_checkpoint

pytestmark = pytest.mark.timeout(300)

RUN = [
    "experiment=smoke",
    "net.dropout=0",
    "trainer.precision=64-true",
    "schedule.T=6",
    "timesteps=importance",
    "timesteps.history=2",
    "trainer.max_steps=12",
    "trainer.validate_every=6",
    "trainer.log_every=3",
    "callbacks.samples.n=5",
    "callbacks.samples.rows=4",
    "callbacks.frechet.n=9",
    "data.conditional=true",
    "guidance=classifier_free",
]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


STRATIFIED = [*(o for o in RUN if not o.startswith(("timesteps", "data", "guidance"))), "timesteps=stratified"]


def run(folder: Path, name: str, *more: str, start: list[str] = RUN) -> Path:
    """The folder of a run, with its plots."""
    values = dict(argument.split("=", 1) for argument in (*start, *more))  # the later one wins
    words = [*(f"{key}={value}" for key, value in values.items()), f"run.name={name}"]
    done = command(*words, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "outputs" / "smoke" / name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def one(place):
    return run(place, "one")


@pytest.fixture(scope="module")
def two(place):
    return run(place, "two", *TWO)


def last(folder: Path) -> dict:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "train/images_per_s"} for row in csv.DictReader(file)]


def assert_same_numbers(a: Path, b: Path, atol: float) -> None:
    x, y = last(a), last(b)
    averages = [key for key in x if key.startswith("ema/")]
    for key in ("state_dict", *averages):
        for name, value in x[key].items():
            torch.testing.assert_close(y[key][name], value, rtol=0, atol=atol)
    for i, moments in x["optimizer_states"][0]["state"].items():
        torch.testing.assert_close(y["optimizer_states"][0]["state"][i]["exp_avg"], moments["exp_avg"], rtol=0, atol=atol)
    assert torch.equal(x["timesteps"]["count"], y["timesteps"]["count"])
    torch.testing.assert_close(x["timesteps"]["losses"], y["timesteps"]["losses"], rtol=0, atol=1e-6)
    assert [row["step"] for row in rows(a)] == [row["step"] for row in rows(b)]
    for mine, theirs in zip(rows(a), rows(b), strict=True):
        assert {k: float(v) for k, v in mine.items() if v} == pytest.approx(
            {k: float(v) for k, v in theirs.items() if v}, rel=1e-5
        )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def srun(cwd: Path, *arguments: str, restarts: int = 0) -> list[subprocess.Popen]:
    """Two processes, started as SLURM starts those of job 77."""
    job = {
        "STEP_NUM_TASKS": 2,
        "NTASKS": 2,
        "NTASKS_PER_NODE": 2,
        "NNODES": 1,
        "NODEID": 0,
        "JOB_ID": 77,
        "JOB_NAME": "ddpm",
        "RESTART_COUNT": restarts,
    }
    env = environment() | {f"SLURM_{key}": str(value) for key, value in job.items()}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        Process(
            [sys.executable, ROOT / "train.py", *arguments],
            cwd=cwd,
            text=True,
            env=env | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]


def assert_one_speaks(processes: list[subprocess.Popen], code: int, *said: str) -> None:
    """All end with `code`; the first says why, in one line, and the others nothing."""
    (_, error), *others = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), error
    assert [error for _, error in others] == [""] * len(others)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for text in said:
        assert text in error


def test_two_processes_equal_one(one, two):
    """Gradients (Adam's first moment), weights, averages, the history of importance sampling, and every logged number."""
    assert_same_numbers(one, two, atol=1e-10)


def test_they_measure_and_draw_together(one, two):
    mine, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (one, two))
    for key, metric in mine["metrics"].items():
        assert theirs["metrics"][key]["value"] == pytest.approx(metric["value"], rel=1e-5)
    assert mine["images_seen"] == theirs["images_seen"] == 12 * 128
    a, b = arrays(one / "vlb_terms.npz"), arrays(two / "vlb_terms.npz")
    np.testing.assert_allclose(a["terms_bpd"], b["terms_bpd"], rtol=1e-6)
    np.testing.assert_array_equal(a["terms_n"], b["terms_n"])
    for path in sorted((one / "samples").iterdir()):
        pictures = [np.asarray(Image.open(folder / "samples" / path.name)).astype(int) for folder in (one, two)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_they_leave_one_run_folder_and_speak_once(two):
    assert [path.name for path in two.parent.iterdir() if path.name.startswith("two")] == ["two"]
    names = {path.relative_to(two).as_posix() for path in two.rglob("*") if path.is_file()}
    assert {"config.yaml", "summary.json", "train.log", "metrics.csv"} <= names
    log = (two / "train.log").read_text()
    assert log.count("on 2 processes") == log.count("measuring") == 1
    assert len({row["step"] for row in rows(two)}) == len(rows(two))


def test_pieces_of_a_batch_equal_the_whole(place):
    """Importance sampling looks at the losses of each piece, so here t is uniform."""
    whole, pieces = (run(place, f"pieces{k}", f"trainer.accumulate={k}", start=STRATIFIED) for k in (1, 4))
    x, y = last(whole), last(pieces)
    assert x["global_step"] == y["global_step"] == 12
    for name, value in x["state_dict"].items():
        torch.testing.assert_close(y["state_dict"][name], value, rtol=0, atol=1e-10)
    mine, theirs = ([{k: float(v) for k, v in row.items() if v} for row in rows(folder)] for folder in (whole, pieces))
    assert mine == [pytest.approx(row, rel=1e-5) for row in theirs]


@pytest.mark.slow
def test_two_processes_resume_exactly_and_one_only_if_told_to(place, two):
    half = run(place, "half", *TWO, "net.dropout=0.1", "trainer.max_steps=8")
    done = command_here(f"resume={half}", "trainer.max_steps=12", "trainer.devices=1", cwd=place)
    assert done.returncode == 2
    assert "that run had 2 processes and this one has 1" in done.stderr
    assert "trainer.other_world_size=true" in done.stderr
    assert command(f"resume={half}", "trainer.max_steps=12", cwd=place).returncode == 0
    whole = run(place, "whole", *TWO, "net.dropout=0.1")
    x, y = last(half), last(whole)
    assert x["global_step"] == y["global_step"] == 12
    assert all(torch.equal(value, y["state_dict"][name]) for name, value in x["state_dict"].items())
    assert [row["step"] for row in rows(half)] == ["3", "6", "9", "12"]  # stopped between two of them
    assert rows(half) == rows(whole)
    told = command(f"resume={half}", "trainer.max_steps=13", "trainer.devices=1", "trainer.other_world_size=true", cwd=place)
    assert told.returncode == 0, told.stderr


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    done = command_here(*RUN, *TWO, "data.batch_size=15", cwd=tmp_path)
    assert done.returncode == 2
    assert "data.batch_size=15" in done.stderr
    assert "multiple of 2" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_all_stop_when_one_meets_a_number_that_is_not_finite(tmp_path):
    done = command(*STRATIFIED, *TWO, "optim.lr=1e30", "optim.warmup=0", "run.name=x", cwd=tmp_path)
    assert done.returncode != 0
    assert "error: the loss is not finite at step" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.soak
def test_torchrun_starts_them_as_well(place, one):
    arguments = [*RUN, *TWO, "run.name=torchrun"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "train.py")]
    done = subprocess.run([*torchrun, *arguments], cwd=place, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert_same_numbers(one, place / "outputs" / "smoke" / "torchrun", atol=1e-10)


@pytest.mark.soak
def test_torchrun_with_a_trainer_of_one_process_is_refused(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "train.py")]
    done = subprocess.run([*torchrun, *RUN], cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert done.returncode != 0
    assert "2 processes were started" in done.stderr
    assert "trainer=ddp" in done.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.soak
def test_two_machines_with_a_process_each(place, one):
    """Both of them this one."""
    port = free_port()
    arguments = [*RUN, "trainer=ddp_multinode", "trainer.accelerator=cpu", "trainer.devices=1", "run.name=machines"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
    machines = [
        subprocess.Popen(
            [*torchrun, f"--master-port={port}", f"--node-rank={rank}", str(ROOT / "train.py"), *arguments],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        for rank in range(2)
    ]
    said = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert_same_numbers(one, place / "outputs" / "smoke" / "machines", atol=1e-10)


@pytest.mark.soak
def test_a_requeued_job_goes_on_and_equals_one_that_was_not(place, one):
    folder = place / "outputs" / "smoke" / "slurm-77"
    for restarts in range(2):
        processes = srun(place, *RUN, *TWO, "callbacks.checkpoints.last_every=2", restarts=restarts)
        while restarts == 0 and not (folder / "checkpoints" / "last.ckpt").exists() and processes[0].poll() is None:
            time.sleep(0.005)
        for process in processes if restarts == 0 else ():
            process.kill()
        said = [process.communicate() for process in processes]
        assert [process.returncode for process in processes] == ([0, 0] if restarts else [-signal.SIGKILL] * 2), said
    assert "going on from" in (folder / "train.log").read_text()
    assert_same_numbers(one, folder, atol=1e-10)


@pytest.mark.soak
def test_a_requeued_job_without_a_checkpoint_begins_again(tmp_path):
    folder = tmp_path / "outputs" / "smoke" / "slurm-77"
    folder.mkdir(parents=True)
    processes = srun(tmp_path, *RUN, *TWO, restarts=1)
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert (folder.with_name("slurm-77_2") / "summary.json").exists()  # the first is empty, and may be somebody's


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("run.root=file", "run.root: file/smoke/slurm-77 cannot be made"),
        ("data=cifar10 data.download=false net.attention=[16]", "cifar-10-python.tar.gz is not there, and data.download=false"),
    ],
)
def test_what_process_0_alone_meets_ends_all(wrong, said, tmp_path):
    (tmp_path / "file").touch()
    assert_one_speaks(srun(tmp_path, *RUN, *TWO, *wrong.split()), 2, said)


@pytest.mark.soak
def test_a_checkpoint_that_cannot_be_written_ends_all(tmp_path):
    limited = ["bash", "-c", 'ulimit -f 100 && exec "$@"', "bash", sys.executable, ROOT / "train.py"]
    done = subprocess.run(
        [*limited, *RUN, *TWO, "run.name=full"], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert told.startswith("error: outputs/smoke/full/checkpoints/last.ckpt: could not be written (File too large)")
