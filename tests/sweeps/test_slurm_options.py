"""What a job asks SLURM for, and what is refused before there is one."""

import sys
from pathlib import Path

import pretend_slurm
import pytest

from ddpm_lab.cli.sweep import launcher_of, plan_of, sweep
from ddpm_lab.config.options import conf_dir
from ddpm_lab.config.preflight import preflight
from ddpm_lab.errors import UserError
from ddpm_lab.sweeps.slurm import Slurm

pytest.importorskip("submitit")


def script_of(*words: str) -> str:
    """What sbatch would get for the first arm."""
    default = [] if any(word.startswith("launcher=") for word in words) else ["launcher=slurm"]
    arms = preflight(["-m", *words, *default, "seed=1"])
    plan = plan_of(arms, [], [conf_dir()])
    return launcher_of(arms, plan).executor(Path("x"), "s.0", plan.runs[0])._make_submission_file_text("true", "")


@pytest.mark.parametrize(
    ("trainer", "tasks", "gpus"), [(["cpu"], "1", None), (["gpu"], "1", "1"), (["ddp", "trainer.devices=2"], "2", "2")]
)
def test_what_a_job_asks_for(queue, trainer, tasks, gpus):
    choice, *more = trainer
    script = script_of(f"trainer={choice}", *more, "launcher.minutes=90", "launcher.partition=gpu", "launcher.cpus=6")
    found = pretend_slurm.options(script)
    assert found["ntasks-per-node"] == tasks
    assert found["nodes"] == "1"
    assert found.get("gpus-per-node") == gpus
    assert (found["time"], found["partition"], found["cpus-per-task"]) == ("90", "gpu", "6")
    assert (found["job-name"], found["signal"], found["no-requeue"]) == ("s.0", "TERM@120", "")
    assert not {"mem", "account", "qos", "constraint"} & found.keys()
    assert "--cpus-per-task=6" in next(line for line in script.splitlines() if line.startswith("srun "))


def test_the_rest_of_what_a_job_asks_for(queue):
    words = [
        "launcher.account=physics", "launcher.qos=long", "launcher.memory_gb=1.5", "launcher.gpu=a100", "launcher.notice=300",
        "launcher.constraint='a|b'", "launcher.more=['--nice=100',--exclusive]", "launcher.setup=['module load cuda']",
    ]  # fmt: skip
    text = script_of("trainer=gpu", "trainer.devices=2", *words)
    found = pretend_slurm.options(text)
    assert (found["account"], found["qos"], found["mem"], found["constraint"]) == ("physics", "long", "1536M", "a|b")
    assert (found["gpus-per-node"], found["signal"], found["nice"], found["exclusive"]) == ("a100:2", "TERM@300", "100", "")
    assert "time" not in found
    assert text.index("\nmodule load cuda\n") < text.index("\nsrun ")


def test_a_file_of_ones_own_is_a_launcher(queue):
    Path("own/launcher").mkdir(parents=True)
    Path("own/launcher/cluster.yaml").write_text("# ours\ndefaults: [slurm, _self_]\npartition: short\nminutes: 30\n")
    found = pretend_slurm.options(script_of("--config-dir=own", "launcher=cluster", "launcher.minutes=45"))
    assert (found["partition"], found["time"]) == ("short", "45")


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ("launcher.more=[nice]", "launcher.more: nice: allowed is "),
        ("launcher.more=['--time=5']", "launcher.more: --time=5: write launcher.minutes=... instead"),
        ("launcher.more=[--requeue]", "launcher.more: --requeue: "),
        ("launcher.gpu=a100", "launcher.gpu=a100: "),
        ("trainer=ddp", "trainer.devices=null: "),
        ("launcher.minutes=0", "launcher.minutes=0: allowed is int >= 1 or null"),
        ("launcher.minutes=3", "launcher.minutes=3: a run starts for a minute, and saves launcher.notice=120 seconds before"),
        ("launcher.minutes=1 launcher.notice=30", "launcher.minutes=1: "),
        ("launcher.minute=5", "launcher.minute=5: launcher=slurm has no such key"),
    ],
)
def test_nonsense_is_refused_before_anything_is_made(queue, words, start):
    with pytest.raises(UserError) as refusal:
        sweep(preflight(["-m", "launcher=slurm", "seed=1", *words.split()]), [])
    assert str(refusal.value).startswith(start)
    assert not Path("outputs").exists()


def test_without_slurm_or_submitit(queue, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"^launcher=slurm: .*sbatch, srun, scancel, squeue, sacct"):
        sweep(preflight(["-m", "launcher=slurm", "seed=1"]), [])
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"^launcher=slurm: .* pip install 'ddpm-lab\[slurm\]'$"):
        sweep(preflight(["-m", "launcher=slurm", "seed=1"]), [])
    assert not Path("outputs").exists()


def test_an_experiment_that_chooses_a_launcher_is_a_sweep(queue):
    Path("own/experiment").mkdir(parents=True)
    Path("own/experiment/mine.yaml").write_text("# @package _global_\n# ours\ndefaults:\n  - override /launcher: slurm\n")
    with pytest.raises(UserError, match=r"^this experiment chooses a launcher, .* add -m, or launcher=local"):
        preflight(["--config-dir=own", "experiment=mine"])
    assert len(preflight(["--config-dir=own", "experiment=mine", "launcher=local"])) == 1


@pytest.mark.parametrize(("name", "value"), [("notice", 29), ("minutes", 0), ("cpus", 1.5), ("partition", ""), ("more", [1])])
def test_a_setting_outside_its_domain_is_refused_for_python_callers(queue, name, value):
    with pytest.raises(ValueError, match=f"^{name}="):
        Slurm(**{name: value}, plan=plan_of(preflight(["-m", "seed=1"]), [], [conf_dir()]))
