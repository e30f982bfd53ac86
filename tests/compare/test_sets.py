"""Numbers on several sets of samples, and numbers of one choice from several evaluations."""

import json

import pytest
from scipy import stats

from compare.synthetic import config, write_evaluation, write_run
from ddpm_lab.compare.printed import console
from ddpm_lab.compare.report import ComparisonReport, Study, report

ARM = ("ancestral", 8, "beta")
ONE, TWO = [9.0, 9.4, 9.1, 9.3], [8.0, 8.6, 8.3, 8.2]


def measured(folder, first, second, seeds=(0, 0)) -> ComparisonReport:
    """linear, then cosine, of one training seed, each with its Fréchet distances from a first sampling seed."""
    for name, fd, seed in zip(("linear", "cosine"), (first, second), seeds, strict=True):
        write_evaluation(write_run(folder / name, config(1, name)), {ARM: (None, fd)}, seed=seed)
    return report([folder / "linear", folder / "cosine"], None, 0.95, {})


def column(made: ComparisonReport):
    return next(c for c in made.studies[-1].columns if c.measure.key == "pixels_fd")


def means(made: ComparisonReport) -> dict[str, float]:
    return {choice.label: estimate.value for choice, estimate in column(made).estimates.items()}


def test_a_seed_is_compared_over_the_sets_of_both(tmp_path):
    made = measured(tmp_path, ONE, TWO)
    assert means(made) == pytest.approx({"linear": 9.2, "cosine": 8.275})
    (entry,) = column(made).comparisons.values()
    expected = stats.ttest_rel(TWO, ONE)
    assert entry.p == pytest.approx(expected.pvalue)
    assert (entry.over_images.low, entry.over_images.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert entry.verdict == "ahead"
    assert "over 4 sets of samples only" in "\n".join(console(made))


@pytest.mark.parametrize(
    ("second", "seed", "expected", "left_out"),
    [
        (
            TWO,
            2,
            {"linear": 9.2, "cosine": 8.3},
            "0, 1, 4, 5",
        ),  # 2 and 3 of the one are the last two, of the other the first two
        (TWO[:2], 0, {"linear": 9.2, "cosine": 8.3}, "2, 3"),
        (8.0, 3, {"linear": 9.3, "cosine": 8.0}, "0, 1, 2"),
    ],
)
def test_only_sets_that_all_have_count_and_the_others_are_named(tmp_path, second, seed, expected, left_out):
    made = measured(tmp_path, ONE, second, (0, seed))
    assert means(made) == pytest.approx(expected)
    assert f"left out: {left_out}." in "\n".join(console(made))


def test_numbers_without_a_common_set_are_refused(tmp_path):
    made = measured(tmp_path, ONE, TWO, (0, 7))
    assert means(made) == pytest.approx({"linear": 9.2})
    assert "sampling seeds: 0, 1, 2, 3 against 7, 8, 9, 10" in "\n".join(console(made))


def test_one_run_with_other_sets_does_not_take_all(tmp_path):
    """Though it is the first of the baseline, it is the one that is refused; of equal reasons one is said."""
    for schedule in ("linear", "cosine"):
        for seed in (1, 2, 3):
            run = write_run(tmp_path / f"{schedule}{seed}", config(seed, schedule))
            poor = schedule == "linear" and seed < 3
            write_evaluation(run, {ARM: (None, [x + seed / 10 for x in ONE])}, seed=20 if poor else seed % 2)
    made = report([tmp_path], None, 0.95, {})
    assert column(made).sets == (1, 2, 3)
    assert {choice.label: [*numbers] for choice, numbers in column(made).numbers.items()} == {
        "linear": [3],
        "cosine": [1, 2, 3],
    }
    assert len(column(made).refused) == 1
    (reasons,) = column(made).refused.values()
    assert [reason.field for reason in reasons] == ["sampling seeds"]


@pytest.mark.parametrize("broken", ["no number", "number of sets", "seed"])
def test_a_number_whose_sets_are_not_all_known_is_left_out_and_said(tmp_path, broken):
    write_run(tmp_path / "other", config(1, "cosine"))
    run = write_run(tmp_path / "run", config(1))
    write_evaluation(run, {ARM: (3.0, [9.0, None, 9.1] if broken == "no number" else ONE)})
    path = run / "eval" / "e" / "evaluation.json"
    content = json.loads(path.read_text())
    record = content["arms"][0]["results"][1]["record"]
    record |= {"sets": 5} if broken == "number of sets" else {"seed": None} if broken == "seed" else {}
    path.write_text(json.dumps(content))
    made = report([tmp_path], None, 0.95, {})
    assert "pixels_fd" not in [c.measure.key for c in made.studies[-1].columns]
    assert any("evaluation.json: pixels_fd" in text and "left out" in text for text in made.problems)


def evaluated(folder, *more) -> Study:
    """One run; a bound in a first evaluation, `more` in those after it."""
    run = write_run(folder, config(1))
    for i, numbers in enumerate([(3.0, None), *more]):
        write_evaluation(run, {ARM: numbers}, name=f"e{i}")
    return report([folder], None, 0.95, {}).studies[-1]


def test_what_several_evaluations_measured_of_a_choice_is_put_together(tmp_path):
    study = evaluated(tmp_path, (None, 9.0))
    (choice,) = study.compared.choices
    assert {key: number.value for key, number in choice.first.numbers.items()} == {"bound": 3.0, "pixels_fd": 9.0}
    assert not study.compared.notes


def test_only_what_was_measured_twice_is_noted_and_the_later_counts(tmp_path):
    study = evaluated(tmp_path, (3.5, 9.0))
    assert study.compared.choices[0].first.numbers["bound"].value == 3.5
    (note,) = study.compared.notes
    assert "bound" in note
    assert "pixels_fd" not in note
