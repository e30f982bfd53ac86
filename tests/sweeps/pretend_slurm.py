"""Stands in for SLURM's commands, where there is none: jobs are processes of this machine, started, signalled and told of as
sbatch, srun, scancel, squeue and sacct would. What it keeps is in the folder PRETEND_SLURM, where a test may also ask for more:
`hold`: jobs stay in the queue; `limit`: seconds until they get the signal of their time limit; `room`: how many it takes;
`forgets`: squeue knows nothing of jobs that have ended; `no_accounting`: sacct does not answer."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scancel", "squeue", "sacct")


def install(folder: Path) -> None:
    """Executables of these names in `folder`."""
    folder.mkdir()
    for name in COMMANDS:
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)


def place(name: str) -> Path:
    return Path(os.environ["PRETEND_SLURM"]) / name


def asked(name: str, otherwise: float) -> float:
    return float(place(name).read_text()) if place(name).exists() else otherwise


def states() -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(place("").glob("*.state"))}


def become(job: str, state: str) -> None:
    partial = place(f"{job}.partial")
    partial.write_text(state)
    partial.replace(place(f"{job}.state"))


def options(script: str) -> dict[str, str]:
    words = [word for line in script.splitlines() if line.startswith("#SBATCH ") for word in shlex.split(line)[1:]]
    return {key: value for key, _, value in (word.removeprefix("--").partition("=") for word in words)}


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    given = options(text)
    if given.get("partition") == "nope":
        sys.exit(
            "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid partition"
        )
    if sum(state in ("PENDING", "RUNNING") for state in states().values()) >= asked("room", 1000):
        sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
    job = str(time.time_ns() // 1000)
    place(f"{job}.sbatch").write_text(text)
    place(f"{job}.inherited").write_text(json.dumps([key for key in os.environ if key.startswith("SLURM_")]))
    tasks = given["ntasks-per-node"]
    about = {"JOB_ID": job, "JOB_NAME": given["job-name"], "NTASKS": tasks, "NTASKS_PER_NODE": tasks, "NNODES": "1"}
    about |= {"JOB_NUM_NODES": "1", "NODEID": "0", "JOB_NODELIST": "localhost"}
    become(job, "PENDING")
    if not place("hold").exists():
        subprocess.Popen(
            [sys.executable, "-S", __file__, "work", job],
            env=os.environ | {f"SLURM_{key}": value for key, value in about.items()},
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    print("Submitted batch job", job)


def work(job: str) -> None:
    """What the first node of a job does."""
    become(job, "RUNNING")
    script = place(f"{job}.sbatch")
    batch = subprocess.Popen(["bash", script])
    try:
        batch.wait(asked("limit", 600))
    except subprocess.TimeoutExpired:
        scancel(f"--signal={options(script.read_text())['signal'].partition('@')[0]}", job)
    code = batch.wait()
    if states()[job] == "RUNNING":
        become(job, "FAILED" if code else "COMPLETED")


def srun(*words: str) -> None:
    left, files = list(words), {}
    while left[0].startswith("--"):
        flag = left.pop(0)
        if flag in ("--output", "--error"):
            files[flag] = left.pop(0)
    job, tasks = os.environ["SLURM_JOB_ID"], []
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        out, err = (Path(files[f].replace("%j", job).replace("%t", str(rank))) for f in ("--output", "--error"))
        env = os.environ | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        env |= {"SLURM_STEP_NUM_TASKS": os.environ["SLURM_NTASKS"]}
        with out.open("ab") as stdout, err.open("ab") as stderr:
            tasks.append(subprocess.Popen(left, env=env, stdout=stdout, stderr=stderr))
    place(f"{job}.tasks").write_text(" ".join(str(task.pid) for task in tasks))
    while any(task.poll() is None for task in tasks):
        time.sleep(0.02)
        if any(task.returncode for task in tasks) and "--kill-on-bad-exit=1" in words:
            signalled(job, signal.SIGKILL)
    sys.exit(max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks))


def signalled(job: str, number: int) -> None:
    for pid in place(f"{job}.tasks").read_text().split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), number)


def scancel(*words: str) -> None:
    flags, jobs = [word for word in words if word.startswith("--")], [word for word in words if not word.startswith("--")]
    refused = 0
    for job in jobs:
        state = states()[job]
        if flags == ["--state=PENDING"]:
            if state == "PENDING":
                become(job, "CANCELLED")
        elif flags and state != "RUNNING":
            refused = print(f"scancel: error: Kill job error on job id {job}", file=sys.stderr) or 1
        elif flags:
            signalled(job, signal.Signals[f"SIG{flags[0].removeprefix('--signal=')}"])
        else:
            become(job, "CANCELLED")
            if state == "RUNNING":
                signalled(job, signal.SIGKILL)
    if refused:
        sys.exit(refused)


def squeue(*words: str) -> None:
    assert words == ("--me", "--states=all", "--noheader", "--format=%A|%T|%M|%r")
    for job, state in states().items():
        if state in ("PENDING", "RUNNING") or not place("forgets").exists():
            print(job, state, "1-02:03:04", "Resources" if state == "PENDING" else "None", sep="|")


def sacct(*words: str) -> None:
    assert (words[0], *words[2:]) == ("-j", "-X", "-n", "-P", "-o", "State")
    if place("no_accounting").exists():
        sys.exit("Slurm accounting storage is disabled")
    print(states()[words[1]] + " by 0")


if __name__ == "__main__":
    {command.__name__: command for command in (sbatch, work, srun, scancel, squeue, sacct)}[sys.argv[1]](*sys.argv[2:])
