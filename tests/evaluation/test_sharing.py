"""What several choices have in common is measured once."""

import pytest
import torch

from .support import Counted, evaluate, kept

FOUR = ["sampler.steps=4", "nll.chain=sampler", "nll.train_stride=0"]


def test_without_noise_variances_share_samples(run, monkeypatch):
    counted = Counted(monkeypatch)
    told = evaluate(run, "-m", "sampler=ddim", "variance=beta,beta_tilde", *FOUR)
    assert len(kept(run, "samples")) == 1
    assert len(kept(run, "bound")) == 2
    assert counted.n == 2 + 4  # a call for each bound, and a step each
    assert told.value("pixels_fd", 0) == told.value("pixels_fd", 1)
    assert told.value("bound_4", 0) != told.value("bound_4", 1)
    assert [told.record("pixels_fd", arm)["variance"] for arm in (0, 1)] == [None, None]


def test_the_analytic_variance_has_samples_of_its_own(run):
    told = evaluate(run, "-m", "sampler=ddim", "variance=beta,analytic", *FOUR)
    assert len(kept(run, "samples")) == 2
    assert told.value("pixels_fd", 0) != told.value("pixels_fd", 1)
    assert [told.record("pixels_fd", arm)["variance"] for arm in (0, 1)] == [None, "analytic"]


def test_ancestral_samples_are_of_each_variance(run):
    told = evaluate(run, "-m", "sampler=ancestral", "variance=beta,beta_tilde", *FOUR)
    assert len(kept(run, "samples")) == 2
    assert told.value("pixels_fd", 0) != told.value("pixels_fd", 1)


def test_noise_at_eta_1_is_that_of_beta_tilde(run):
    told = evaluate(run, "-m", "sampler=ancestral,ddim_eta1", "variance=beta_tilde", *FOUR)
    first, second = (torch.load(next(place.glob("*.pt")), weights_only=True)["x"].int() for place in kept(run, "samples"))
    assert (first - second).abs().max() <= 1  # rounding
    assert told.value("pixels_fd", 0) == pytest.approx(told.value("pixels_fd", 1), rel=1e-3)


def test_samplers_share_the_bound(run, monkeypatch):
    counted = Counted(monkeypatch)
    told = evaluate(run, "-m", "sampler=ancestral,ddim,ddim_eta1", "sampler.steps=4", "nll.train_stride=0")
    assert [len(kept(run, kind)) for kind in ("bound", "samples")] == [2, 3]
    assert counted.n == 2 + 3 * 4  # one call for each of the two chains
    assert len({told.value("bound", arm) for arm in range(3)}) == 1
    assert len({told.value("bound_4", arm) for arm in range(3)}) == 1


def test_the_full_chain_is_measured_once_whoever_asks(run, monkeypatch):
    counted = Counted(monkeypatch)
    told = evaluate(run, "-m", "nll.chain=full,sampler,both", "quality.n=0", "nll.train_stride=0")
    assert counted.n == 1
    assert len(told.arms) == 3
