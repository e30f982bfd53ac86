"""The tables of docs/variances.md: means, intervals and pairs, from runs and from files that outlive them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import ROOT
from scipy.stats import ttest_1samp, ttest_rel


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import variance_tables

    return variance_tables


def measured(folder: Path, seed: int, values: dict[str, float], evaluation: str = "ladder_ancestral") -> None:
    """A run of that training seed, with one bound and one distance for each variance."""
    arms = []
    for variance, value in values.items():
        bound = {"key": "bound_10", "value": value, "record": {"n": 96, "spacing": "trailing"}}
        estimate = {"key": "bound_estimate_kl", "value": value / 2, "record": {"n": 360, "spacing": None}}
        frechet = {"key": "pixels_fd@1000", "value": 10 * value, "record": {"n": 1000, "spacing": "trailing"}}
        arms.append({"variance": variance, "sampler": "ancestral", "steps": 10, "results": [bound, estimate, frechet]})
    (folder / "eval" / evaluation).mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed}))
    (folder / "eval" / evaluation / "evaluation.json").write_text(json.dumps({"arms": arms}))


def printed(tables, capsys, *places: Path, kept: Path | None = None) -> str:
    tables.main(places, kept)
    return capsys.readouterr().out


def test_an_interval_is_students(tables):
    x = np.random.default_rng(0).normal(2, 1, 5)
    low, high = ttest_1samp(x, 0).confidence_interval()
    mean, half = map(float, tables.with_interval(x, 6).split(" ± "))
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=2e-6)
    assert tables.with_interval([-2.5], 1, "+") == "−2.5"  # one seed has no interval


def test_differences_are_paired_by_training_seed(tables, tmp_path, capsys):
    npr, analytic = [2.0, 3.0, 5.0], [2.25, 3.5, 5.25]
    for seed in (1, 2, 3):
        measured(tmp_path / "runs" / f"seed{seed}", seed, {"npr": npr[seed - 1], "analytic": analytic[seed - 1]})
    measured(tmp_path / "runs" / "seed4", 4, {"analytic": 100.0})  # without a partner
    low, high = ttest_rel(npr, analytic).confidence_interval()
    expected = f"{(low + high) / 2:+.3f} ± {(high - low) / 2:.3f}".replace("-", "−")
    text = printed(tables, capsys, tmp_path / "runs")
    assert f"\n| npr − analytic | {expected} |\n" in text
    assert "ocm − npr" not in text  # no seed has it


def test_what_is_kept_outlives_the_runs(tables, tmp_path, capsys):
    for seed in (1, 2):
        measured(tmp_path / "runs" / f"seed{seed}", seed, {"beta": 2 + seed / 8, "ocm": seed / 16})
    kept = tmp_path / "kept.csv"
    of_runs = printed(tables, capsys, tmp_path / "runs", kept=kept)
    assert "bits/dim, n = 96, trailing" in of_runs
    assert "divergences, n = 360, all times" in of_runs
    assert "pixels_fd@1000, n = 1000, trailing, ancestral" in of_runs
    assert printed(tables, capsys, kept) == of_runs
    measured(tmp_path / "later" / "seed2", 2, {"beta": 7.0})
    later = tables.kept_in(kept)
    printed(tables, capsys, kept, tmp_path / "later", kept=kept)
    (changed,) = (c for c in later if c.variance == "beta" and c.measure == "bound")
    assert tables.kept_in(kept)[changed] == {1: 2.125, 2: 7.0}


def test_other_evaluations_of_a_run_are_left_out(tables, tmp_path, capsys):
    measured(tmp_path / "seed1", 1, {"beta": 2.0}, evaluation="tried")
    assert printed(tables, capsys, tmp_path) == ""
