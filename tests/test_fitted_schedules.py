"""Schedules that are fitted before training: what is stored, who needs the data or the pilot afterwards, what is refused."""

import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import TINY, command_here, composed, digest, trained
from omegaconf import OmegaConf

from ddpm_lab import load
from ddpm_lab.cli.fit import train
from ddpm_lab.config.build import training_identity
from ddpm_lab.config.fit import fitted
from ddpm_lab.config.nested import plain
from ddpm_lab.config.unfitted import unfitted
from ddpm_lab.core.fitted import constant_rate, tangent
from ddpm_lab.data.digits import Digits
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint

TANGENT = [*TINY, "schedule=tangent"]
WORDS = [word for word in TINY if not word.startswith("schedule.T")]


@pytest.fixture(scope="module")
def pilot(run_of) -> Path:
    return run_of(*TINY, "schedule=cosine", "schedule.T=200")


@pytest.fixture(scope="module")
def of_data(run_of) -> Path:
    return run_of(*TANGENT)


def by_pilot(pilot: Path) -> list[str]:
    return [*TINY, "schedule=constant_rate", f"schedule.pilot={pilot}", "schedule.n=32"]


def schedule_of(folder: Path) -> dict[str, Any]:
    return plain(OmegaConf.load(folder / "config.yaml").schedule)


def test_variances_are_those_of_the_training_data(of_data):
    data = Digits()
    data.setup()
    x = data.scaled("train").double().flatten(1).numpy()
    expected = np.maximum(np.linalg.eigvalsh(np.cov(x.T))[::-1], (2 / 16) ** 2 / 12)
    stored = schedule_of(of_data)
    assert np.allclose(stored["variances"], expected, rtol=1e-5)
    assert stored["measured_n"] == len(x) == 1437
    assert all(type(one) is float for one in stored["variances"])
    line = next(line for line in (of_data / "train.log").read_text().splitlines() if "tangent law" in line)
    assert all(word in line for word in ("1437 training data", "64 variances", "0.0013", "2.8"))


def test_the_table_of_a_run_is_that_of_its_numbers(of_data):
    run = load(of_data)
    assert torch.equal(run.diffusion.schedule.alphas_bar, tangent(10, variances=schedule_of(of_data)["variances"]).alphas_bar)
    assert read_checkpoint(of_data / "checkpoints" / "last.ckpt")["config"]["schedule"] == schedule_of(of_data)


@pytest.mark.parametrize("quantity", ["x0", "eps"])
def test_distances_are_those_of_the_pilot(quantity, pilot):
    """Between two times, by its network called here, and of its whole log SNR."""
    cfg = fitted(composed(*by_pilot(pilot), f"schedule.quantity={quantity}"))
    run, data, ab = load(pilot), Digits(), load(pilot).diffusion.schedule.alphas_bar
    data.setup()
    log_snr = torch.logit(ab[1:])
    assert np.allclose(cfg.schedule.log_snr[0], log_snr[0], rtol=1e-5)
    assert np.allclose(cfg.schedule.log_snr[-1], log_snr[-1], rtol=1e-5)
    from ddpm_lab.core import rng

    x0, eps, seen = data.scaled("train", 32), rng.normal((1, 8, 8), 0, "errors", 0, 0, 32), []
    for place in (7, 8):
        t = int((log_snr - cfg.schedule.log_snr[place]).abs().argmin()) + 1
        scale, noise = float(ab[t] ** 0.5), float((1 - ab[t]) ** 0.5)
        with torch.no_grad():
            eps_hat = run.net(scale * x0 + noise * eps, torch.full((32,), t))
        x0_hat = (scale * x0 + noise * eps - noise * eps_hat) / scale
        seen.append(x0_hat.clamp(-1, 1) if quantity == "x0" else eps_hat)
    assert np.allclose(cfg.schedule.distances[7], float((seen[1] - seen[0]).double().pow(2).mean().sqrt()), rtol=1e-4)


def test_fits_are_the_same_again_and_for_every_seed(pilot):
    for words in (TANGENT, by_pilot(pilot)):
        first, again, other = (fitted(composed(*words, f"seed={seed}")).schedule for seed in (0, 0, 1))
        assert first == again == other
    assert fitted(composed(*TANGENT, "schedule.n=500")).schedule.variances != fitted(composed(*TANGENT)).schedule.variances


def test_the_numbers_are_what_is_trained(pilot):
    cfg = composed(*TANGENT)
    before, after = training_identity(cfg), training_identity(fitted(cfg))
    cfg.schedule.variances[3] *= 1.5
    assert len({before, after, training_identity(cfg)}) == 3


def test_neither_loading_nor_resuming_needs_the_pilot(pilot, tmp_path):
    gone = shutil.copytree(pilot, tmp_path / "pilot")
    run = trained(tmp_path / "run", *by_pilot(gone))
    whole = trained(tmp_path / "whole", *by_pilot(gone), "trainer.max_steps=4")
    shutil.rmtree(gone)
    stored = schedule_of(run)
    expected = constant_rate(10, log_snr=stored["log_snr"], distances=stored["distances"]).alphas_bar
    assert torch.equal(load(run).diffusion.schedule.alphas_bar, expected)
    assert str(gone) in (run / "train.log").read_text()
    done = command_here(f"resume={run}", "trainer.max_steps=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert schedule_of(run) == stored == schedule_of(whole)
    assert digest(run) == digest(whole)


def test_a_head_has_the_fitted_schedule_of_its_base(of_data, tmp_path):
    base = shutil.copytree(of_data, tmp_path / "base")
    done = command_here("head=sn", f"base={base}", "trainer.max_steps=2", "callbacks=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert schedule_of(base / "heads" / "sn") == schedule_of(base)


def test_a_run_that_trains_nothing_has_the_numbers_of_the_one_that_did(of_data, tmp_path):
    cfg = composed(*TANGENT, "variance=beta_tilde", f"run.trained_in={of_data}")
    with patch.object(Digits, "setup", side_effect=AssertionError("no data are needed")):
        assert fitted(cfg).schedule == OmegaConf.load(of_data / "config.yaml").schedule
    other = fitted(composed(*TANGENT, "schedule.n=500", "variance=beta_tilde", f"run.trained_in={of_data}"))
    with pytest.raises(UserError, match=r"trained otherwise, by its schedule"):
        train(other, tmp_path / "run", None, None, 0.0)


@pytest.mark.soak
def test_a_sweep_over_fixed_and_fitted_schedules(of_data, tmp_path):
    """Every arm fits for itself, and finds what a single run finds."""
    words = ["-m", *WORDS, "schedule=linear,tangent", "schedule.T=10", "sweep.n_jobs=1", "sweep.name=both"]
    done = command_here(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {schedule_of(path.parent)["_target_"]: path.parent for path in tmp_path.glob("outputs/multirun/both/*/config.yaml")}
    assert schedule_of(found["ddpm_lab.core.fitted.tangent"]) == schedule_of(of_data)
    assert digest(found["ddpm_lab.core.fitted.tangent"]) == digest(of_data)


def test_a_compose_measures_nothing():
    assert unfitted(composed("schedule=tangent")) is not None
    assert unfitted(composed("schedule=tangent", "schedule.variances=[1.0]")) is None
    assert unfitted(composed("schedule=cosine")) is None


@pytest.fixture(scope="module")
def unfinished(pilot, tmp_path_factory):
    folder = shutil.copytree(pilot, tmp_path_factory.mktemp("unfinished") / "run")
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture(scope="module")
def vectors(run_of):
    few = ["trainer.max_steps=2", "trainer.validate_every=2", "trainer.log_every=1", "schedule.T=10", "data.batch_size=16"]
    small = [
        "data.n_train=100",
        "data.n_val=50",
        "callbacks.frechet.n=8",
        "callbacks.samples.n=4",
        "callbacks.vlb_terms.stride=5",
    ]
    return run_of("experiment=gaussian_mixture", *few, *small)


TYPED = "schedule=constant_rate schedule.log_snr=[8.0,-8.0] schedule.distances=[1.0]"
REFUSED = {
    "schedule=constant_rate": ("schedule=constant_rate", "schedule.pilot=RUN"),
    "schedule=constant_rate schedule.pilot=nowhere": ("schedule.pilot=nowhere", "no such file or folder"),
    "schedule=constant_rate schedule.pilot=FILE": ("schedule.pilot=", "a checkpoint", "folder of a run"),
    "schedule=constant_rate schedule.pilot=UNFINISHED": ("schedule.pilot=", "not complete at step 2", "resume="),
    "schedule=constant_rate schedule.pilot=VECTORS": ("schedule.pilot=", "shape (2,)", "shape (1, 8, 8)"),
    "schedule=constant_rate schedule.pilot=PILOT data.levels=2": ("schedule.pilot=", "17 grey levels", "2 grey levels"),
    "schedule=constant_rate schedule.pilot=PILOT data.conditional=true": ("schedule.pilot=", "data.conditional"),
    "schedule=constant_rate schedule.distances=[1.0]": ("distances", "log_snr"),
    "schedule=constant_rate schedule.quantity=v": ("schedule.quantity=v", "x0", "eps"),
    f"{TYPED} schedule.pilot=PILOT": ("schedule.pilot=", "no effect beside schedule.distances"),
    f"{TYPED} schedule.quantity=eps": ("schedule.quantity=eps", "no effect beside schedule.distances"),
    "schedule=tangent schedule.variances=[1.0] schedule.n=5": ("schedule.n=5", "schedule.variances"),
    "schedule=tangent schedule.measured_n=5": ("schedule.measured_n=5", "not fitted"),
    "schedule=tangent schedule.n=1": ("schedule.n=1", ">= 2"),
    "schedule=cosine schedule.pilot=PILOT": ("schedule.pilot", "constant_rate"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_mistake_is_one_line_and_makes_no_folder(words, pilot, unfinished, vectors, tmp_path):
    places = {"FILE": pilot / "checkpoints" / "last.ckpt", "UNFINISHED": unfinished, "VECTORS": vectors, "PILOT": pilot}
    pairs = [word.split("=", 1) for word in words.split()]
    done = command_here(*TINY, *(f"{key}={places.get(value, value)}" for key, value in pairs), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert [part for part in REFUSED[words] if part not in done.stderr] == []
    assert not list(tmp_path.iterdir())
