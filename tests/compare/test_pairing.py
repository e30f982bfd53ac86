"""Which comparisons are paired: over images as evaluated, and over seeds where two choices share them."""

import numpy as np
import pytest
from scipy import stats

from compare.synthetic import N, T, config, sweep, write_evaluation, write_run
from ddpm_lab.compare.comparison import Comparison
from ddpm_lab.compare.measures import common_key
from ddpm_lab.compare.number import Number
from ddpm_lab.compare.page import page_of
from ddpm_lab.compare.printed import console
from ddpm_lab.compare.report import ComparisonReport, Stage, report
from ddpm_lab.compare.words import sentence

FULL, SHORT, OTHER = ("ancestral", T, "beta"), ("ancestral", 4, "beta"), ("ancestral", 4, "beta_tilde")


def comparison(made: ComparisonReport, label: str, key: str, stage: Stage = Stage.EVALUATED) -> Comparison:
    study = next(study for study in made.studies if study.stage is stage)
    return next(c for c in study.comparisons if c.choice.label == label and c.measure.key == key)


def images(seed: int, shift: float = 0.0) -> np.ndarray:
    """Those of one seed share most of what they cost."""
    shared = np.random.default_rng(0).normal(3, 0.3, N)
    return shared + shift + np.random.default_rng(seed).normal(0, 0.01, N)


def by_hand(difference: np.ndarray, stride: int) -> float:
    """Half the width of the interval, from the standard errors of the strata: each has a mean of its own."""
    strata = [difference[offset::stride] / stride for offset in range(stride)]
    return 1.96 * np.sqrt(sum(stratum.var(ddof=1) / len(stratum) for stratum in strata))


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_evaluated_choices_are_paired_over_images(tmp_path, stride, seeds):
    for seed in seeds:
        run = write_run(tmp_path / str(seed), config(seed))
        arms = {SHORT: (images(seed), 9.0), OTHER: (images(seed + 10, 0.05), 9.5)}
        write_evaluation(run, arms, stride=stride)
    result = comparison(report([tmp_path], None, 0.95, {}), "variance=beta_tilde", "bound_chain")
    difference = np.mean([images(seed + 10, 0.05) - images(seed) for seed in seeds], axis=0)
    interval = result.over_images
    assert result.paired
    assert interval.value == pytest.approx(difference.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(by_hand(difference, stride), rel=0.1)
    assert interval.n == N
    if seeds == (1,):
        assert result.verdict == "behind"
        assert f"One seed, not replicated: the interval is over {N} images only." in sentence(result)


def test_the_full_chain_is_paired_across_runs(tmp_path):
    for number, (schedule, shift) in enumerate([("linear", 0.0), ("cosine", -0.05)]):
        run = write_run(tmp_path / str(number), config(1, schedule))
        write_evaluation(run, {FULL: (images(number, shift), 9.0)})
    result = report([tmp_path], None, 0.95, {})
    for key in ("bound", "bound_chain"):  # the sampler visits all steps, so they are one
        assert comparison(result, "cosine", key).paired
        assert comparison(result, "cosine", key).over_images.excludes_zero


@pytest.mark.parametrize("kind", ["no file", "other data", "another stride", "another number"])
def test_what_is_not_of_the_same_images_is_unpaired_as_before(tmp_path, kind):
    runs = [write_run(tmp_path / str(i), config(1, schedule)) for i, schedule in enumerate(("linear", "cosine"))]
    write_evaluation(runs[0], {FULL: (images(1), 9.0)})
    other = {"other data": {"sha256": "00" * 32}, "another stride": {"stride": 3}}.get(kind, {})
    write_evaluation(runs[1], {FULL: (float(images(2, -0.05).mean()) if kind == "no file" else images(2, -0.05), 9.0)}, **other)
    if kind == "another number":  # the file is of another measurement than evaluation.json
        path = runs[1] / "eval" / "e" / "evaluation.json"
        path.write_text(path.read_text().replace('"value": 2.9', '"value": 2.8'))
    result = comparison(report([tmp_path], None, 0.95, {}), "cosine", "bound")
    assert not result.paired
    assert result.over_images.high - result.over_images.low == pytest.approx(2 * 2 * np.hypot(0.02, 0.02), rel=0.05)
    assert "unpaired" in sentence(result)


def test_choices_that_share_no_seed_are_compared_unpaired(tmp_path):
    values = {("linear", s): v for s, v in zip((0, 1, 2), (3.0, 3.1, 3.05), strict=True)}
    values |= {("cosine", s): v for s, v in zip((3, 4), (2.5, 2.52), strict=True)}
    for number, ((schedule, seed), value) in enumerate(values.items()):
        write_run(tmp_path / str(number), config(seed, schedule), value, 10 + 0.1 * number)
    result = report([tmp_path], None, 0.95, {})
    entry = comparison(result, "cosine", "bound_bpd", Stage.TRAINED)
    ends = stats.ttest_ind([2.5, 2.52], [3.0, 3.1, 3.05], equal_var=False).confidence_interval(0.95)
    assert (entry.over_seeds.low, entry.over_seeds.high) == pytest.approx(tuple(ends))
    assert entry.over_images.value == pytest.approx(2.51 - 3.05)
    message = "\n".join(console(result))
    assert "cosine beats linear on bits/dim, unpaired, seeds 3, 4 against 0, 1, 2: lower by 0.5" in message
    assert "paired by seed where they share two" in message
    assert "(unpaired)" in page_of(result, [tmp_path])


@pytest.mark.parametrize("shared", [(1, "cosine"), (2, "cosine"), (1, "linear"), (2, "linear")])
def test_one_seed_of_both_is_no_pairing_where_each_has_two(tmp_path, shared):
    """Of two that are shared there is a spread of differences; of one there is none."""
    n, better = shared
    values = {schedule: {} for schedule in ("linear", "cosine")}
    for schedule, first in (("linear", 0), ("cosine", 3 - n)):
        for seed in range(first, first + 3):
            values[schedule][seed] = 3.0 - (schedule == better) / 2 + (seed * 7 % 5) / 50 + first * seed / 100
            write_run(tmp_path / f"{schedule}{seed}", config(seed, schedule), values[schedule][seed])
    result = report([tmp_path], None, 0.95, {})
    entry = comparison(result, "linear", "bound_bpd", Stage.TRAINED)
    cosine, linear = ([*values[schedule].values()] for schedule in ("cosine", "linear"))
    if n == 1:
        ends = stats.ttest_ind(linear, cosine, equal_var=False).confidence_interval(0.95)
        assert (entry.apart, entry.seeds) == (([0, 1, 2], [2, 3, 4]), [])
        assert entry.verdict == ("better" if better == "linear" else "worse")
        (told,) = (each for each in result.studies[0].answers if each.measure.key == "bound_bpd")
        assert [choice.label for choice in told.best + told.worse] == [better, *values.keys() - {better}]
    else:
        ends = stats.ttest_1samp(np.subtract(linear[1:], cosine[:2]), 0).confidence_interval(0.95)
        assert (entry.apart, entry.seeds) == (None, [1, 2])
    assert (entry.over_seeds.low, entry.over_seeds.high) == pytest.approx(tuple(ends))


def test_without_two_seeds_each_nothing_is_said_of_choices_that_share_none(tmp_path):
    for number, (schedule, seed) in enumerate([("linear", 0), ("linear", 1), ("cosine", 2)]):
        write_run(tmp_path / str(number), config(seed, schedule), 3.0 - number)
    result = report([tmp_path], None, 0.95, {})
    entry = comparison(result, "cosine", "bound_bpd", Stage.TRAINED)
    assert (entry.over_seeds, entry.over_images, entry.p) == (None, None, None)
    assert "share no seed" in sentence(entry)


def test_few_seeds_against_many_are_cautioned_about(tmp_path):
    for seed in range(12):
        write_run(tmp_path / str(seed), config(seed, "linear" if seed < 10 else "cosine"), 3.0 + seed % 3 / 10)
    message = "\n".join(console(report([tmp_path], None, 0.95, {})))
    assert "note: Unpaired intervals fall short where one side has few seeds and the other many: cosine." in message


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("linear", "baseline=linear: 2 evaluated choices have that; here it is the first of them: linear · steps=8"),
        ("{}/2", "2 evaluated choices have that; here it is the first of them: cosine · steps=8"),
    ],
)
def test_a_baseline_that_names_several_evaluated_choices_is_comparison(tmp_path, asked, message):
    sweep(tmp_path, seeds=(1,))
    for number in (0, 2):
        write_evaluation(tmp_path / str(number), {FULL: (3.0, 9.0), SHORT: (4.0, 12.0)})
    for number in (1, 3):
        (tmp_path / str(number) / "summary.json").unlink()
    text = "\n".join(console(report([tmp_path], asked.format(tmp_path), 0.95, {})))
    assert message in text


def test_a_baseline_that_no_evaluated_choice_has_is_comparison(tmp_path):
    sweep(tmp_path, seeds=(1,))
    write_evaluation(tmp_path / "2", {FULL: (3.0, 9.0), SHORT: (4.0, 12.0)})
    text = "\n".join(console(report([tmp_path], "linear, Simple", 0.95, {})))
    assert "baseline=linear, Simple: no evaluated choice has that; here it is the first: steps=8" in text


@pytest.mark.parametrize(
    ("key", "common"),
    [
        ("bound_estimate", "bound"),
        ("bound_estimate_kl", "bound_kl"),
        ("bound_100_estimate", "bound_chain"),
        ("bound_100_estimate_prior", "bound_chain_prior"),
        ("bound_100", "bound_chain"),
        ("bound_gap", "bound_gap"),
        ("pixels_fd", "pixels_fd"),
    ],
)
def test_an_estimate_and_what_it_estimates_are_one_measure(key, common):
    assert common_key(key, Number(1.0, 0.1, {"steps": 100})) == common
