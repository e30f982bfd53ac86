"""The answer: which choice is best, and what cannot be told from it."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from compare.synthetic import N, config, sweep, write_evaluation, write_run
from ddpm_lab.compare.answer import Answer, answers, anytime_p, pairwise_p
from ddpm_lab.compare.answer_words import answer_lines
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.judge import Column
from ddpm_lab.compare.measures import measure_of
from ddpm_lab.compare.number import Number
from ddpm_lab.compare.report import report
from ddpm_lab.compare.sequential import anytime
from ddpm_lab.compare.statistics import t_interval


def column(values: np.ndarray, key: str = "bound_bpd") -> Column:
    """Of the choices in rows, by the seeds in columns; NaN where a choice has not that seed."""
    made = Column(measure_of(key))
    for i, row in enumerate(values):
        numbers = {seed: Number(float(value), None, {}) for seed, value in enumerate(row) if np.isfinite(value)}
        choice = ComparedChoice({}, str(i), dict.fromkeys(numbers))
        made.numbers[choice] = numbers
        made.estimates[choice] = t_interval([number.value for number in numbers.values()], 0.95)
    return made


def labels(choices: list[ComparedChoice]) -> list[str]:
    return [choice.label for choice in choices]


def test_p_values_of_all_pairs_are_those_of_scipy():
    """Paired where two seeds are shared, Welch's where at most one is, none where a side has one seed alone."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, [[1], [2], [1], [3], [1], [1]], (6, 7)).astype(np.float64)
    values[1, :2] = values[2, 4:] = values[3, :4] = values[4, 1:] = np.nan
    values[5, 0], values[5, 1:] = np.nan, values[0, 1:]
    p, seen = pairwise_p(values), set()
    for i, j in zip(*np.triu_indices(6, 1), strict=True):
        a, b = values[i], values[j]
        both = np.isfinite(a) & np.isfinite(b)
        sides = [x[np.isfinite(x)] for x in (a, b)]
        expected, kind = np.nan, "none"
        if both.sum() > 1 and (a[both] != b[both]).any():
            expected, kind = stats.ttest_rel(a[both], b[both]).pvalue, "paired"
        elif both.sum() < 2 and min(map(len, sides)) > 1:
            expected, kind = stats.ttest_ind(*sides, equal_var=False).pvalue, "apart"
        seen.add(kind)
        np.testing.assert_allclose([p[i, j], p[j, i]], expected, rtol=1e-10)
    assert seen == {"none", "paired", "apart"}


def test_at_every_look_fewer_choices_are_called_worse():
    """By the p of each pair over the seeds of both; choices that share none are not told apart."""
    values = np.array([[2.0], [2.0], [2.3], [3.0]]) + np.random.default_rng(2).normal(0, 0.02, (4, 4))
    (fixed,), (always,) = (answers([column(values)], 0.95, any_look) for any_look in (False, True))
    assert labels(always.best) == labels(fixed.best)
    assert set(labels(always.worse)) < set(labels(fixed.worse)) == {"2", "3"}
    values[0, :2] = values[1, 2:] = np.nan
    p = anytime_p(values)
    assert p[2, 3] == anytime(values[2] - values[3], 0.9).p
    assert p[0, 2] == anytime(values[0, 2:] - values[2, 2:], 0.9).p
    assert np.isnan(p[0, 1])


def test_the_best_is_not_called_better_by_chance():
    """Of tables in which no choice differs, some "worse" is claimed in at most 5%: the best of six was found by looking."""
    rng, claimed, tables = np.random.default_rng(0), 0, 600
    for _ in range(tables):
        made = answers([column(rng.normal(0, 1, (6, 4)) + rng.normal(0, 1, 4)) for _ in range(2)], 0.95)
        assert made[0].family == 30
        claimed += any(answer.worse for answer in made)
    assert stats.binomtest(claimed, tables, 0.05, alternative="greater").pvalue > 0.01


def test_every_other_choice_is_worse_or_open():
    noise = np.random.default_rng(1).normal(0, 0.01, (4, 5))
    (answer,) = answers([column(np.array([[3.0], [2.0], [2.0], [4.0]]) + noise)], 0.95)
    best, other = sorted("12", key=lambda label: noise[int(label)].mean())
    assert (labels(answer.best), labels(answer.open), labels(answer.worse)) == ([best], [other], ["0", "3"])
    (higher,) = answers([column(np.array([[3.0], [2.0], [2.0], [4.0]]) + noise, "inception_recall")], 0.95)
    assert (labels(higher.best), labels(higher.worse)) == (
        ["3"],
        ["0", *sorted("12", key=lambda label: -noise[int(label)].mean())],
    )


def test_a_choice_without_all_its_seeds_is_not_ranked():
    made = column(np.array([[3.0, 3.1], [2.0, 2.1], [1.0, 1.1]]))
    lacking = list(made.numbers)[2]
    del made.numbers[lacking][1]
    (answer,) = answers([made], 0.95)
    assert labels(answer.best) == ["1"]
    assert lacking not in answer.ranked


def lines(folder: Path, baseline: str | None = None) -> list[str]:
    return answer_lines(report([folder], baseline, 0.95, {}))


def test_the_sentence_names_the_best_and_counts_the_worse(tmp_path):
    """Whatever the baseline is: cosine is better, loss does not matter."""
    first, second = lines(sweep(tmp_path))
    assert lines(tmp_path, "cosine · Hybrid") == [first, second]
    named = re.findall(r"\w+ · \w+", first)
    assert "bits/dim" in first
    assert sorted(named) == ["cosine · Hybrid", "cosine · Simple"]
    assert "other 2 are worse" in first
    assert "worse" not in second


def test_images_that_object_make_no_choice_worse(tmp_path):
    """Seeds agree that cosine is better, by a difference that a few images decide."""
    rng = np.random.default_rng(0)
    images = rng.normal(3, 0.3, N)
    for i, (seed, schedule) in enumerate((s, c) for s in range(5) for c in ("linear", "cosine")):
        objecting = np.where(np.arange(N) < 2, -3.0, 0.0) * (schedule == "cosine")
        write_run(tmp_path / str(i), config(seed, schedule), images + objecting + rng.normal(0, 0.001, N))
    assert report([tmp_path], None, 0.95, {}).studies[0].answers[0].open
    for run in tmp_path.iterdir():
        (run / "vlb_terms.npz").unlink()
    assert report([tmp_path], None, 0.95, {}).studies[0].answers[0].worse


def test_of_one_seed_nothing_is_settled(tmp_path):
    first, second = lines(sweep(tmp_path, seeds=(1,)))
    assert all("nothing is settled" in line for line in (first, second))
    assert not any("worse" in line for line in (first, second))


def test_copies_by_construction_count_once(tmp_path):
    """Samples of DDIM do not depend on the variance, bounds do."""
    for seed in (1, 2, 3):
        arms = {
            ("ddim", 8, name): (3.0 + shift + seed / 50, 9.0 + seed) for name, shift in (("beta", 0.0), ("beta_tilde", 0.1))
        }
        arms |= {("ddim", 4, name): (bound + 1, 20.0 + 1.01 * seed) for (_, _, name), (bound, _) in arms.items()}
        write_evaluation(write_run(tmp_path / str(seed), config(seed)), arms)
    study = report([tmp_path], None, 0.95, {}).studies[1]
    by_key: dict[str, Answer] = {answer.measure.key: answer for answer in study.answers}
    assert [len(by_key[key].ranked) for key in ("bound_chain", "pixels_fd")] == [4, 2]
    assert "steps=4 · variance=beta is worse" in next(line for line in lines(tmp_path) if "evaluated, on Fréchet" in line)


@pytest.mark.parametrize("measures", [5, 12])
def test_there_are_seven_sentences_at_most(measures, tmp_path):
    for seed in (1, 2):
        for name, better in (("linear", 0.0), ("cosine", 1.0)):
            run = write_run(tmp_path / f"{seed}{name}", config(seed, name))
            text = (run / "summary.json").read_text()
            more = ", ".join(f'"pixels_fd@{i}": {{"value": {i + seed + better}, "n": {i}}}' for i in range(1, measures))
            (run / "summary.json").write_text(text.replace('"metrics": {', f'"metrics": {{{more}, '))
    made = lines(tmp_path)
    assert len(made) == min(measures + 1, 7)
    assert ("more measures" in made[-1]) == (measures > 7)
