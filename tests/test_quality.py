"""The promise of the README: a person reads the digits that the default run draws. Trains for minutes, as a user would."""

import json
import sys

import digit_judge
import pytest
import torch
from helpers import arrays, command

import ddpm_lab
from ddpm_lab.core.grey import quantise

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`python train.py`, with both cores."""
    folder = tmp_path_factory.mktemp("digits")
    done = command("run.name=default", cwd=folder, threads=2)
    assert done.returncode == 0, done.stderr
    print(done.stdout, file=sys.stderr)
    return folder / "outputs" / "digits" / "default"


def test_samples_are_digits_of_every_kind_and_not_copies(run):
    torch.set_num_threads(2)
    samples, split = quantise(ddpm_lab.load(run).sample(1024, seed=1), 17), digit_judge.load_split()
    result = digit_judge.judge(samples, *split)
    print(digit_judge.report(result), file=sys.stderr)
    assert result["pass_rate"]["noise"] <= 0.05
    assert result["pass_rate"]["shuffled"] <= 0.05
    assert result["pass_rate"]["samples"] >= 0.90
    assert result["every_class_present"], result["class_shares"]
    assert 0.9 < result["distance"]["ratio_of_medians"] < 1.15
    assert result["distance"]["share_nearer_than_p01"] <= 0.03


def test_the_bound_is_near_what_was_published_for_this_run(run):
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    terms = arrays(run / "vlb_terms.npz")
    total = terms["terms_bpd"].sum() + terms["prior_bpd"]
    assert metrics["bound_bpd"]["value"] == pytest.approx(total, abs=1e-9)
    assert metrics["pixels_fd"]["value"] < 5 * metrics["pixels_fd_real"]["value"] + 5
