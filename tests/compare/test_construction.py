"""Numbers that cannot differ are no finding: they leave the family, get no star, and are marked wherever they are shown."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from compare.synthetic import N, T, config, write_evaluation, write_run
from compare.test_report import comparison
from ddpm_lab.compare.comparison import Verdict
from ddpm_lab.compare.page import page_of
from ddpm_lab.compare.printed import console, write_tables
from ddpm_lab.compare.report import ComparisonReport, Stage, Study, report

NAMES = {
    ("variance", "ddpm_lab.core.variance.Beta"): "beta",
    ("variance", "ddpm_lab.core.variance.BetaTilde"): "beta_tilde",
    ("sampler", "ddpm_lab.core.sampler.DDIM"): "ddim",
}
DDIM = {"_target_": "ddpm_lab.core.sampler.DDIM", "steps": T, "eta": 1.0}
WHY = "equal by construction: sampler=ddim does not use the variance"


def write_scored(path: Path, cfg: dict, bpd: float, fd: float, **fields: object) -> Path:
    """`fields` go to the record of the Fréchet distance."""
    run = write_run(path, cfg, bpd, fd)
    summary = json.loads((run / "summary.json").read_text())
    summary["metrics"]["pixels_fd"] |= fields
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def variances(folder: Path, of_beta: dict, of_tilde: dict, seeds: tuple[int, ...] = (1, 2)) -> ComparisonReport:
    """Beta and BetaTilde with other bounds and the same Fréchet distances, whose records are given."""
    for seed in seeds:
        for name, bpd, fields in (("Beta", 3.0, of_beta), ("BetaTilde", 3.1, of_tilde)):
            cfg = config(seed, variance=name, sampler=dict(DDIM))
            write_scored(folder / f"{name}{seed}", cfg, bpd + seed / 90, 10.0 + seed, **fields)
    return report([folder], None, 0.95, NAMES)


def column(study: Study, key: str):
    return next(column for column in study.columns if column.measure.key == key)


@pytest.mark.parametrize(
    "records",
    [
        ({"sampler": "ddim", "variance": None}, {"sampler": "ddim", "variance": None}),
        ({"sampler": "DDIM", "variance": "Beta"}, {"sampler": "DDIM", "variance": "BetaTilde"}),  # of older versions
    ],
    ids=["stated", "by name"],
)
def test_samples_whose_sampler_does_not_use_the_variance_are_equal_by_construction(tmp_path, records):
    made = variances(tmp_path, *records)
    (study,) = made.studies
    fd, bound = comparison(study, "beta_tilde", "pixels_fd"), comparison(study, "beta_tilde")
    assert (fd.verdict, fd.p, fd.uncorrected_p) == (Verdict.CONSTRUCTION, None, None)
    assert bound.p == bound.deciding.p  # alone in its family
    assert column(study, "pixels_fd").winners == []
    assert [choice.label for choice in column(study, "bound_bpd").winners] == ["beta"]
    assert f"beta_tilde and beta on Fréchet distance (pixels): {WHY}." in "\n".join(console(made))
    write_tables(made, tmp_path)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pixels_fd_equal_by_construction_to"] for row in rows] == ["", "beta"]
    assert rows[1]["pixels_fd_verdict"] == Verdict.CONSTRUCTION.value
    for text in ((tmp_path / "table.md").read_text(), (tmp_path / "table.tex").read_text(), page_of(made, [tmp_path])):
        assert "equal by construction" in text
        assert "†" in text or r"$^\dagger$" in text


@pytest.mark.parametrize(
    "fields", [{"sampler": "Ancestral", "variance": "Beta"}, {"sampler": "ancestral", "variance": "beta"}, {"sampler": "new"}]
)
def test_identical_values_that_nothing_explains_are_said_to_be_identical(tmp_path, fields):
    made = variances(tmp_path, fields, fields)
    fd = comparison(made.studies[0], "beta_tilde", "pixels_fd")
    assert (fd.verdict, fd.p) == (Verdict.IDENTICAL, None)
    text = "\n".join(console(made))
    assert "identical values of Fréchet distance (pixels) in every seed" in text
    assert "construction" not in text


def test_choices_that_differ_in_more_than_the_variance_are_not_equal_by_construction(tmp_path):
    """Equal values of two losses may be due to chance or to the gradient, which records do not state."""
    fields = {"sampler": "ddim", "variance": None}
    write_scored(tmp_path / "0", config(1, sampler=dict(DDIM)), 3.0, 9.0, **fields)
    write_scored(tmp_path / "1", config(1, loss="Hybrid", variance="LearnedRange", sampler=dict(DDIM)), 3.0, 9.0, **fields)
    (study,) = report([tmp_path], None, 0.95, NAMES).studies
    assert {c.verdict for c in study.comparisons} == {Verdict.IDENTICAL}


def test_bounds_do_not_depend_on_the_sampler(tmp_path):
    for number, sampler in enumerate((DDIM, DDIM | {"steps": 4}, {"_target_": "ddpm_lab.core.sampler.Ancestral"})):
        write_scored(tmp_path / str(number), config(1, sampler=sampler), 3.0, 9.0 + number, sampler="x", steps=4)
    (study,) = report([tmp_path], None, 0.95, NAMES).studies
    bounds = [c for c in study.comparisons if c.measure.key == "bound_bpd"]
    assert [(c.verdict, c.copy.unused[0], c.copy.sampler) for c in bounds] == [
        (Verdict.CONSTRUCTION, "steps", None),
        (Verdict.CONSTRUCTION, "sampler", None),
    ]
    assert {c.copy for c in study.comparisons if c.measure.key == "pixels_fd"} == {None}


def test_copies_of_another_row_than_the_baseline_are_marked_and_get_no_star(tmp_path):
    """In two schedules with two variances, cosine's distances are best, and equal: one of them is starred."""
    for number, (schedule, variance) in enumerate((s, v) for s in ("linear", "cosine") for v in ("Beta", "BetaTilde")):
        cfg = config(1, schedule, variance=variance, sampler=dict(DDIM))
        fields = {"sampler": "ddim", "variance": None}
        write_scored(tmp_path / str(number), cfg, 3.0 + number, 5.0 if schedule == "cosine" else 9.0, **fields)
    made = report([tmp_path], None, 0.95, NAMES)
    (study,) = made.studies
    copies = column(study, "pixels_fd").copies
    assert {choice.label: copy.original.label for choice, copy in copies.items()} == {
        "linear · beta_tilde": "linear · beta",
        "cosine · beta_tilde": "cosine · beta",
    }
    assert [choice.label for choice in column(study, "pixels_fd").winners] == ["cosine · beta"]
    text = "\n".join(console(made))
    assert f"cosine · beta_tilde and cosine · beta on Fréchet distance (pixels): {WHY}." in text
    assert f"variance, beta_tilde instead of beta: Fréchet distance (pixels) {WHY}." in text


def test_an_effect_says_how_many_of_its_settings_cannot_differ(tmp_path):
    """The variance under two samplers, of which one uses it."""
    ancestral = {"_target_": "ddpm_lab.core.sampler.Ancestral", "steps": T}
    for number, (variance, sampler) in enumerate((v, s) for v in ("Beta", "BetaTilde") for s in (DDIM, ancestral)):
        cfg, uses = config(1, variance=variance, sampler=dict(sampler)), sampler is ancestral
        fields = {"sampler": "ancestral" if uses else "ddim", "variance": variance if uses else None}
        write_scored(tmp_path / str(number), cfg, 3.0, 9.0 - uses * number, **fields)
    made = report([tmp_path], None, 0.95, NAMES)
    effect = next(e for e in made.studies[0].effects if (e.axis, e.measure.key) == ("variance", "pixels_fd"))
    assert (effect.copy, len(effect.copies), effect.settings) == (None, 1, [0.0, -2.0])
    assert "else the same (1 by construction)" in "\n".join(console(made))


def test_evaluated_choices_are_held_to_the_same_rule(tmp_path):
    images = np.random.default_rng(0).normal(3, 0.3, N)
    for seed in (1, 2):
        arms = {("ddim", 4, v): (images + shift + seed / 50, 9.0 + seed) for v, shift in (("beta", 0.0), ("beta_tilde", 0.1))}
        write_evaluation(write_run(tmp_path / str(seed), config(seed)), arms)
    study = next(s for s in report([tmp_path], None, 0.95, {}).studies if s.stage is Stage.EVALUATED)
    fd, chain = (comparison(study, "variance=beta_tilde", key) for key in ("pixels_fd", "bound_chain"))
    assert (fd.verdict, fd.copy.sampler, fd.copy.unused) == (Verdict.CONSTRUCTION, "ddim", ("variance",))
    assert chain.verdict is Verdict.WORSE
    assert chain.p == chain.deciding.p


def test_arms_that_share_their_training_are_said_to(tmp_path):
    """One trained network under two variances: numbers are compared as before, and the report says that it is one network."""
    made = variances(tmp_path, {"sampler": "ddim", "variance": None}, {"sampler": "ddim", "variance": None})
    assert made.studies[0].shared_training == []
    before = [(c.measure.key, c.over_seeds, c.over_images, c.p) for c in made.studies[0].comparisons]
    for seed in (1, 2):
        path = tmp_path / f"BetaTilde{seed}" / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_in": f"/elsewhere/Beta{seed}"}))
    made = report([tmp_path], None, 0.95, NAMES)
    (study,) = made.studies
    assert [[choice.label for choice in shared] for shared in study.shared_training] == [["beta", "beta_tilde"]]
    assert [(c.measure.key, c.over_seeds, c.over_images, c.p) for c in study.comparisons] == before
    assert "beta; beta_tilde share their training" in "\n".join(console(made))


def test_on_one_network_a_difference_of_rounding_is_no_finding(tmp_path):
    """Samples that are drawn twice from one network on a GPU may differ in their last digits."""
    for seed in (1, 2, 3):
        fields = {"sampler": "ddim", "variance": None}
        write_scored(tmp_path / f"b{seed}", config(seed, sampler=dict(DDIM)), 3.0, 9.0, **fields)
        run = write_scored(
            tmp_path / f"t{seed}", config(seed, variance="BetaTilde", sampler=dict(DDIM)), 3.1, 9.0 + 1e-9 * seed, **fields
        )
        path = run / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"trained_in": f"b{seed}"}))
    (study,) = report([tmp_path], None, 0.95, NAMES).studies
    fd = comparison(study, "beta_tilde", "pixels_fd")
    assert (fd.identical, fd.verdict, fd.p) == (False, Verdict.CONSTRUCTION, None)
