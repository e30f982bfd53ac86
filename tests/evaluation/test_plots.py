"""The plot of a bound: its lines, and that it is drawn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_lab.evaluation import plots
from ddpm_lab.likelihood.bound import Bound

DRAWN = True


def array(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


BOUND = Bound(
    times=(1, 5, 10),
    terms_bpd=array(0.5, 0.25, -0.125),
    terms_se=array(0.1, 0.1, 0.1),
    terms_n=array(4, 4, 4),
    prior_bpd=1.0,
    total_bpd=1.625,
    total_se=0.2,
    n=4,
    stride=1,
    mean_bpd=array(math.nan, 0.2, 0.1),
    variance_bpd=array(math.nan, 0.05, 0.025),
    rmse=array(2, 20, 100),
    per_datum_bpd=None,
)


def test_it_shows_each_term_with_its_shares_and_the_rate_against_the_distortion(tmp_path, monkeypatch):
    figures, save = [], plots.Figure.savefig
    monkeypatch.setattr(plots.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    plots.plot_bound(BOUND, "3 steps", tmp_path / "bound.png")
    (left, right), nothing = figures[0].axes, math.nan
    shown = {line.get_label(): line.get_xydata() for line in left.lines}
    expected = {
        "L_0 at the smallest t, then divergences": [(1, 0.5), (5, 0.25), (10, nothing)],  # no negative numbers on it
        "by the means": [(1, nothing), (5, 0.2), (10, 0.1)],
        "by the variances": [(1, nothing), (5, 0.05), (10, 0.025)],
    }
    assert shown.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(shown[name], values)
    (curve,) = right.lines
    assert curve.get_xydata().tolist() == [[1, 100], [0.875, 20], [1.125, 2]]
    assert left.get_yscale() == "log"
    grey = np.asarray(Image.open(tmp_path / "bound.png").convert("L"))
    assert grey.min() < 100


@pytest.mark.parametrize("terms", [(-0.5, -0.25, -0.1), (math.nan,) * 3, (-4.1,)])
def test_no_positive_term_is_no_hindrance(terms, tmp_path):
    """As of a density in one step."""
    n = len(terms)
    shares = array(*[math.nan] * n)
    bound = replace(
        BOUND, times=BOUND.times[:n], terms_bpd=array(*terms), mean_bpd=shares, variance_bpd=shares, rmse=BOUND.rmse[:n]
    )
    grey = np.asarray(Image.open(plots.plot_bound(bound, "", tmp_path / "bound.png")).convert("L"))
    assert grey.min() < 100
