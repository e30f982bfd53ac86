"""Several sets of samples: the mean of evaluations that differ in the sampling seed, and the spread between them."""

import csv
import json
import math
import statistics
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from ddpm_lab.core.sampler import DDIM
from ddpm_lab.evaluation import quality
from ddpm_lab.evaluation.sets import mean_of_sets
from ddpm_lab.metrics.record import Result, incomparable

from .support import DIGITS, Counted, Evaluation, copied, evaluate, kept, scored

ASK = ["sampler=ddim", "sampler.steps=4", "nll.chain=sampler", "nll.train_stride=0", "quality.n=24"]
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def alone(run_of, tmp_path_factory) -> tuple[Path, list[Evaluation]]:
    """Of each sampling seed, measured by itself."""
    run = copied(run_of(*DIGITS), tmp_path_factory.mktemp("alone") / "run")
    return run, [evaluate(run, *ASK, f"seed={seed}", f"name=seed{seed}") for seed in SEEDS]


@pytest.fixture(scope="module")
def three(alone, tmp_path_factory) -> tuple[Path, Evaluation, list[str]]:
    """Their samples as three sets of one evaluation; and the splits of real data that were read for it."""
    run, asked, of_data = copied(alone[0], tmp_path_factory.mktemp("three") / "run"), [], quality.of_data
    with patch.object(quality, "of_data", lambda subject, split, *rest: asked.append(split) or of_data(subject, split, *rest)):
        return run, evaluate(run, *ASK, "quality.sets=3"), asked


@pytest.fixture
def fresh(alone, tmp_path) -> Path:
    """The same run with nothing measured."""
    return copied(alone[0], tmp_path / "run")


def test_scores_are_the_means_of_evaluations_alone_to_the_bit(alone, three):
    _, each = alone
    _, told, _ = three
    of_samples = [key for key, r in told.results().items() if r["record"]["split"] == "samples" and key != "sampling_seconds"]
    assert {"pixels_fd", "pixels_kid", "pixels_precision", "pixels_recall"} <= {*of_samples}
    for key in of_samples:
        values, found = [one.value(key) for one in each], told.results()[key]
        s = statistics.stdev(values)
        assert found["sets"] == values
        assert found["value"] == statistics.fmean(values)
        assert found["standard_error"] == (s / math.sqrt(3) if s else None)
        assert found["record"] == each[0].record(key) | {"sets": 3, "std": s}
        assert found["label"] == f"{each[0].results()[key]['label']}, mean of 3 sets"
    others = [r for r in scored(told.arms)[0]["results"] if r["key"] not in of_samples]
    assert others == [r for r in scored(each[0].arms)[0]["results"] if r["key"] not in of_samples]
    assert '"sets"' not in json.dumps(each[0].content)


def test_a_later_set_is_the_first_of_the_next_seed_and_is_drawn_once(fresh, monkeypatch):
    counted = Counted(monkeypatch)
    evaluate(fresh, *ASK, "quality.sets=2", "nll.n=2")
    assert counted.n == 1 + 2 * 4  # the bound, and four steps a set
    about = {json.loads((place / "about.json").read_text())["seed"]: place for place in kept(fresh, "samples")}
    assert sorted(about) == [0, 1]
    for seed, sets, calls in ((1, 2, 1 + 4), (0, 3, 0)):  # of seed 1 its bound, and the set of seed 2
        counted.n = 0
        evaluate(fresh, *ASK, f"seed={seed}", f"quality.sets={sets}", "nll.n=2", "name=again")
        assert counted.n == calls


def test_stopped_in_a_later_set_it_goes_on_there(alone, fresh, monkeypatch):
    with monkeypatch.context() as patch:
        Counted(patch, 1 + 4 + 2)
        with pytest.raises(SystemExit):
            evaluate(fresh, *ASK, "quality.sets=2")
    counted = Counted(monkeypatch)
    told = evaluate(fresh, *ASK, "quality.sets=2")
    assert counted.n == 4
    assert told.results()["pixels_fd"]["sets"] == [one.value("pixels_fd") for one in alone[1][:2]]


def test_sets_of_a_variance_that_is_estimated_are_evaluations_of_their_own(fresh):
    """Γ of a later set is measured with the seed of that set."""
    ask = [*ASK, "variance=analytic"]
    told = evaluate(fresh, *ask, "quality.sets=2")
    each = [evaluate(copied(fresh, fresh.parent / str(seed)), *ask, f"seed={seed}") for seed in (0, 1)]
    assert told.results()["pixels_fd"]["sets"] == [one.value("pixels_fd") for one in each]
    assert len(kept(fresh, "gamma")) == 2


def test_real_data_are_measured_once(three):
    _, told, asked = three
    assert asked == ["train", "val", "val"]  # of held-out data the first, and all to draw from
    real = told.results()["pixels_fd_real"]
    assert (real["standard_error"], "sets" in real, "sets" in real["record"]) == (None, False, False)


def test_seconds_are_those_of_all_sets(three):
    run, told, _ = three
    pieces = [torch.load(path, weights_only=True) for place in kept(run, "samples") for path in place.glob("*.pt")]
    seconds = [json.loads(bytes(piece["cost"].tolist()))["seconds"] for piece in pieces]
    assert len(seconds) == 3
    assert told.value("sampling_seconds") == pytest.approx(1000 * sum(seconds) / 72)
    assert (told.record("sampling_seconds")["n"], told.record("sampling_seconds")["sets"]) == (24, 3)


def test_the_picture_is_of_the_first_set(alone, three):
    _, (first, second, _) = alone
    of_three, of_first, of_second = ((one.folder / one.arms[0]["picture"]).read_bytes() for one in (three[1], first, second))
    assert of_three == of_first != of_second


def test_the_set_that_is_not_finite_is_named_and_no_score_is_left(fresh, monkeypatch, caplog):
    step, seeds = DDIM.step, []
    states = quality.of_samples  # not reached
    monkeypatch.setattr(quality, "of_samples", lambda *arguments: seeds.append(arguments) or states(*arguments))

    def diverges(self, x, *arguments):
        found = step(self, x, *arguments)
        broken = len(kept(fresh, "samples")) == 2  # the second set is being drawn
        return (torch.full_like(found[0], torch.nan), *found[1:]) if broken else found

    monkeypatch.setattr(DDIM, "step", diverges)
    told = evaluate(fresh, *ASK, "quality.sets=3")
    (warned,) = [record.getMessage() for record in caplog.records if "not finite" in record.getMessage()]
    assert all(word in warned for word in ("set 1", "seed 1", "24 of 24"))
    assert not [key for key in told.results() if key.startswith("pixels")]
    assert seeds == []


def test_seeds_and_sets_are_independent_axes(alone, fresh):
    _, each = alone
    told = evaluate(fresh, "-m", *ASK, "seed=0,1", "quality.sets=2")
    of_seed = [one.value("pixels_fd") for one in each]
    assert [told.results(arm)["pixels_fd"]["sets"] for arm in (0, 1)] == [of_seed[:2], of_seed[1:]]
    assert [arm["setting"] for arm in told.arms] == ["seed=0", "seed=1"]
    assert len(kept(fresh, "samples")) == 3


def test_tables_give_the_mean_with_its_error_and_say_of_how_many_sets(fresh):
    told = evaluate(fresh, "-m", *ASK, "sampler=ddim,ddim_eta1", "quality.sets=2")
    text = (told.folder / "table.md").read_text()
    assert "(24 samples), mean of 2 sets" in text
    assert "2 sets of 24 samples" in text
    with (told.folder / "evaluation.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["key"] == "pixels_fd"]
    for row, number in zip(rows, (0, 1), strict=True):
        found = told.results(number)["pixels_fd"]
        assert f"{found['value']:.4f} ± {found['standard_error']:.4f}" in text
        assert (int(row["sets"]), float(row["std"]), int(row["n"])) == (2, found["record"]["std"], 24)


def test_one_set_and_several_stand_in_one_table(fresh):
    """Their expectations are equal; the row says which is which, and the title says neither."""
    told = evaluate(fresh, "-m", *ASK, "quality.sets=3,1")
    assert incomparable(told.record("pixels_fd", 0), told.record("pixels_fd", 1)) == []
    text = (told.folder / "table.md").read_text()
    assert "mean of" not in text
    assert "sets of" not in text
    assert "quality.sets=3" in text


def results(*values: float, keys: str = "a", split: str = "samples") -> list[Result]:
    return [
        Result(key, f"label {key}", value, 0.5, {"split": split, "std": 7.0}) for key, value in zip(keys, values, strict=True)
    ]


def test_a_score_that_some_set_lacks_has_no_mean():
    (mean,) = mean_of_sets([results(1.0, 2.0, keys="ab"), results(4.0, keys="b")])
    assert (mean.key, mean.value, mean.se, mean.sets) == ("b", 3.0, 1.0, (2.0, 4.0))
    assert mean.record["std"] == 2**0.5


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_mean_over_what_is_not_finite_is_unknown(broken):
    (mean,) = mean_of_sets([results(1.0), results(broken)])
    assert (mean.known, mean.known_se, mean.record["std"], mean.sets[0]) == (None, None, None, 1.0)


def test_equal_values_say_nothing_of_the_error():
    (mean,) = mean_of_sets([results(1.0), results(1.0)])
    assert (mean.value, mean.se, mean.record["std"]) == (1.0, None, 0.0)


def test_real_data_are_those_of_the_first_set():
    first = results(1.0, split="val")
    assert mean_of_sets([first, results(1.0, split="val")]) == first
