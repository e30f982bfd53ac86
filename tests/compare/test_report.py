"""From folders to verdicts: what is found, what is refused, and what is said."""

import csv
import json
import re
from typing import Any

import numpy as np
import pytest
import yaml

from compare.synthetic import N, config, sweep, write_evaluation, write_run
from ddpm_lab.compare.measures import known_measure, measure_of
from ddpm_lab.compare.page import page_of
from ddpm_lab.compare.printed import console, write_tables
from ddpm_lab.compare.report import Stage, report
from ddpm_lab.compare.words import decimal, decimals, decimals_of_differences, statements
from ddpm_lab.errors import UserError
from ddpm_lab.metrics.record import Plain

NAMES = {
    ("schedule", "ddpm_lab.core.schedule.linear"): "linear",
    ("schedule", "ddpm_lab.core.schedule.cosine"): "cosine",
    ("loss", "ddpm_lab.core.loss.Simple"): "simple",
    ("loss", "ddpm_lab.core.loss.Hybrid"): "hybrid",
}


def compared(*folders, baseline=None, level=0.95):
    return report(folders, baseline, level, NAMES)


def comparison(study, label, key="bound_bpd"):
    return next(c for c in study.comparisons if c.choice.label == label and c.measure.key == key)


def test_a_sweep_is_grouped_by_what_differs_and_judged(tmp_path):
    result = compared(sweep(tmp_path))
    (study,) = result.studies
    assert [choice.label for choice in study.compared.choices] == [
        "linear · simple",
        "linear · hybrid",
        "cosine · simple",
        "cosine · hybrid",
    ]
    assert list(study.compared.axes.items()) == [
        ("schedule", None),
        ("loss", None),
        ("variance", "loss"),
    ]
    assert [sorted(choice.runs) for choice in study.compared.choices] == [[1, 2, 3]] * 4
    better = comparison(study, "cosine · simple")
    assert better.verdict == "better"
    assert better.over_seeds.value == pytest.approx(-0.4, abs=0.05)
    assert better.over_images.low < better.over_seeds.value < better.over_images.high
    assert comparison(study, "linear · hybrid").verdict == "open"
    text = "\n".join(console(result))
    assert "cosine · simple beats linear · simple on bits/dim in 3 of 3 seeds: lower by 0.4" in text
    assert re.search("note: variance .* loss", text)
    worse = compared(tmp_path, baseline="cosine,simple").studies[0]
    assert comparison(worse, "linear · simple").verdict == "worse"


def test_pairing_by_seed_shrinks_the_interval(tmp_path):
    (study,) = compared(sweep(tmp_path)).studies
    column = study.columns[0]
    one = next(e for choice, e in column.estimates.items() if choice.label == "cosine · simple")
    apart = comparison(study, "cosine · simple").over_seeds
    assert apart.high - apart.low < 0.3 * (one.high - one.low)


def test_one_seed_is_said_to_be_one(tmp_path):
    (study,) = compared(sweep(tmp_path, seeds=(1,))).studies
    message = dict(reversed(pair) for pair in statements(study))
    ahead = next(text for text, kind in message.items() if kind == "ahead")
    assert "is ahead of" in ahead
    assert f"One seed, not replicated: the interval is over {N} images only." in ahead
    assert not any("beats" in text for text in message)
    fd = next(text for text in message if "cosine · simple" in text and "Fréchet" in text)
    assert "one seed" in fd


def test_images_are_paired_only_where_they_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.normal(3, 0.3, N)
    write_run(tmp_path / "0", config(1), images)
    write_run(tmp_path / "1", config(1, "cosine"), images - 0.1 + rng.normal(0, 0.01, N))
    (study,) = compared(tmp_path).studies
    paired = comparison(study, "cosine")
    assert paired.paired
    assert paired.over_images.excludes_zero
    with np.load(tmp_path / "1" / "vlb_terms.npz") as file:
        terms = dict(file)
    np.savez(tmp_path / "1" / "vlb_terms.npz", **terms | {"data_sha256": "cd" * 32})
    (study,) = compared(tmp_path).studies
    other = comparison(study, "cosine")
    assert not other.paired
    assert other.over_images.high - other.over_images.low > 5 * (paired.over_images.high - paired.over_images.low)
    assert "unpaired" in "\n".join(text for _, text in statements(study))


def test_terms_of_another_measurement_are_not_paired(tmp_path):
    write_run(tmp_path / "0", config(1), np.linspace(2, 4, N))
    write_run(tmp_path / "1", config(1, "cosine"), np.linspace(1.9, 3.8, N))
    summary = json.loads((tmp_path / "1" / "summary.json").read_text())
    summary["metrics"]["bound_bpd"]["value"] = 2.7
    (tmp_path / "1" / "summary.json").write_text(json.dumps(summary))
    (study,) = compared(tmp_path).studies
    assert not comparison(study, "cosine").paired


def test_numbers_of_other_data_or_another_n_are_refused_and_comparison(tmp_path):
    write_run(tmp_path / "0", config(1), 3.0)
    write_run(tmp_path / "1", config(1, "cosine"), 2.0, n=30)
    write_run(tmp_path / "2", config(1, optim__lr=0.1, data__split_seed=5), 2.5)
    (study,) = compared(tmp_path).studies
    refused = [text for kind, text in statements(study) if kind == "refused"]
    assert any("cosine" in text and f"bits/dim: n: {N} against 30" in text for text in refused)
    assert any("split_seed=5" in text and "split_seed 0" in text for text in refused)
    assert not study.comparisons
    write_tables(compared(tmp_path), tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "2.000 (not comparable)" in table
    assert "2.500 (not comparable)" in table


def test_what_goes_with_a_model_is_no_difference_of_its_own(tmp_path):
    """A model that has no loss, and one with a key of the other's name: neither was chosen beside it."""

    def of(name: str, width: Plain) -> dict[str, Any]:
        made = config(1) | {"model": {"_target_": f"ddpm_lab.models.{name.lower()}.{name}", "width": width}}
        return {key: value for key, value in made.items() if key != "loss"}

    for i, made in enumerate((config(1), of("VAE", 8), of("RBM", "[8, 4]"))):
        write_run(tmp_path / str(i), made, 3.0)
    (study,) = compared(tmp_path).studies
    assert list(study.compared.axes) == ["model"]
    write_run(tmp_path / "3", of("VAE", 9), 3.0)
    (study,) = compared(tmp_path).studies
    assert set(study.compared.axes) == {"model", "model.width"}


def test_what_may_differ_is_mentioned(tmp_path):
    write_run(tmp_path / "0", config(1), 3.0)
    write_run(tmp_path / "1", config(1, "cosine"), 2.0, weights="raw")
    text = "\n".join(console(compared(tmp_path)))
    assert "bits/dim: numbers were measured with different weights: ema/0.9999 against raw" in text


def test_names_places_and_callbacks_are_no_difference(tmp_path):
    write_run(tmp_path / "a", config(1))
    write_run(
        tmp_path / "b", config(2, trainer__devices=4, callbacks={"samples": {"n": 64, "seed": 0}}, run={"root": "elsewhere"})
    )
    (study,) = compared(tmp_path).studies
    assert [sorted(choice.runs) for choice in study.compared.choices] == [[1, 2]]


def test_a_run_of_a_version_without_models_is_the_same_choice(tmp_path):
    write_run(tmp_path / "a", config(1))
    write_run(tmp_path / "b", config(2) | {"model": {"_target_": "ddpm_lab.models.diffusion.Diffusion"}})
    write_run(tmp_path / "c", config(3) | {"model": {"_target_": "mine.Gaussian"}})
    (study,) = compared(tmp_path).studies
    assert [(choice.label, sorted(choice.runs)) for choice in study.compared.choices] == [
        ("Diffusion", [1, 2]),
        ("Gaussian", [3]),
    ]


def test_runs_of_a_model_without_a_schedule_are_compared(tmp_path):
    for number, scale in enumerate((1.0, 2.0)):
        cfg = config(1) | {"model": {"_target_": "mine.Gaussian", "scale": scale}}
        for group in ("variance", "loss"):
            del cfg[group]
        run = write_run(tmp_path / str(number), cfg, 3.0 + number)
        (run / "config.yaml").write_text(yaml.safe_dump({key: value for key, value in cfg.items() if key != "schedule"}))
        (run / "curves.json").write_text("[]")
    made = compared(tmp_path)
    assert not made.problems
    assert [choice.label for choice in made.studies[0].compared.choices] == ["scale=1.0", "scale=2.0"]
    assert page_of(made, [tmp_path])


def test_a_confounded_value_of_one_option_is_its_own_axis(tmp_path):
    """linear with T = 8 and cosine with T = 4 differ in both, but not in the keys that only one of them has."""
    write_run(tmp_path / "0", config(1))
    cosine = config(1, "cosine")
    cosine["schedule"]["T"] = 4
    write_run(tmp_path / "1", cosine)
    (study,) = compared(tmp_path).studies
    assert list(study.compared.axes.items()) == [("schedule", None), ("schedule.T", "schedule")]


def test_the_same_run_twice_counts_once(tmp_path):
    write_run(tmp_path / "a", config(1), 3.0)
    write_run(tmp_path / "b", config(1), 3.5)
    result = compared(tmp_path, tmp_path / "a")
    assert len(result.runs) == 2
    assert list(result.studies[0].compared.choices[0].runs) == [1]
    assert "trained again" in "\n".join(console(result))


def test_evaluations_are_compared_by_sampler_steps_and_variance(tmp_path):
    for seed in (1, 2):
        run = write_run(tmp_path / str(seed), config(seed))
        arms = {("ancestral", 8, "beta"): (3.0, 9.0), ("ancestral", 4, "beta"): (4.0 + seed / 100, 12.0 + seed / 10)}
        write_evaluation(run, arms)
    result = compared(tmp_path)
    study = next(study for study in result.studies if study.stage is Stage.EVALUATED)
    assert [choice.label for choice in study.compared.choices] == ["steps=8", "steps=4"]
    assert comparison(study, "steps=4", "bound_chain").verdict == "worse"
    assert [column.measure.key for column in study.main] == ["bound", "bound_chain", "pixels_fd"]


def test_broken_foreign_and_empty_folders_are_named_and_skipped(tmp_path):
    sweep(tmp_path / "runs", seeds=(1,))
    broken = tmp_path / "runs"
    (broken / "empty").mkdir()
    (broken / "foreign").mkdir()
    (broken / "foreign" / "notes.txt").write_text("hello")
    (broken / "other").mkdir()
    (broken / "other" / "config.yaml").write_text("model: {lr: 1}")
    (broken / "yaml").mkdir()
    (broken / "yaml" / "config.yaml").write_text("a: [1, {")
    for name, cut in (("cut", "summary.json"), ("terms", "vlb_terms.npz"), ("grid", "samples/step_0000020.png")):
        write_run(broken / name, config(len(name)))
        whole = (broken / name / cut).read_bytes()
        (broken / name / cut).write_bytes(whole[: len(whole) // 2])
    write_run(broken / "training", config(9))
    (broken / "training" / "summary.json").unlink()
    result = compared(tmp_path)
    why = {skip.path.name: skip.why for skip in result.skipped}
    named = {
        "empty": "empty",
        "foreign": "config.yaml",
        "other": "seed",
        "yaml": "config.yaml",
        "cut": "summary.json",
        "training": "summary.json",
    }
    assert why.keys() == named.keys()
    assert all(word in why[name] for name, word in named.items())
    assert len(result.runs) == 6
    assert not any(run.vlb_terms.content for run in result.runs if run.path.name == "terms")
    assert any("vlb_terms.npz: not readable" in text for text in result.problems)


def test_nothing_to_compare_is_one_plain_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run that has ended"):
        compared(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        compared(tmp_path / "none")


@pytest.mark.parametrize("asked", ["cosine · hybrid", "cosine, hybrid", "schedule=cosine,loss=hybrid", "cosine,hybrid", "{}/9"])
def test_the_baseline_is_named_in_any_way(tmp_path, asked):
    (study,) = compared(sweep(tmp_path), baseline=asked.format(tmp_path)).studies
    assert study.baseline.label == "cosine · hybrid"


def test_a_baseline_that_is_none_or_several_is_refused(tmp_path):
    sweep(tmp_path)
    with pytest.raises(UserError, match="2 choices have that; name one of: cosine · simple; cosine · hybrid"):
        compared(tmp_path, baseline="cosine")
    with pytest.raises(UserError, match="no choice has that"):
        compared(tmp_path, baseline="jsd")


def test_tables_hold_every_choice(tmp_path):
    result = compared(sweep(tmp_path))
    write_tables(result, tmp_path)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["choice"] for row in rows] == [choice.label for choice in result.studies[0].compared.choices]
    entry = comparison(result.studies[0], "cosine · hybrid")
    assert float(rows[3]["bound_bpd_difference"]) == entry.over_seeds.value
    assert float(rows[3]["bound_bpd_images_low"]) == entry.over_images.low
    assert rows[3]["bound_bpd_verdict"] == "better"
    tex = (tmp_path / "table.tex").read_text()
    assert tex.count(r"\\") == 5
    assert r"\textbf{" in tex
    assert "linear · simple" in (tmp_path / "table.md").read_text()


def test_words_and_digits():
    assert measure_of("fid@10000")[:4] == ("fid@10000", "FID @10000", -1, True)
    assert measure_of("classifier_recognised@256").better == 1
    assert not measure_of("pixels_fd_real").judged
    for key, better in (("mind@1000", -1), ("pixels_c_t", 0), ("classifier_authenticity@1000", 0), ("bound_gap_q4", 0)):
        assert (measure_of(key).better, measure_of(key).judged) == (better, False)
    assert measure_of("bound_gap_q1").label != measure_of("bound_gap_q2").label != "bound gap q2"
    assert known_measure("bound_gap_q5") is known_measure("bound_q1") is None
    assert not measure_of("bound_chain_kl").judged
    assert (decimals([3.14], [0.025]), decimals([312.0]), decimals([0.0])) == (3, 1, 3)
    assert (decimals_of_differences([0.0123], []), decimals_of_differences([1234.0], [])) == (4, 0)
    assert (decimal(-0.0004, 2), decimal(0.5, 1, True), decimal(-2.25, 2)) == ("0.00", "+0.5", "−2.25")
