"""Runs of different models side by side: what is an axis, what may be held against what, and which errors are shared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare.synthetic import N, config, write_run
from compare.test_report import compared, comparison

MODELS = {"rbm": "ddpm_lab.models.rbm.RBM", "vae": "ddpm_lab.models.vae.VAE", "ae": "ddpm_lab.models.autoencoder.Autoencoder"}


def run_of(path: Path, model: str, seed: int = 1, bpd: Any = 3.0, shared_se: float | None = None, **settings: Any) -> Path:
    """Of a model that has neither schedule nor loss nor variance. `shared_se`: of log Z, in vlb_terms.npz."""
    write_run(path, config(seed), bpd)
    cfg = {key: value for key, value in config(seed).items() if key not in ("schedule", "loss", "variance")}
    (path / "config.yaml").write_text(json.dumps(cfg | {"model": {"_target_": MODELS[model]} | settings}))
    if shared_se is not None:
        arrays = dict(np.load(path / "vlb_terms.npz"))
        np.savez(path / "vlb_terms.npz", **arrays, shared_se=shared_se)
    return path


def edit_record(path: Path, **fields: Any) -> None:
    content = json.loads((path / "summary.json").read_text())
    content["metrics"]["bound_bpd"] |= fields
    (path / "summary.json").write_text(json.dumps(content))


def images(seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 0.3, N) + shift + np.random.default_rng(seed).normal(0, 0.01, N)


def half_width(tmp_path: Path, errors: list[tuple[float | None, float | None]]) -> float:
    """Of the interval over images of two choices with an error of log Z in each seed."""
    for seed, (a, b) in enumerate(errors, 1):
        run_of(tmp_path / f"a{seed}", "rbm", seed, images(seed), a, hidden=64)
        run_of(tmp_path / f"b{seed}", "rbm", seed, images(seed + 10, 0.1), b, hidden=128)
    (study,) = compared(tmp_path).studies
    result = comparison(study, "hidden=128")
    assert result.paired
    assert result.over_images is not None
    return (result.over_images.high - result.over_images.low) / 2


@pytest.mark.parametrize("errors", [[(0.03, 0.04)], [(0.04, 0.0), (0.0, 0.03)], [(None, 0.05)]])
def test_an_error_that_all_images_share_widens_the_interval_over_images(tmp_path, errors):
    without = half_width(tmp_path / "without", [(None, None)] * len(errors))
    variance = sum((error or 0.0) ** 2 for pair in errors for error in pair) / len(errors) ** 2
    expected = np.hypot(without, 1.96 * np.sqrt(variance))
    assert half_width(tmp_path / "with", errors) == pytest.approx(expected, rel=0.05)


def test_a_difference_within_the_error_of_log_z_is_open(tmp_path):
    for name, error in (("exact", 0.0), ("annealed", 0.1)):
        run_of(tmp_path / name / "a", "rbm", 1, images(1), error, hidden=64)
        run_of(tmp_path / name / "b", "rbm", 1, images(2, 0.05), error, hidden=128)
    verdicts = [comparison(compared(tmp_path / name).studies[0], "hidden=128").verdict for name in ("exact", "annealed")]
    assert verdicts == ["behind", "open"]


@pytest.mark.parametrize("error", [-0.1, float("nan"), [0.1, 0.1], 1])
def test_a_malformed_error_pairs_nothing(tmp_path, error):
    run_of(tmp_path / "a", "rbm", 1, images(1), hidden=64)
    run_of(tmp_path / "b", "rbm", 1, images(2), error, hidden=128)
    assert not comparison(compared(tmp_path).studies[0], "hidden=128").paired


def axes(*runs: Path) -> dict[str, str | None]:
    return compared(*runs).studies[0].compared.axes


def test_a_setting_that_differs_within_one_model_is_an_axis_beside_other_models(tmp_path):
    runs = [write_run(tmp_path / name, config(1, name)) for name in ("linear", "cosine")]
    runs.append(run_of(tmp_path / "vae", "vae"))
    study = compared(*runs).studies[0]
    assert study.compared.axes["schedule"] is None
    assert len({choice.label for choice in study.compared.choices}) == 3
    assert all("(" not in choice.label for choice in study.compared.choices)
    assert not {"loss", "variance", "schedule.T"} & set(axes(runs[0], runs[2]))


def test_the_name_of_the_model_stays_where_a_setting_determines_it(tmp_path):
    for model, hidden in (("rbm", 64), ("rbm", 128), ("vae", 400)):
        run_of(tmp_path / f"{model}{hidden}", model, hidden=hidden)
    study = compared(tmp_path).studies[0]
    assert study.compared.axes["model"] is None
    labels = [choice.label for choice in study.compared.choices]
    assert all(name in label for name, label in zip(("RBM", "RBM", "VAE"), labels, strict=True))


@pytest.mark.parametrize(("log_z", "allowed"), [("annealed importance sampling", False), (None, True)])
def test_a_bound_by_an_estimated_log_z_is_not_held_against_a_true_one(tmp_path, log_z, allowed):
    run_of(tmp_path / "a", "vae")
    edit_record(run_of(tmp_path / "b", "rbm"), **({} if log_z is None else {"log_z": log_z}))
    (study,) = compared(tmp_path).studies
    column = next(column for column in study.columns if column.measure.key == "bound_bpd")
    assert bool(column.comparisons) == allowed
    assert [d.field for each in column.refused.values() for d in each] == ([] if allowed else ["log_z"])


def test_the_baseline_is_the_first_choice_with_most_of_the_judged_numbers(tmp_path):
    first = run_of(tmp_path / "a", "ae")
    content = json.loads((first / "summary.json").read_text())
    content["metrics"] = {"psnr": {"value": 20.0, "unit": "dB"}}
    (first / "summary.json").write_text(json.dumps(content))
    run_of(tmp_path / "b", "vae")
    run_of(tmp_path / "c", "rbm")
    study = compared(tmp_path).studies[0]
    assert study.baseline.label == "VAE"
    assert {c.choice.label for c in study.comparisons} == {"RBM"}
    assert compared(tmp_path, baseline="Autoencoder").studies[0].baseline.label == "Autoencoder"
