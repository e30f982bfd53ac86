"""Where chance comes from, below the floor, the same in practice, seeds still needed: from folders to what is said."""

import csv

import numpy as np
import pytest
from scipy import stats

from compare.synthetic import N, config, sweep, write_evaluation, write_run
from ddpm_lab.compare.components import components, floor, over_both
from ddpm_lab.compare.needed import pairing, seeds_needed
from ddpm_lab.compare.page import page_of
from ddpm_lab.compare.printed import console, write_tables
from ddpm_lab.compare.questions import Questions, Size, sizes
from ddpm_lab.compare.report import Study, report
from ddpm_lab.compare.sequential import anytime
from ddpm_lab.compare.words import sentence
from ddpm_lab.errors import UserError

BPD = Size("bits/dim", 0.05, False)


def study_of(folder, questions=None) -> Study:
    return report([folder], None, 0.95, {}, (), questions).studies[-1]


def comparison(study: Study, label: str, key: str = "bound_bpd"):
    return next(c for c in study.comparisons if c.choice.label == label and c.measure.key == key)


def runs(folder, values: dict[str, list[float]], fd: float = 10.0) -> None:
    """By schedule the bits/dim of seeds 1, 2, …, of all images alike."""
    for schedule, bpds in values.items():
        for seed, bpd in enumerate(bpds, 1):
            write_run(folder / f"{schedule}{seed}", config(seed, schedule), bpd, fd + bpd)


def test_components_are_of_what_all_choices_have(tmp_path):
    """Without sets of samples: the pooled variance over seeds, whose floor is that of two single runs."""
    linear, cosine = [3.0, 3.2, 3.1, 9.0], [2.9, 3.0, 3.1]
    runs(tmp_path, {"linear": linear, "cosine": cosine})
    study = study_of(tmp_path)
    chance = next(each for each in study.chance if each.measure.key == "bound_bpd")
    assert (chance.seeds, chance.seeds_left_out, chance.sets) == ([1, 2, 3], [4], ())
    assert chance.parts.training.variance == pytest.approx((np.var(linear[:3], ddof=1) + np.var(cosine, ddof=1)) / 2)
    assert (chance.parts.generation, chance.parts.residual) == (None, None)
    parts = components([[[x] for x in each] for each in (cosine, linear[:3])], 0.95)
    assert tuple(chance.floor) == pytest.approx(tuple(floor(parts, 0.95)))
    saved = pairing(cosine, linear[:3], 0.95)
    assert chance.saved == pytest.approx((saved.factor, saved.low, saved.high))
    assert "left out: seed 4" in "\n".join(console(report([tmp_path], None, 0.95, {})))


def test_sets_of_samples_tell_training_from_sampling(tmp_path):
    rng, numbers = np.random.default_rng(1), []
    for schedule in ("cosine", "linear"):
        for seed in (1, 2, 3):
            numbers.append((10 + rng.normal(0, 1) + rng.normal(0, 0.1, 4)).tolist())
            run = write_run(tmp_path / f"{schedule}{seed}", config(seed, schedule))
            write_evaluation(run, {("ancestral", 8, "beta"): (None, numbers[-1])})
    study = study_of(tmp_path)
    (chance,) = study.chance
    y = np.reshape(numbers, (2, 3, 4))
    assert chance.relative
    assert chance.parts == components(y / y.mean((1, 2), keepdims=True), 0.95)  # of distances
    assert chance.sets == (0, 1, 2, 3)
    assert chance.shares["training"] > 0.9
    assert sum(chance.shares.values()) == pytest.approx(1)
    assert chance.floor == floor(chance.parts, 0.95, 4)
    (entry,) = study.comparisons
    baseline, other = np.reshape(numbers, (2, 3, 4))
    assert entry.over_both == over_both(components(other - baseline, 0.95), 0.95)


def test_what_other_sampling_seeds_might_undo_is_said(tmp_path):
    """cosine is better in every seed, by what one of two sets has of it."""
    for schedule, sets, slope in (("linear", [10.0, 10.0], 0.01), ("cosine", [9.99, 8.0], 0.0)):
        for seed in (1, 2, 3):
            run = write_run(tmp_path / f"{schedule}{seed}", config(seed, schedule))
            write_evaluation(run, {("ancestral", 8, "beta"): (None, [each + slope * seed for each in sets])})
    entry = comparison(study_of(tmp_path), "linear", "pixels_fd")
    assert entry.verdict == "worse"
    assert "sampling seeds" in sentence(entry)
    assert "might vanish" in sentence(entry)


def test_the_variance_over_images_is_that_of_their_mean(tmp_path):
    """At stride 2 two strata, whose means add up to the bound; on average over choices and the seeds that all have."""
    rng = np.random.default_rng(0)
    of_runs = [rng.normal(3, 0.3 * (1 + k), N) for k in range(4)]
    for k, images in enumerate(of_runs):
        write_run(tmp_path / str(k), config(k % 2, ("linear", "cosine")[k // 2]), images)
    write_run(tmp_path / "other", config(7), rng.normal(3, 9, N))
    (chance,) = (each for each in study_of(tmp_path).chance if each.measure.key == "bound_bpd")
    by_hand = [sum(np.var(images[k::2] / 2, ddof=1) / (N / 2) for k in (0, 1)) for images in of_runs]
    assert chance.images == pytest.approx(np.mean(by_hand))


def test_one_seed_has_no_components(tmp_path):
    study = study_of(sweep(tmp_path, seeds=(1,)))
    assert study.chance == []
    assert "where chance comes from" not in "\n".join(console(report([tmp_path], None, 0.95, {})))


@pytest.mark.parametrize(("beyond", "verdict"), [(False, "open"), (True, "none")])
def test_a_single_seed_is_held_to_the_floor_of_the_others(tmp_path, beyond, verdict):
    """linear has the seeds that tell the floor; cosine has one."""
    for seed, fd in enumerate((10.0, 10.4, 9.7, 10.1), 1):
        write_run(tmp_path / str(seed), config(seed), 3.0, fd)
    known = report([tmp_path], None, 0.95, {}).studies[-1].chance
    share = next(each.floor.difference for each in known if each.measure.key == "pixels_fd")
    least = (10.0 + 10.05) / 2 * share / (1 - share / 2)  # it is a share of the mean of 10.05 and 10 + least
    write_run(tmp_path / "9", config(1, "cosine"), 3.0, 10.0 + least * (1.01 if beyond else 0.99))
    entry = comparison(study_of(tmp_path), "cosine", "pixels_fd")
    assert (entry.floor, entry.verdict) == (pytest.approx(least, rel=0.01), verdict)
    assert ("below the floor" in sentence(entry)) is not beyond


def test_an_open_difference_within_the_margin_is_the_same(tmp_path):
    sweep(tmp_path, seeds=(1, 2, 3, 4))
    asked = Questions(same_within=(BPD,))
    study = study_of(tmp_path, asked)
    entry = comparison(study, study.compared.choices[1].label)
    tested = [c for c in study.comparisons if c.same_p is not None]
    assert entry.verdict == "same"
    assert "the same within 0.05 on bits/dim" in sentence(entry)
    assert len(tested) == 3  # Holm's family: all with a margin, those that are better too
    d = np.array(entry.differences)
    one_sided = [stats.ttest_1samp(d, side * 0.05, alternative=way).pvalue for side, way in ((1, "less"), (-1, "greater"))]
    assert entry.same_p == pytest.approx(3 * max(one_sided))
    assert comparison(study, "cosine · Simple").verdict == "better"
    assert "same within the margin" in page_of(report([tmp_path], None, 0.95, {}, (), asked), [tmp_path])


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.01), (3, 1.0)])
def test_neither_one_seed_nor_uncertain_images_show_that_two_are_the_same(tmp_path, seeds, spread):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, N)
    noise -= sum(noise[k::2].mean() / 2 for k in (0, 1))  # the bounds agree, the images do not
    for seed in range(seeds):
        write_run(tmp_path / f"a{seed}", config(seed), 3.0 + seed / 10)
        write_run(tmp_path / f"b{seed}", config(seed, "cosine"), 3.0 + seed / 10 + 0.001 * (-1) ** seed + spread * noise)
    entry = comparison(study_of(tmp_path, Questions(same_within=(BPD,))), "cosine")
    assert entry.verdict == "open"
    assert (entry.same_p is None) == (seeds == 1)


def test_seeds_are_counted_at_the_share_of_one_comparison(tmp_path):
    sweep(tmp_path, seeds=(1, 2, 3))
    asked = Questions(resolve=sizes("resolve", "0.02,fd:5%"), power=0.9)
    study = study_of(tmp_path, asked)
    label = study.compared.choices[1].label
    m = len([c for c in study.comparisons if c.p is not None])
    assert m == 6
    mean = next(c for c in study.columns if c.measure.key == "pixels_fd").estimates[study.baseline].value
    for key, size in (("bound_bpd", 0.02), ("pixels_fd", 0.05 * mean)):
        entry = comparison(study, label, key)
        spread = float(np.std(entry.differences, ddof=1))
        assert entry.needed.size == pytest.approx(size)
        assert entry.needed.seeds == seeds_needed(spread, 3, size, 1 - 0.05 / m, 0.9)
    observed = comparison(study_of(tmp_path), "cosine · Simple", "pixels_fd")
    assert observed.needed.observed
    assert observed.needed.size == abs(observed.over_seeds.value)
    assert comparison(study, "cosine · Simple").needed is None  # decided
    text = "\n".join(console(report([tmp_path], None, 0.95, {})))
    hours = (observed.needed.seeds.n - 3) * 2 * 12.5 / 3600
    assert "cosine · Simple against linear · Simple on Fréchet distance (pixels): for the observed" in text
    assert f", {hours:.2g} h." in text


def test_any_look_has_intervals_of_its_own_and_none_where_seeds_are_not_paired(tmp_path):
    runs(tmp_path, {"linear": [3.0 + k / 7 for k in range(9)], "cosine": [2.5 + k / 7 + k % 2 / 50 for k in range(9)]})
    for seed in (11, 12):
        write_run(tmp_path / f"other{seed}", config(seed, optim__lr=0.1), 2.0 + seed / 100)
    study = study_of(tmp_path, Questions(any_look=True))
    paired, apart = (comparison(study, c.label) for c in study.compared.choices if c is not study.baseline)
    assert paired.over_seeds == anytime(paired.differences, 0.95)
    assert paired.over_seeds.low is not None
    assert paired.verdict in ("better", "worse")
    assert (apart.apart is not None, apart.p, apart.verdict) == (True, None, "none")
    assert comparison(study_of(tmp_path), apart.choice.label).p is not None
    text = "\n".join(console(report([tmp_path], None, 0.95, {}, (), Questions(any_look=True))))
    assert "looks=any" in text
    assert "more seeds of both" not in text


def test_the_table_has_every_number(tmp_path):
    asked = Questions((BPD,), (BPD,))
    write_tables(report([sweep(tmp_path / "runs")], None, 0.95, {}, (), asked), tmp_path)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    study = study_of(tmp_path / "runs", asked)
    chance, entry = study.chance[0], comparison(study, study.compared.choices[1].label)
    for name, value in (("floor", chance.floor.difference), ("variance_training", chance.parts.training.variance)):
        assert {float(row[f"bound_bpd_{name}"]) for row in rows} == {value}
    assert float(rows[1]["bound_bpd_p_better"]) == entry.improvement.value
    pairs = [
        [n.value for n in next(c for c in study.columns).numbers[choice].values()] for choice in study.compared.choices[:2]
    ]
    assert entry.improvement.value == np.mean([a < b for b in pairs[0] for a in pairs[1]])
    assert float(rows[1]["bound_bpd_margin_p_holm"]) == entry.same_p


def test_sizes_are_read_by_measure():
    assert sizes("resolve", "0.01") == (Size("bits/dim", 0.01, False),)
    assert sizes("resolve", "bits/dim:1e-3, fd:2%") == (Size("bits/dim", 1e-3, False), Size("fd", 2.0, True))
    assert sizes("resolve", "bits/dim, all steps:.5,fid:3") == (
        Size("bits/dim, all steps", 0.5, False),
        Size("fid", 3.0, False),
    )


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "2%", "fd:", "fd:x", "fd:1,fd:2", "0.1,bits/dim:0.2", "fd:1e400", "nan"])
def test_what_is_no_size_is_refused_by_name(text):
    with pytest.raises(UserError, match="NAME:NUMBER%") as refused:
        sizes("same_within", text)
    assert f"same_within={text}: " in str(refused.value)


def test_a_name_that_no_number_has_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(UserError, match=r"resolve=fid:1.*pixels_fd, fd") as refused:
        study_of(sweep(tmp_path, seeds=(1,)), Questions(resolve=sizes("resolve", "fid:1")))
    assert "\n" not in str(refused.value)


def test_distances_of_another_size_count_by_their_relative_spread(tmp_path):
    """linear's distances are 100 times those of cosine, seed by seed: the chance is that of one of them."""
    for seed, fd in enumerate((10.0, 10.4, 9.7), 1):
        for schedule, times in (("linear", 100), ("cosine", 1)):
            write_run(tmp_path / f"{schedule}{seed}", config(seed, schedule), 3.0, times * fd)
    chance = next(each for each in study_of(tmp_path).chance if each.measure.key == "pixels_fd")
    variance = np.var(np.array((10.0, 10.4, 9.7)) / np.mean((10.0, 10.4, 9.7)), ddof=1)
    assert chance.parts.training.variance == pytest.approx(variance)
    assert chance.floor_between(1000.0, 10.0) == pytest.approx(505 * chance.floor.difference)
