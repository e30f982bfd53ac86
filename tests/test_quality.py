"""The promise of the README: a person reads the digits that the default run draws. Trains as a user would: to the end among
the longest tests, and for the first 400 of 1,900 steps among the slow ones, with bars to match."""

import csv
import json
import sys
from pathlib import Path
from typing import NamedTuple

import digit_judge
import pytest
from helpers import command

import ddpm_lab
from ddpm_lab.core.grey import quantise, scale
from ddpm_lab.metrics.extractors import Pixels
from ddpm_lab.metrics.frechet import frechet_distance, stats_of

pytestmark = pytest.mark.timeout(1500)


class Case(NamedTuple):
    """A run, and what was measured of it."""

    words: tuple[str, ...]
    n: int
    """Samples that are judged."""
    recognisable: float
    """At least this share; 0.922 of the whole run, 0.662 of a fifth."""
    farther: float
    """At most this factor to the nearest training digit, beside held-out ones; medians."""
    bound: float
    """Bits/dim within 0.06, from 11 calls a digit: 3.120 ± 0.022 of the whole run, 3.397 ± 0.021 of a fifth."""


WHOLE = pytest.param(Case((), 1024, 0.90, 1.15, 3.12), id="whole", marks=pytest.mark.soak)
UNASKED = [f"callbacks.{name}=null" for name in ("samples", "frechet", "frechet_curve")]  # nothing here asks for them
FIFTH = Case(("trainer.max_steps=400", "trainer.validate_every=200", *UNASKED), 512, 0.55, 1.3, 3.40)


@pytest.fixture(scope="module", params=[WHOLE, pytest.param(FIFTH, id="fifth", marks=pytest.mark.slow)])
def case(request):
    return request.param


@pytest.fixture(scope="module")
def run(case, tmp_path_factory, once):
    """`python train.py`, on one core: the other runs other tests."""

    def train() -> str:
        folder = tmp_path_factory.mktemp("digits")
        done = command("run.name=default", *case.words, cwd=folder)
        assert done.returncode == 0, done.stderr
        print(done.stdout, file=sys.stderr)
        return str(folder / "outputs" / "digits" / "default")

    return Path(once("default", case.words, train))


@pytest.fixture(scope="module")
def samples(case, run):
    """On the grid of the data."""
    return quantise(ddpm_lab.load(run).sample(case.n, seed=1), 17)


def test_samples_are_digits_of_every_kind_and_not_copies(case, samples):
    result = digit_judge.judge(samples, *digit_judge.load_split())
    print(digit_judge.report(result), file=sys.stderr)
    assert result["pass_rate"]["noise"] <= 0.05
    assert result["pass_rate"]["shuffled"] <= 0.05
    assert result["pass_rate"]["samples"] >= case.recognisable
    assert result["every_class_present"], result["class_shares"]
    assert 0.9 < result["distance"]["ratio_of_medians"] < case.farther
    assert result["distance"]["share_nearer_than_p01"] <= 0.03


def test_samples_are_nearer_to_the_data_than_averages_of_two_digits(samples):
    """Four times, in Fréchet distance of pixels. Means of random pairs have the right mean and half the covariance."""
    train, _, labels, _ = digit_judge.load_split()
    averages = 2 * digit_judge.checks(digit_judge.averaged_pair, train, labels, seed=0)[: len(samples)] - 1
    data, *others = (stats_of([Pixels()(x)]) for x in (scale(train, 17), samples, averages))
    distance, of_averages = (frechet_distance(other, data) for other in others)
    print(f"Fréchet distance {distance:.3f}; of averages {of_averages:.3f}", file=sys.stderr)
    assert distance < 0.25 * of_averages


def test_the_bound_is_that_of_a_network_trained_as_long(case, run):
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert metrics["bound_bpd"]["value"] == pytest.approx(case.bound, abs=0.06)
    with (run / "metrics.csv").open() as file:
        halfway, end = (float(row["val/bound_bpd"]) for row in csv.DictReader(file) if row["val/bound_bpd"])
    assert halfway - end > 0.05
