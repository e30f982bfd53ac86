"""What is missing is said: numbers that some seeds lack, and runs of which a part lies elsewhere."""

import json
import shutil

import pytest

from compare.synthetic import config, write_evaluation, write_run
from compare.test_effects import SEEDS, effects_of, factorial
from compare.test_report import compared, comparison
from ddpm_lab.compare.printed import console
from ddpm_lab.compare.report import Stage
from ddpm_lab.compare.words import effect_sentence, sentence


def diverged(run) -> None:
    """As training leaves it where samples are not finite."""
    path = run / "summary.json"
    content = json.loads(path.read_text())
    content["metrics"]["pixels_fd"] |= {"value": None, "not_finite": 3}
    path.write_text(json.dumps(content))


@pytest.fixture
def two_schedules(tmp_path):
    """cosine is far better on Fréchet distance in every seed."""
    for seed in (1, 2, 3, 4):
        write_run(tmp_path / f"l{seed}", config(seed), 3 + seed / 100, 10 + seed / 100)
        write_run(tmp_path / f"n{seed}", config(seed, "cosine"), 2 + seed / 90, 5 + seed / 90)
    return tmp_path


@pytest.mark.parametrize("lost", ["n4", "l4"])
def test_a_seed_that_diverged_is_not_left_out_in_silence(two_schedules, lost):
    study = compared(two_schedules).studies[0]
    assert comparison(study, "cosine", "pixels_fd").verdict == "better"
    diverged(two_schedules / lost)
    result = compared(two_schedules)
    study = result.studies[0]
    judged = comparison(study, "cosine", "pixels_fd")
    assert judged.verdict == "none"
    label = {"n4": "cosine", "l4": "linear"}[lost]
    assert f"{label} of seed 4" in sentence(judged)
    message = "\n".join(console(result))
    assert f"note: Fréchet distance (pixels): there is none for {label} of seed 4" in message
    column = next(column for column in study.columns if column.measure.key == "pixels_fd")
    assert label not in [choice.label for choice in column.winners]
    assert comparison(study, "cosine").verdict == "better"  # bits/dim, of all seeds


def test_a_choice_that_was_never_scored_is_not_there(two_schedules):
    for seed in (1, 2, 3, 4):
        diverged(two_schedules / f"n{seed}")
    study = compared(two_schedules).studies[0]
    assert not [c for c in study.comparisons if c.measure.key == "pixels_fd"]


def test_settings_that_do_not_differ_are_not_counted_with_those_that_do():
    result = effects_of(
        factorial(lambda schedule, loss, steps, seed: 3.0 + SEEDS[seed] - (schedule == "cosine") * 0.5 * (loss == "hybrid"))
    )
    assert effect_sentence(result["schedule", "cosine"]).endswith("lower in 2 of 4, else the same.")
    assert "no different" in effect_sentence(result["schedule", "sigmoid"])
    assert effect_sentence(result["schedule", "sigmoid"]).endswith("the same in all.")


def evaluated(tmp_path):
    for seed in (1, 2):
        run = write_run(tmp_path / str(seed), config(seed))
        write_evaluation(run, {("ancestral", 8, "beta"): (3.0, 9.0), ("ancestral", 4, "beta"): (4.0 + seed / 100, 12.0)})
    return tmp_path


def test_an_evaluation_that_lies_apart_is_that_of_its_run(tmp_path):
    whole = evaluated(tmp_path / "whole")
    apart = shutil.copytree(whole, tmp_path / "apart")
    for seed in "12":
        beside = tmp_path / "apart" / f"evaluation{seed}"
        beside.mkdir()
        shutil.copy(apart / seed / "config.yaml", beside)
        shutil.move(apart / seed / "eval", beside / "eval")
    one, other = compared(whole), compared(apart)
    assert len(one.runs) == len(other.runs) == 2
    assert console(one) == console(other)
    assert [study.stage for study in other.studies][-1] is Stage.EVALUATED


def test_copies_of_a_run_are_one_run(tmp_path):
    whole = evaluated(tmp_path / "whole")
    shutil.copytree(whole, tmp_path / "copy")
    alone = console(compared(whole))
    both = compared(whole, tmp_path / "copy")
    assert len(both.runs) == 2
    assert console(both) == alone
