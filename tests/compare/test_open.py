"""What is said of differences that are not decided: the floor, seeds that would not help, absurd sizes, pairing."""

import csv

import numpy as np
import pytest

from compare.synthetic import N, config, sweep, write_evaluation, write_run
from compare.test_chance import comparison, runs, study_of
from ddpm_lab.compare.needed import pairing, seeds_needed
from ddpm_lab.compare.printed import console, write_tables
from ddpm_lab.compare.questions import Questions, sizes
from ddpm_lab.compare.report import report
from ddpm_lab.compare.words import statements
from ddpm_lab.errors import UserError

ARM = ("ancestral", 8, "beta")


def said(folder, questions=None) -> str:
    return "\n".join(console(report([folder], None, 0.95, {}, (), questions)))


def test_the_floor_does_not_undo_what_sets_of_samples_show(tmp_path):
    """cosine, of one seed, is ahead on every set, by less than training seeds differ."""
    rng = np.random.default_rng(0)
    for seed, level in enumerate((10.0, 11.0, 9.0), 1):
        sets = level + rng.normal(0, 0.01, 4)
        write_evaluation(write_run(tmp_path / f"linear{seed}", config(seed)), {ARM: (None, sets.tolist())})
        if seed == 1:
            better = sets - 0.5 + rng.normal(0, 0.01, 4)
            write_evaluation(write_run(tmp_path / "cosine", config(seed, "cosine")), {ARM: (None, better.tolist())})
    entry = comparison(study_of(tmp_path), "linear", "pixels_fd")
    assert abs(entry.differences[0]) < entry.floor
    assert entry.verdict == "behind"


def test_no_seeds_are_said_to_be_needed_where_images_object(tmp_path):
    noise = np.random.default_rng(0).normal(0, 1, N)
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", config(seed), 3.0 + seed / 1000)
        write_run(tmp_path / f"b{seed}", config(seed, "cosine"), 3.05 + seed / 900 + noise - noise.mean())
    study = study_of(tmp_path)
    entry = comparison(study, "cosine")
    assert (entry.verdict, entry.holds, entry.images_object, entry.needed) == ("open", True, True, None)
    assert "on bits/dim: for" not in said(tmp_path)


def test_no_more_seeds_are_none(tmp_path):
    """Three seeds are enough for so large a difference."""
    runs(tmp_path, {"linear": [3.0, 3.1, 3.2], "cosine": [3.1, 3.0, 3.2]})
    asked = Questions(resolve=sizes("resolve", "50"))
    assert comparison(study_of(tmp_path, asked), "linear").needed.seeds.n == 3
    assert "more seeds of both" not in said(tmp_path, asked)


def test_absurd_numbers_of_seeds_are_not_printed(tmp_path):
    sweep(tmp_path)
    text = said(tmp_path, Questions(resolve=sizes("resolve", "1e-300")))
    (line,) = (line for line in text.splitlines() if "1e-300" in line)
    assert "more than 1,000" in line
    assert " h." not in line
    assert seeds_needed(1e90, 3, 1e-300, 0.95).n > 1e9


@pytest.mark.filterwarnings("error")
def test_huge_and_tiny_numbers_stop_nothing(tmp_path):
    """Also those of choices that share no seed, whose test is Welch's."""
    for scale, lr in ((9e99, 1), (1e80, 2), (-1e50, 3), (1e-90, 4)):
        for seed in (1, 2, 3):
            run = config(seed + 10 * (lr == 2), optim={"lr": lr})
            write_run(tmp_path / f"{lr}{seed}", run, scale * (1 + seed / 100), scale * (1 + seed**2 / 100))
    study = study_of(tmp_path)
    assert len(study.chance) == 2
    assert all(c.p is not None for c in study.comparisons)


def test_what_pairing_saves_is_said_with_its_interval_from_three_seeds_on(tmp_path):
    values = {"linear": [3.0, 3.5, 3.1, 3.3], "cosine": [2.9, 3.35, 3.1, 3.2]}
    runs(tmp_path / "four", values)
    saved = pairing(*values.values())
    assert saved.high > 100
    assert f"factor {saved.factor:.2g} [{saved.low:.2g}, {saved.high:.0f}]" in said(tmp_path / "four")
    write_tables(report([tmp_path / "four"], None, 0.95, {}), tmp_path)
    for row in csv.DictReader((tmp_path / "table.csv").read_text().splitlines()):
        assert float(row["bound_bpd_pairing_factor"]) == pytest.approx(saved.factor)
    runs(tmp_path / "two", {name: each[:2] for name, each in values.items()})
    assert "factor" not in said(tmp_path / "two")


def test_of_several_comparisons_the_median_factor_is_said(tmp_path):
    (chance, *_) = study_of(sweep(tmp_path)).chance
    factors = sorted(each.factor for each in chance.pairings)
    assert chance.saved == (factors[1], factors[0], factors[2])
    assert "median of 3 comparisons" in said(tmp_path)


def test_a_negative_variance_is_not_called_zero(tmp_path):
    for seed, sets in enumerate(([10.0, 12.0], [12.0, 10.0]), 1):
        write_evaluation(write_run(tmp_path / str(seed), config(seed)), {ARM: (None, sets)})
    (line,) = (line for line in said(tmp_path).splitlines() if "1 choice, 2 seeds by 2 sets" in line)
    assert "training seed ≤ 0; sampling seed ≤ 0; both together" in line


def test_names_of_sizes_are_read_in_either_case(tmp_path):
    sweep(tmp_path)
    asked = Questions(resolve=sizes("resolve", "Bits/Dim:0.02,FD:5%"))
    given = {c.measure.key for c in study_of(tmp_path, asked).comparisons if c.needed is not None}
    assert given == {"bound_bpd", "pixels_fd"}
    for twice in ("fd:1,FD:2", "1,BITS/DIM:2"):
        with pytest.raises(UserError, match="NAME:NUMBER%"):
            sizes("resolve", twice)


@pytest.mark.parametrize("seeds", [4, 5])
def test_from_five_seeds_on_a_sentence_says_how_often_one_run_is_better(tmp_path, seeds):
    """Each run of cosine is better than each of linear: 25 of 25 pairs."""
    for seed in range(seeds):
        for schedule, bpd in (("linear", 3.0), ("cosine", 2.0)):
            write_run(tmp_path / f"{schedule}{seed}", config(seed, schedule), bpd + 0.01 * seed, 10.0)
    study = report([tmp_path], "linear", 0.95, {}).studies[0]
    text = next(statement.text for statement in statements(study) if "bits/dim" in statement.text)
    assert ("probability 1.00" in text) == (seeds == 5)
