"""What an axis does, averaged over the rest, against models whose effects are known."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from compare.synthetic import sweep
from ddpm_lab.compare.choices import ComparedChoice, ComparedChoices, ComparedRun
from ddpm_lab.compare.effects import Effect, effects
from ddpm_lab.compare.judge import judge
from ddpm_lab.compare.printed import console, write_tables
from ddpm_lab.compare.report import report
from ddpm_lab.compare.run_folder import Number, RunFolder
from ddpm_lab.compare.words import effect_sentence

AXES = {"schedule": ["linear", "cosine", "sigmoid"], "loss": ["simple", "hybrid"], "schedule.T": ["100", "1000"]}
SCHEDULE = {"linear": 0.0, "cosine": -0.5, "sigmoid": 0.25}
LOSS = {"simple": 0.0, "hybrid": 0.125}
STEPS = {"100": 0.0, "1000": -1.0}
SEEDS = {0: 0.0, 1: 0.5, 2: -0.25}


def choice(values: dict[str, str], bpd: dict[int, float]) -> ComparedChoice:
    label = ", ".join(values.values())
    runs = {s: ComparedRun(RunFolder(Path(label), {}, {}, {}), {}, {"bound_bpd": Number(v, None, {})}) for s, v in bpd.items()}
    return ComparedChoice(values, label, runs)


def factorial(bpd, leave: tuple[tuple[str, ...], ...] = ()) -> ComparedChoices:
    """All combinations but those that are left out; `bpd(schedule, loss, T, seed)`."""
    rows = [row for row in product(*AXES.values()) if row not in leave]
    choices = [choice(dict(zip(AXES, row, strict=True)), {seed: bpd(*row, seed) for seed in SEEDS}) for row in rows]
    return ComparedChoices(dict.fromkeys(AXES), choices)


def additive(schedule, loss, steps, seed):
    return 3.0 + SCHEDULE[schedule] + LOSS[loss] + STEPS[steps] + SEEDS[seed]


def effects_of(compared: ComparedChoices) -> dict[tuple[str, str], Effect]:
    baseline = compared.choices[0]
    columns = judge(compared, baseline, 0.95)
    return {(effect.axis, effect.value): effect for effect in effects(compared, columns, baseline, 0.95)}


@pytest.mark.parametrize("leave", [(), (("cosine", "hybrid", "100"), ("linear", "hybrid", "1000"))])
def test_of_an_additive_model_they_are_exact(leave):
    """Also where combinations are missing: only those that have a partner count."""
    result = effects_of(factorial(additive, leave))
    expected = {
        ("schedule", "cosine"): -0.5,
        ("schedule", "sigmoid"): 0.25,
        ("loss", "hybrid"): 0.125,
        ("schedule.T", "1000"): -1.0,
    }
    assert {key: effect.estimate.value for key, effect in result.items()} == expected
    assert {effect.estimate.low == effect.estimate.high for effect in result.values()} == {True}
    settings = [len(effect.settings) for effect in result.values()]
    assert settings == ([2, 3, 4, 4] if leave else [4, 4, 6, 6])
    assert not any(effect.disagree for effect in result.values())


def test_with_noise_they_are_the_mean_over_settings_by_seed():
    rng, table = np.random.default_rng(0), {}
    for key in product(*AXES.values(), SEEDS):
        table[key] = additive(*key) + rng.normal(0, 0.3)
    result = effects_of(factorial(lambda *key: table[key]))[("schedule", "cosine")]
    rest = list(product(AXES["loss"], AXES["schedule.T"]))
    by_seed = [sum(table["cosine", *r, s] - table["linear", *r, s] for r in rest) / 4 for s in SEEDS]
    expected = stats.ttest_1samp(by_seed, 0.0).confidence_interval(0.95)
    assert result.estimate.value == pytest.approx(sum(by_seed) / 3)
    assert (result.estimate.low, result.estimate.high) == pytest.approx(tuple(expected))
    by_setting = [sum(table["cosine", *r, s] - table["linear", *r, s] for s in SEEDS) / 3 for r in rest]
    assert sorted(result.settings) == pytest.approx(sorted(by_setting))
    assert (result.seeds, result.against) == ([0, 1, 2], "linear")


def test_an_interaction_is_said():
    """cosine is lower everywhere but with hybrid at T = 1000, and lower on average."""
    table = {("hybrid", "1000"): 0.25}
    result = effects_of(
        factorial(
            lambda schedule, loss, steps, seed: (
                3.0 + SEEDS[seed] + (schedule == "cosine") * table.get((loss, steps), -0.5) - (schedule == "sigmoid")
            )
        )
    )
    cosine = result["schedule", "cosine"]
    assert cosine.estimate.value == pytest.approx(-0.3125)
    assert "the settings disagree (an interaction, or chance): lower in 3 of 4" in effect_sentence(cosine)
    assert "lower in all" in effect_sentence(result["schedule", "sigmoid"])
    assert "disagree" not in effect_sentence(result["schedule", "sigmoid"])


def test_settings_are_averaged_over_the_seeds_that_all_of_them_have():
    compared = factorial(additive)
    for one in compared.choices:
        if one.values["loss"] == "hybrid":
            del one.runs[2]
    result = effects_of(compared)
    assert result["schedule", "cosine"].seeds == [0, 1]
    assert result["loss", "hybrid"].seeds == [0, 1]
    for one in compared.choices:
        for seed in (1, 2):
            one.runs.pop(seed, None)
    single = effects_of(compared)["schedule", "cosine"]
    assert single.estimate[:5] == (-0.5, None, None, None, 1)
    assert "one seed, so without an interval" in effect_sentence(single)


def test_settings_without_a_common_seed_say_nothing():
    compared = factorial(additive)
    for one in compared.choices:
        keep = [0] if one.values["loss"] == "hybrid" else [1, 2]
        one.runs = {seed: arm for seed, arm in one.runs.items() if seed in keep}
    assert {axis for axis, _ in effects_of(compared)} == set()


def test_one_axis_has_nothing_to_be_averaged_over():
    choices = [choice({"schedule": value}, {0: 3.0 + SCHEDULE[value]}) for value in SCHEDULE]
    assert effects_of(ComparedChoices({"schedule": None}, choices)) == {}


def test_an_axis_that_another_decides_has_no_effect_of_its_own(tmp_path):
    """A loss brings its variance: pairs that differ in the loss differ in both."""
    result = report([sweep(tmp_path)], None, 0.95, {})
    message = result.studies[0].effects
    assert {effect.axis for effect in message} == {"schedule", "loss"}
    assert {len(effect.settings) for effect in message} == {2}
    text = "\n".join(console(result))
    assert "described, not judged" in text
    assert "    schedule, cosine instead of linear: bits/dim lower by 0.4" in text
    assert "on average over 2 settings of the others, 3 seeds; lower in all." in text
    write_tables(result, tmp_path)
    assert "- schedule, cosine instead of linear: bits/dim lower by 0.4" in (tmp_path / "table.md").read_text()


def test_effects_are_not_of_the_family_that_is_corrected():
    """With them or without, every comparison has the p-value that Holm's correction of the comparisons alone gives it."""
    rng = np.random.default_rng(1)
    compared = factorial(lambda *key: additive(*key) + rng.normal(0, 0.05))
    columns = judge(compared, compared.choices[0], 0.95)
    comparisons = [c for column in columns for c in column.comparisons.values()]
    assert len(comparisons) == 11
    raw = sorted(result.deciding.p for result in comparisons)
    assert min(result.p for result in comparisons) == pytest.approx(min(1, 11 * raw[0]))
