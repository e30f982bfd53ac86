"""The command as a user meets it: mistakes are one message, exit code 2, nothing left behind; runs leave what they say."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import patch

import pytest
from forked import Process
from helpers import ROOT, TINY, command, command_anew, command_here, digest, environment
from omegaconf import OmegaConf

from ddpm_lab import pictures
from ddpm_lab.core import grey
from ddpm_lab.likelihood import bound

NAMES = {
    "schedule=cosin": ("schedule=cosin", "schedule=cosine", "cosine, jsd, "),
    "shedule=cosine": ("shedule=cosine", "Did you mean schedule=cosine?"),
    "loss=vbl": ("loss=vbl", "loss=vlb", "min_snr, p2, simple, "),
    "+learnin_rate=1": ("+learnin_rate=1", "optim.lr"),
    "sweep=variance": ("sweep=variance", "add -m"),
    "seed=1,2": ("seed=1,2", "-m"),
}
"""Answered from the yaml files alone."""
MISTAKES = {
    "schedule.T=-1": ("schedule.T=-1", "int in [1, 1000000]"),
    "optim.lr=abc": ("optim.lr=abc", "float > 0"),
    "variance=learned_range loss=simple": ("loss=simple", "variance=learned_range", "loss=hybrid", "variance=beta"),
    "loss=hybrid variance=beta": ("loss=hybrid", "variance=beta", "variance=learned_range"),
    "data=npz data.path=/nowhere": ("data.path=/nowhere", "file that exists"),
    "data=gaussian_mixture": ("net=unet_small", "vectors", "net=mlp"),
    "sampler.steps=1001": ("steps=1001", "T=1000"),
    "data=mnist data.pad=29": ("data.pad=29", "int >= 28", "multiple of 2"),
    "ema.also=[0.9,0.9]": ("ema.also=[0.9, 0.9]", "each decay once"),
    "schedule=linear schedule.T=19 sampler.steps=null schedule.rescale=true": ("schedule.T=19", "T >= 20"),
    "resume=nowhere": ("resume=nowhere", "run folder"),
    "-m trainer=ddp_multinode seed=1,2": ("trainer.num_nodes=2", "-m", "one machine"),
    "-m loss=simple,hybrid variance=beta": ("1 of the 2", "loss=hybrid"),
}


def assert_refused(done, *said: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr + done.stdout
    for text in said:
        assert text in done.stderr


@pytest.mark.parametrize("arguments", NAMES)
def test_a_wrong_name_is_answered_before_anything_heavy_is_imported(arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "train.py", *arguments.split()],
        cwd=tmp_path, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "ddpm_lab.config.preflight" in imported
    assert not imported & {"torch", "lightning", "numpy", "sklearn", "pydantic"}
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert_refused(done, *NAMES[arguments])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_answered_and_leaves_nothing(arguments, tmp_path):
    assert_refused(command_here(*arguments.split(), cwd=tmp_path), *MISTAKES[arguments])
    assert list(tmp_path.iterdir()) == []


def test_what_only_the_objects_know_is_one_message_too(tmp_path):
    done = command("schedule=constant", "schedule.beta=0.9", cwd=tmp_path)
    assert_refused(done, "schedule", "t = 324", "T=1000")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    done = command_anew(*TINY, "run.name=one", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, folder / "outputs" / "smoke" / "one", done.stdout


@pytest.fixture
def copied(finished, tmp_path):
    """The finished run in a folder of the test's own, and without the summary that says it is complete."""
    run = tmp_path / "outputs" / "smoke" / "one"
    shutil.copytree(finished[1], run)
    (run / "summary.json").unlink()
    return run


def test_a_run_leaves_what_it_says(finished):
    _, run, printed = finished
    for text in ("T = 10", "variance=auto: beta", "bits/dim", "Fréchet", "images seen", "written:"):
        assert text in printed
    for name in ("config.yaml", "metrics.csv", "vlb_terms.npz", "vlb_terms.png", "summary.json", "train.log"):
        assert (run / name).stat().st_size > 0
        assert name in printed
    summary = json.loads((run / "summary.json").read_text())
    assert summary["step"] == 2
    assert summary["images_seen"] == 32
    assert {"n", "seed", "weights", "sampler", "steps", "variance", "extractor"} <= summary["metrics"]["pixels_fd"].keys()
    assert {"n", "split", "seed", "weights", "unit", "stride"} <= summary["metrics"]["bound_bpd"].keys()
    assert {"versions", "git_revision", "device", "wall_seconds", "python"} <= summary.keys()


def test_a_forked_command_is_one_that_imports_everything(finished, tmp_path):
    """What it prints but for times, the files it leaves, and every number."""
    _, run, printed = finished
    done = command(*TINY, "run.name=one", cwd=tmp_path)
    forked = tmp_path / "outputs" / "smoke" / "one"
    assert done.returncode == 0, done.stderr
    texts = [
        [line.strip() for line in text.splitlines() if not re.search(" time |/s", line)] for text in (printed, done.stdout)
    ]
    assert texts[0] == texts[1]
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (run, forked)]
    assert files[0] == files[1]
    assert digest(run) == digest(forked)


SAYS = """
import json, os, sys, time
print(json.dumps([os.getppid(), os.getsid(0), os.getcwd(), os.environ["MINE"], sys.argv]), flush=True)
time.sleep(60)
"""


def test_a_forked_command_is_a_child_with_streams_environment_and_folder_of_its_own(tmp_path):
    """As an option of the user's own sees it, which is found by PYTHONPATH and a relative folder. A signal ends it alone."""
    (tmp_path / "mine.py").write_text(SAYS)
    (tmp_path / "conf" / "net").mkdir(parents=True)
    (tmp_path / "conf" / "net" / "mine.yaml").write_text("_target_: mine.Net\ndropout: 0.0\n")
    words = [sys.executable, str(ROOT / "train.py"), "net=mine", "--config-dir=conf"]
    env = environment() | {"MINE": "here", "PYTHONPATH": str(tmp_path)}
    with Process(words, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == [os.getpid(), process.pid, str(tmp_path), "here", words[1:]]
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_nothing_is_overwritten(finished):
    folder, run, _ = finished
    assert_refused(command_here(*TINY, "run.name=one", cwd=folder), "run.name=one", "exists", "resume=")
    assert_refused(command_here(f"resume={run}", cwd=folder), "complete at step 2", "trainer.max_steps")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("schedule.T=500", ("schedule.T=500 but the checkpoint has 10",)),
        ("schedule.T=11", ("schedule.T=11 but the checkpoint has 10",)),
        ("sampler.steps=11", ("steps=11", "T=10")),
        ("net.channels=16", ("net.channels=16 but the checkpoint has 8",)),
        ("schedule=cosine", ("schedule._target_", "schedule.offset")),
        ("optim.lr=0.1", ("optim.lr=0.1 but the checkpoint has 0.001",)),
        ("experiment=digits", ("leave experiment= out",)),
        ("trainer.accumulate=2", ("trainer.accumulate=2 but the checkpoint has 1",)),
        ("trainer.precision=bf16-mixed", ("trainer.precision=bf16-mixed but the checkpoint has 32-true",)),
    ],
)
def test_another_model_cannot_go_on_from_a_checkpoint(change, said, copied, tmp_path):
    assert_refused(command_here(f"resume={copied}", change, cwd=tmp_path), *said)


def test_an_option_named_on_resume_is_that_of_its_file_and_no_other_run(copied, tmp_path):
    """Not as the default experiment would have it; and how long the run is stays its own."""
    done = command_here(
        f"resume={copied}", "trainer=cpu", "sampler=ddim", "sampler.steps=4", "trainer.max_steps=3", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    config = OmegaConf.load(copied / "config.yaml")
    assert (config.trainer.max_steps, config.trainer.validate_every, config.trainer.log_every) == (3, 2, 1)
    assert (config.sampler.steps, config.sampler.eta) == (4, 0.0)


def test_a_run_whose_learning_rate_falls_over_all_of_it_has_no_other_length(tmp_path):
    """Complete, or stopped: only its own length goes on."""
    run = [*TINY, "optim.warmup=0", "optim.decay=cosine", "run.name=falls"]
    assert command_here(*run, cwd=tmp_path).returncode == 0
    folder = tmp_path / "outputs" / "smoke" / "falls"
    assert "Adam (learning rate falls by cosine from step 0 to step 2 and 0 of it)" in (folder / "train.log").read_text()
    assert_refused(command_here(f"resume={folder}", cwd=tmp_path), "complete at step 2", "optim.decay=cosine", "anew")
    for steps in (1, 3):
        done = command_here(f"resume={folder}", f"trainer.max_steps={steps}", cwd=tmp_path)
        assert_refused(done, f"trainer.max_steps={steps}: the checkpoint has 2", "optim.decay=cosine")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text" * 100])
def test_a_damaged_checkpoint_is_named_and_a_readable_one_beside_it(damage, copied, tmp_path):
    last = copied / "checkpoints" / "last.ckpt"
    last.write_bytes(damage(last.read_bytes()))
    done = command_here(f"resume={last}", cwd=tmp_path)
    assert_refused(done, str(last), "not a readable checkpoint", str(copied / "checkpoints" / "best.ckpt"))


def test_weights_of_another_network_are_refused(copied, tmp_path):
    """A checkpoint put where another run's was: its weights have other shapes than config.yaml says."""
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace("channels: 8", "channels: 16"))
    assert_refused(command_here(f"resume={copied}", cwd=tmp_path), "another network", "net.")


def test_a_loss_that_explodes_stops_the_run_and_says_where(tmp_path):
    exploding = ["optim.lr=1e30", "optim.warmup=0", "optim.clip=null", "trainer.max_steps=9"]
    done = command_here("experiment=smoke", "schedule.T=10", "run.name=explodes", *exploding, cwd=tmp_path)
    assert_refused(done, "not finite at step", "t in [")
    assert "not finite at step" in (tmp_path / "outputs" / "smoke" / "explodes" / "train.log").read_text()


def test_fast_dev_run_tries_everything_in_little_and_keeps_nothing(tmp_path):
    """Four samples are drawn, and each of 360 data is measured once at T = 10. A stride that needs more is refused as ever."""
    tried = [*TINY, "schedule=cosine", "loss=vlb", "trainer.fast_dev_run=true"]
    with (
        patch("ddpm_lab.likelihood.bound.measure", wraps=bound.measure) as measure,
        patch("ddpm_lab.training.callbacks.samples.save_grid", wraps=pictures.save_grid) as grid,
        patch("ddpm_lab.training.callbacks.frechet.quantise", wraps=grey.quantise) as quantise,
    ):
        done = command_here(*tried, "callbacks.samples.n=64", "callbacks.vlb_terms.stride=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nothing was kept" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert sum(len(call.args[3]) for call in measure.call_args_list) == 360
    assert [len(call.args[0]) for call in (*grid.call_args_list, *quantise.call_args_list)] == [4, 4]
    refused = command_here("experiment=smoke", "schedule.T=1000", "callbacks.vlb_terms.stride=200", tried[-1], cwd=tmp_path)
    assert_refused(refused, "callbacks.vlb_terms.stride=200", "400", "360")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """What a wheel holds, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT]
    subprocess.run(words, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def installed(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`ddpm-train WORDS`, outside the repository; its first line on stderr says whose code runs."""
    start = "import sys, ddpm_lab; print(ddpm_lab.__file__, file=sys.stderr); from ddpm_lab.cli.start import train; train()"
    path = {"PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-c", start, *words], cwd=cwd, capture_output=True, text=True, env=environment() | path
    )


@pytest.mark.slow
def test_a_wheel_has_every_module_and_option(site, tmp_path):
    expected = {path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*.py")}
    expected |= {"ddpm_lab" / path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    assert expected - {path.relative_to(site) for path in site.rglob("*") if path.is_file()} == set()
    done = installed(site, tmp_path, "--help", "schedule")
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stderr.splitlines()[0]
    assert "cosine" in done.stdout


@pytest.mark.soak
def test_an_installed_wheel_runs(site, tmp_path):
    done = installed(site, tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "outputs" / "smoke").iterdir())
