"""The judge of generated digits is itself judged: what it must pass, what it must fail, what it must notice."""

import digit_judge as dj
import numpy as np
import pytest
import torch
from torch import Generator

SPLIT = train, held_out, train_labels, held_out_labels = dj.load_split()


@pytest.fixture(scope="module")
def net():
    return dj.train_classifier(train, train_labels)


def in_model_range(x):
    return 2 * x - 1


def tampered(x, kind):
    """Garbage of kinds that the classifier never saw, from held-out digits in [0, 1]."""
    g = Generator().manual_seed(7)
    if kind == "quadrants exchanged":
        return x.roll((4, 4), dims=(2, 3))
    if kind == "negative":
        return 1 - x
    if kind == "three averaged":
        return torch.stack([x[torch.randperm(len(x), generator=g)] for _ in range(3)]).mean(0)
    if kind == "salt and pepper":
        return (torch.rand(x.shape, generator=g) < torch.rand(len(x), 1, 1, 1, generator=g)).float()
    mean, covariance = x.flatten(1).mean(0), x.flatten(1).T.cov() + 1e-6 * torch.eye(64)  # kind == "gaussian"
    scale = torch.linalg.cholesky(covariance)
    return (mean + torch.randn(len(x), 64, generator=g) @ scale.T).view_as(x)


def test_held_out_digits_pass_and_are_named_correctly(net):
    result = dj.judge(held_out, *SPLIT, classifier=net)
    assert result["pass_rate"]["samples"] == result["pass_rate"]["held_out"] > 0.93
    assert result["held_out_accuracy"] > 0.97
    assert result["every_class_present"]
    assert result["distance"]["ratio_of_medians"] == 1
    assert result["distance"]["ks"] == 0


def test_noise_and_shuffled_digits_fail(net):
    rates = dj.judge(held_out, *SPLIT, classifier=net)["pass_rate"]
    assert rates["noise"] <= 0.05
    assert rates["shuffled"] <= 0.05
    assert rates["averaged_pairs"] <= 0.05


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
def test_gaussian_noise_fails_at_every_scale(net, scale):
    noise = scale * torch.randn(2000, 1, 8, 8, generator=Generator().manual_seed(8))
    assert dj.pass_rate(net, dj.to_unit(noise.clamp(-1, 1))) <= 0.05


@pytest.mark.parametrize(
    "family", [family for family in dj.NEGATIVES if family is not dj.halves], ids=lambda family: family.__name__
)
def test_every_family_of_negatives_fails_in_fresh_draws(net, family):
    assert dj.pass_rate(net, dj.checks(family, held_out, held_out_labels, seed=0)) <= 0.05


def test_most_digits_in_halves_fail(net):  # some pairs of halves do make a digit
    assert dj.pass_rate(net, dj.checks(dj.halves, held_out, held_out_labels, seed=0)) <= 0.25


@pytest.mark.parametrize(
    ("kind", "bar"),
    [
        ("quadrants exchanged", 0.05),
        ("negative", 0.05),
        ("three averaged", 0.05),
        ("salt and pepper", 0.05),
        ("gaussian", 0.12),  # the best linear generator: mean and covariance of the digits
    ],
)
def test_garbage_never_trained_on_fails(net, kind, bar):
    x = tampered(dj.to_unit(held_out), kind).clamp(0, 1)
    assert dj.pass_rate(net, dj.to_unit(in_model_range(x))) <= bar


def test_a_grey_level_of_noise_is_forgiven(net):
    x = dj.to_unit(held_out)
    noisy = x + torch.randn(x.shape, generator=Generator().manual_seed(9)) / dj.LEVELS
    assert dj.pass_rate(net, dj.to_unit(in_model_range(noisy.clamp(0, 1)))) > 0.85


def test_copies_are_noticed(net):
    distance = dj.judge(train, *SPLIT, classifier=net)["distance"]
    assert distance["samples"] == [0, 0, 0]
    assert distance["share_nearer_than_p01"] == distance["ks"] == 1


def test_near_copies_are_noticed(net):
    near = in_model_range(dj.to_unit(train)) + 0.05 * torch.randn(train.shape, generator=Generator().manual_seed(10))
    assert dj.judge(near.clamp(-1, 1), *SPLIT, classifier=net)["distance"]["share_nearer_than_p01"] > 0.95


def test_a_missing_class_is_noticed(net):
    result = dj.judge(held_out[held_out_labels != 3], *SPLIT, classifier=net)
    assert result["class_shares"][3] < dj.MIN_CLASS_SHARE
    assert not result["every_class_present"]
    assert sum(result["class_shares"]) == pytest.approx(1)


def test_levels_and_floats_are_the_same_samples():
    assert torch.equal(dj.to_unit(held_out), dj.to_unit(held_out.double() / 8 - 1))


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (torch.zeros(3, 8, 8), "shape"),
        (torch.zeros(0, 1, 8, 8), "shape"),
        (torch.full((3, 1, 8, 8), 17, dtype=torch.uint8), "0..16"),
        (torch.zeros(3, 1, 8, 8, dtype=torch.int64), "uint8"),
        (torch.full((3, 1, 8, 8), 1.5), "clamp"),
        (torch.full((3, 1, 8, 8), float("nan")), "finite"),
    ],
)
def test_other_samples_are_refused(samples, says):
    with pytest.raises(ValueError, match=says):
        dj.to_unit(samples)


def test_training_is_reproducible_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (dj.train_classifier(train[:300], train_labels[:300], seed, epochs=1) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first[0].weight, other[0].weight)


def test_program_prints_its_table(net, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["digit_judge.py", str(tmp_path / "samples.npz")])
    monkeypatch.setattr(dj, "train_classifier", lambda *_: net)
    np.savez(tmp_path / "samples.npz", samples=held_out.numpy())
    dj.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("360 samples; 1437 training and 360 held-out digits")
    assert [line.split()[0] for line in lines[1:]] == ["samples", "recognisable", "classes", "nearest"]
