"""The best of choices with different seeds, and what is said where a sweep is small, odd or without numbers."""

import json

import numpy as np
import pytest

from compare.synthetic import config, write_evaluation, write_run
from compare.test_answer import column, labels
from compare.test_chance import comparison, runs, study_of
from ddpm_lab.compare.answer import Answer, answers
from ddpm_lab.compare.answer_words import answer_lines
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.comparison import Comparison, Verdict
from ddpm_lab.compare.measures import measure_of
from ddpm_lab.compare.page import page_of
from ddpm_lab.compare.printed import console
from ddpm_lab.compare.questions import Questions, Size, sizes
from ddpm_lab.compare.report import report
from ddpm_lab.compare.statistics import t_interval
from ddpm_lab.compare.words import sentence
from ddpm_lab.errors import UserError

SEEDS = np.arange(10)
NOISE = np.random.default_rng(0).normal(0, 0.001, (4, 10))


def answer(*rows: np.ndarray | list[float]) -> Answer:
    """Of each choice the numbers of its first seeds, or NaN."""
    values = np.full((len(rows), 10), np.nan)
    for row, given in zip(values, rows, strict=True):
        row[: len(given)] = given
    return answers([column(values + NOISE[: len(rows)])], 0.95)[0]


def sorted_into(made: Answer) -> list[list[str]]:
    return [labels(each) for each in (made.best, made.opposite, made.open, made.worse)]


def test_a_single_run_is_not_ranked_among_choices_of_several():
    made = answer([3.0] * 4, [4.0] * 4, [2.9])
    assert sorted_into(made) == [["0"], [], [], ["1"]]
    assert labels(made.column.ranking.single) == ["2"]
    assert labels(made.column.winners) == ["0"]
    alone = answer([3.0] * 4, [2.9])  # then no choice can be told from another
    assert (labels(alone.best), alone.replicated) == (["1"], False)


def test_choices_are_ranked_on_the_seeds_that_they_share():
    """The mean of choice 0 is better by its further seeds alone: on those of both it is worse."""
    of_seed = 3 - 0.2 * SEEDS
    made = answer(of_seed, of_seed[:3] - 0.1)
    means = [estimate.value for estimate in made.column.estimates.values()]
    assert means[0] < means[1] - 0.5
    assert sorted_into(made) == [["1"], [], [], ["0"]]
    assert made.column.ranking.seeds == [0, 1, 2]
    assert made.value == pytest.approx(of_seed[:3].mean() - 0.1, abs=0.01)
    assert labels(made.column.winners) == ["1"]


def test_a_difference_in_the_opposite_direction_is_not_called_open():
    """Choice 2 leaves two common seeds, on which 0 is best; on the ten of both 1 is better than 0."""
    ones = np.ones(10)
    made = answer(3 * ones, np.where(SEEDS < 2, 3.01, 2.0), 5 * ones[:2])
    assert sorted_into(made)[:2] == [["0"], ["1"]]
    assert "1" not in labels(made.open)


def test_without_common_seeds_own_means_rank():
    rows = np.full((2, 10), np.nan)
    rows[0, :3], rows[1, 3:8] = 2.0, 3.0
    (made,) = answers([column(rows + NOISE[:2])], 0.95)
    assert (made.column.ranking.seeds, made.column.ranking.alike) == ([], False)
    assert sorted_into(made) == [["0"], [], [], ["1"]]


def test_the_sentence_says_on_which_seeds_and_names_single_runs(tmp_path):
    runs(tmp_path, {"linear": [3.0, 2.8, 2.601, 2.4, 2.2], "cosine": [2.901, 2.7, 2.5]})
    write_run(tmp_path / "one", config(1, "cosine", optim__lr=1.0), 2.0)
    made = report([tmp_path], None, 0.95, {})
    line = answer_lines(made)[0]
    assert all(part in line for part in ("2 of 3", "seeds 1, 2, 3", "lr=0.001 is best (2.7"))
    assert "lr=1.0 (2.0" in line
    assert "cannot be told" not in line
    starred = [text.split()[0:3] for text in console(made) if "*" in text and text.startswith(("linear", "cosine"))]
    assert [words[0] for words in starred] == ["cosine"]


def of_sets(folder, by_set: tuple[float, ...]) -> None:
    """cosine differs from linear by so much on each set of samples, in all seeds nearly alike."""
    rng = np.random.default_rng(0)
    for seed in (1, 2, 3):
        common = 10 + rng.normal(0, 0.5)
        for schedule, further in (("linear", 0.0), ("cosine", 1.0)):
            fd = [common + further * shift + rng.normal(0, 0.001) for shift in by_set]
            write_evaluation(
                write_run(folder / f"{schedule}{seed}", config(seed, schedule)), {("ancestral", 8, "beta"): (None, fd)}
            )


def test_worse_is_not_said_where_other_sampling_seeds_may_undo_it(tmp_path):
    of_sets(tmp_path / "undone", (0.1, 1.9))
    study = study_of(tmp_path / "undone")
    (entry,), (made,) = study.comparisons, study.answers
    assert entry.verdict is (Verdict.WORSE if entry.choice.label == "cosine" else Verdict.BETTER)
    assert not entry.over_both.excludes_zero
    assert (labels(made.open), made.worse) == (["cosine"], [])
    of_sets(tmp_path / "stands", (0.99, 1.01))
    assert labels(study_of(tmp_path / "stands").answers[0].worse) == ["cosine"]


@pytest.mark.parametrize(("by_set", "verdict"), [((-0.5, 0.5), "open"), ((-0.0001, 0.0001), "same")])
def test_the_same_holds_over_other_sampling_seeds_too(tmp_path, by_set, verdict):
    of_sets(tmp_path, by_set)
    (entry,) = study_of(tmp_path, Questions(same_within=(Size("fd", 0.1, False),))).comparisons
    assert entry.same_p < 0.05
    assert entry.verdict == verdict


@pytest.mark.parametrize("same", [True, False])
def test_of_the_same_it_is_not_said_that_a_difference_does_not_hold(same):
    differences, (a, b) = [0.01, 0.012, 0.016], (ComparedChoice({}, label, {}) for label in "ab")
    made = Comparison(measure_of("bound_bpd"), a, b, [1, 2, 3], over_seeds=t_interval(differences, 0.95))
    made.differences, made.p, made.margin, made.same = differences, 0.07, 0.1, same
    assert made.deciding.excludes_zero
    assert ("Holm" in sentence(made)) != same


@pytest.mark.parametrize("kept", [[], ["prior_bpd"]])
def test_a_sweep_without_judged_numbers_says_how_to_get_them(kept, tmp_path):
    runs(tmp_path, {"linear": [3.0, 3.1], "cosine": [2.9, 2.8]})
    for path in tmp_path.glob("*/summary.json"):
        content = json.loads(path.read_text())
        content["metrics"] = {key: content["metrics"][key] for key in kept}
        path.write_text(json.dumps(content))
    made = report([tmp_path], None, 0.95, {})
    (line,) = answer_lines(made)
    assert "evaluate.py" in line
    page = page_of(made, [tmp_path])
    assert line in page
    assert not any(text in page for text in ("pairs)", "Differences are paired", "All comparisons"))


def test_the_page_says_for_which_looks_its_intervals_hold(tmp_path):
    runs(tmp_path, {"linear": [3.0, 3.1], "cosine": [2.9, 2.8]})
    for seed in (8, 9):
        write_run(tmp_path / f"apart{seed}", config(seed, optim__lr=1.0))
    for any_look in (False, True):
        about = page_of(report([tmp_path], None, 0.95, {}, (), Questions(any_look=any_look)), []).split('class="about"')[2]
        assert ("fixed beforehand" in about.partition("</p>")[0]) != any_look
        assert ("looks=any" in about.partition("</p>")[0]) == any_look
        assert ("without an interval" in about.partition("</p>")[0]) == any_look


def test_one_of_a_kind_is_counted_in_the_singular(tmp_path):
    write_run(tmp_path / "a", config(1))
    page = page_of(report([tmp_path], None, 0.95, {}), [])
    assert "1 choice<" in page
    assert "1 choices" not in page
    assert "1 runs" not in page


@pytest.mark.parametrize(("text", "hinted"), [("0,01", True), ("fd:0,5%", True), ("0.1,0.2", False), ("x", False)])
def test_a_decimal_comma_is_pointed_at(text, hinted):
    with pytest.raises(UserError) as raised:
        sizes("same_within", text)
    assert ("0.01" in str(raised.value).replace(text, "")) == hinted


@pytest.mark.parametrize("seeds", [5, 6])
def test_where_no_data_can_decide_at_every_look_it_is_said(seeds, tmp_path):
    """Of two comparisons one needs p ≤ 0.025; at five seeds none is below 1/36, at six below 7^-2.5 = 0.008."""
    runs(tmp_path, {"cosine": [3.0 + seed / 9 for seed in range(seeds)], "linear": [9.0 + seed / 8 for seed in range(seeds)]})
    made = report([tmp_path], None, 0.95, {}, (), Questions(any_look=True))
    said = [text for text in console(made) if "nothing can be decided" in text]
    assert len(said) == (seeds == 5)
    assert all(part in text for text in said for part in ("5 seeds", "2 comparisons", "6 is the least"))
    assert (comparison(made.studies[0], "linear").verdict is Verdict.OPEN) == (seeds == 5)
