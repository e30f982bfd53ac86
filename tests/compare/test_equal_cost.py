"""Variances at equal seconds: exact on power laws, nothing outside of what was measured, and no verdict on a duration."""

import json
from pathlib import Path

import numpy as np
import pytest

from compare.synthetic import config, write_evaluation, write_run
from ddpm_lab.compare.choices import ComparedChoice
from ddpm_lab.compare.comparison import Verdict
from ddpm_lab.compare.equal_cost import EqualCost
from ddpm_lab.compare.lines import distance_over_seconds
from ddpm_lab.compare.page import page_of
from ddpm_lab.compare.printed import console, write_tables
from ddpm_lab.compare.report import Study, report
from ddpm_lab.compare.statistics import holm, t_interval

SECONDS = "sampling_seconds"
PLACE = {"device": "cpu", "threads": 1, "batch": 256, "processes": 1}
CHEAP, DEAR = {"beta": 0.1}, {"analytic": 0.25}
"""Seconds of one step."""


def measured(root: Path, seed: int, of_step: dict[str, float], distance, steps=(2, 4, 8, 16), sampler="ancestral", **place):
    """A run with an evaluation of each variance: seconds by steps, and `distance(variance, seconds, seed)`."""
    run = write_run(root / f"{sampler}{seed}", config(seed))
    arms = {(sampler, n, name): (3.0, distance(name, n * second, seed)) for name, second in of_step.items() for n in steps}
    write_evaluation(run, arms)
    path = run / "eval" / "e" / "evaluation.json"
    content = json.loads(path.read_text())
    for arm in content["arms"]:
        record = arm["results"][1]["record"] | PLACE | {"waited": 0.0} | place
        value = arm["steps"] * of_step[arm["variance"]]
        arm["results"].append({"key": SECONDS, "label": "s", "value": value, "standard_error": None, "record": record})
    path.write_text(json.dumps(content))
    return run


def power(name: str, seconds: float, seed: int) -> float:
    """A power law of the seconds: what lies between measured steps is known exactly."""
    return {"beta": 2.0, "analytic": 1.5}[name] * seconds**-0.7 * (1 + 0.01 * seed)


def study_of(root: Path) -> Study:
    return report([root], None, 0.95, {}).studies[-1]


def at(study: Study, variance: str, steps: int) -> EqualCost:
    def chosen(choice: ComparedChoice) -> bool:
        return (choice.first.flat["evaluated.variance"], choice.first.flat["evaluated.steps"]) == (variance, steps)

    (found,) = [each for each in study.equal_cost if chosen(each.choice)]
    return found


def test_a_power_law_is_met_exactly_between_measured_steps(tmp_path):
    measured(tmp_path, 1, CHEAP | DEAR, power)
    study = study_of(tmp_path)
    for variance, steps, ratio in (("analytic", 2, 0.75), ("analytic", 4, 0.75), ("beta", 8, 1 / 0.75), ("beta", 16, 1 / 0.75)):
        found = at(study, variance, steps)
        assert found.log_ratio is not None
        assert np.exp(found.log_ratio.value) == pytest.approx(ratio, rel=1e-12)
        assert found.verdict is Verdict.NONE  # one seed


@pytest.mark.parametrize(("variance", "steps"), [("analytic", 8), ("analytic", 16), ("beta", 2), ("beta", 4)])
def test_nothing_is_extrapolated(variance, steps, tmp_path):
    measured(tmp_path, 1, CHEAP | DEAR, power)
    found = at(study_of(tmp_path), variance, steps)
    assert (found.log_ratio, found.verdict) == (None, Verdict.REFUSED)
    low, high = {"analytic": (0.2, 1.6), "beta": (0.5, 4.0)}[variance]
    assert found.span == pytest.approx((low, high))
    assert not low <= found.seconds <= high


def test_timings_that_differ_as_repeated_ones_do_are_compared_with_the_nearest(tmp_path):
    """By 4% outside: the ratio is that of the measured ends. By 6%: none."""
    for factor, known in ((1.04, True), (1.06, False)):
        root = tmp_path / str(factor)
        measured(root, 1, {"beta": 0.1, "analytic": 0.1 * factor}, power, steps=(2, 4))
        found = at(study_of(root), "analytic", 4).log_ratio
        assert (found is not None) is known
        if found is not None:
            assert np.exp(found.value) == pytest.approx(power("analytic", 0.4 * factor, 1) / power("beta", 0.4, 1))


def test_intervals_are_over_seeds_and_one_correction_covers_all(tmp_path):
    rng = np.random.default_rng(0)
    noise = {(name, seed): rng.normal(0, 0.02) for name in ("beta", "analytic") for seed in (1, 2, 3, 4)}

    def noisy(name: str, seconds: float, seed: int) -> float:
        return power(name, seconds, seed) * float(np.exp(noise[name, seed]))

    for seed in (1, 2, 3, 4):
        measured(tmp_path, seed, CHEAP | DEAR, noisy)
    study = study_of(tmp_path)
    shifts = [noise["analytic", seed] - noise["beta", seed] for seed in (1, 2, 3, 4)]
    expected = t_interval([np.log(0.75) + shift for shift in shifts], 0.95)
    found = at(study, "analytic", 4)
    assert found.log_ratio is not None
    assert (found.log_ratio.low, found.log_ratio.high) == pytest.approx((expected.low, expected.high))
    assert (found.verdict, at(study, "beta", 8).verdict) == (Verdict.BETTER, Verdict.WORSE)
    known = [each for each in study.equal_cost if each.log_ratio is not None]
    assert len(known) == 4
    assert [each.p for each in known] == pytest.approx(holm([each.log_ratio.p for each in known]))  # type: ignore[union-attr]


def test_what_chance_explains_is_not_distinguishable(tmp_path):
    for seed, shift in ((1, 0.1), (2, -0.1), (3, 0.02)):
        measured(tmp_path, seed, CHEAP | DEAR, lambda name, s, _, shift=shift: s**-0.7 * (1 + shift * (name == "beta")))
    assert at(study_of(tmp_path), "analytic", 4).verdict is Verdict.OPEN


def test_a_duration_is_no_score(tmp_path):
    for seed in (1, 2):
        measured(tmp_path, seed, CHEAP | DEAR, power)
    study = study_of(tmp_path)
    (column,) = [column for column in study.columns if column.measure.key == SECONDS]
    assert len(column.estimates) == 8
    assert (column.winners, column.comparisons, column.measure.judged) == ([], {}, False)
    assert column not in study.main
    assert column not in study.scores
    assert not any(effect.measure.key == SECONDS for effect in study.effects)


def test_seconds_of_other_threads_are_not_compared_and_it_is_said(tmp_path):
    measured(tmp_path, 1, CHEAP | DEAR, power)
    path = tmp_path / "ancestral1" / "eval" / "e" / "evaluation.json"
    content = json.loads(path.read_text())
    for arm in content["arms"]:
        if arm["variance"] == "analytic":
            arm["results"][-1]["record"]["threads"] = 8
    path.write_text(json.dumps(content))
    study = study_of(tmp_path)
    assert study.equal_cost == []
    assert "threads: 1 against 8" in "\n".join(console(report([tmp_path], None, 0.95, {})))


def test_a_seed_without_seconds_leaves_its_choice_out(tmp_path):
    for seed in (1, 2):
        measured(tmp_path, seed, CHEAP | DEAR, power)
    path = tmp_path / "ancestral2" / "eval" / "e" / "evaluation.json"
    content = json.loads(path.read_text())
    (last,) = [arm for arm in content["arms"] if (arm["variance"], arm["steps"]) == ("beta", 16)]
    last["results"][-1]["value"] = None
    path.write_text(json.dumps(content))
    study = study_of(tmp_path)
    assert at(study, "analytic", 4).verdict is Verdict.REFUSED  # 1.0 s, and beta is known up to 0.8 s
    assert at(study, "analytic", 2).log_ratio is not None


def test_samplers_are_not_mixed_and_copies_are_left_out(tmp_path):
    run = measured(tmp_path, 1, CHEAP | DEAR, power)
    other = measured(tmp_path / "other", 1, {"beta": 0.1, "beta_tilde": 0.1}, lambda *_: 2.0, sampler="ddim")
    (other / "eval" / "e").rename(run / "eval" / "f")
    made = study_of(tmp_path).equal_cost
    samplers = {(each.choice.first.flat["evaluated.sampler"], *_samplers(each.other.points)) for each in made}
    assert samplers == {("ancestral", "ancestral")}  # beta_tilde of ddim equals beta by construction


def _samplers(choices) -> set[str]:
    return {choice.first.flat["evaluated.sampler"] for choice in choices}


def test_what_is_printed(tmp_path):
    for seed in (1, 2):
        measured(tmp_path / "runs", seed, CHEAP | DEAR, power, waited=0.4)
    made = report([tmp_path / "runs"], None, 0.95, {})
    write_tables(made, tmp_path / "out")
    written = [(tmp_path / "out" / f"table.{kind}").read_text() for kind in ("md", "tex")]
    for text in ("\n".join(console(made)), page_of(made, ["runs"]), *written):
        for words in ("chet distance (pixels) as", "at equal seconds", "0.75", "1.33", "better", "outside 0.2 to 1.6 s"):
            assert words in text, words
        assert "not comparable at equal cost" in text
    assert "40%" in "\n".join(console(made))
    assert f",{SECONDS}" in (tmp_path / "out" / "table.csv").read_text().splitlines()[0]


def test_the_figure_has_a_line_for_each_variance(tmp_path):
    for seed in (1, 2):
        measured(tmp_path, seed, CHEAP | DEAR, power)
    figure = distance_over_seconds(study_of(tmp_path))
    assert figure is not None
    assert [entry["x"] for entry in figure.data] == [pytest.approx([0.2, 0.4, 0.8, 1.6]), pytest.approx([0.5, 1, 2, 4])]
    mean = np.sqrt(1.01 * 1.02)  # geometric, over seeds
    assert figure.data[1]["y"] == pytest.approx([1.5 * s**-0.7 * mean for s in (0.5, 1, 2, 4)], rel=1e-5)
    assert (figure.x["type"], figure.y["type"], figure.legend) == ("log", "log", True)
