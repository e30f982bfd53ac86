"""Evaluation of conditional models: numbers by class and under guidance, recomputed from what was drawn."""

import numpy as np
import pytest
import torch

import ddpm_lab
from ddpm_lab.core.grey import scale
from ddpm_lab.core.guidance import ClassifierFree
from ddpm_lab.data.digits import Digits
from ddpm_lab.metrics.frechet import frechet_distance, stats_of

from .support import DIGITS, copied, evaluate, refusal

CONDITIONAL = (*DIGITS, "data.conditional=true", "optim.warmup=0", "optim.lr=0.05")
"""Two steps, after which the class makes a difference."""
N = 400


@pytest.fixture(scope="module")
def measured(run_of, tmp_path_factory):
    """Unguided and guided, with a classifier that has seen the data once."""
    run = copied(run_of(*CONDITIONAL), tmp_path_factory.mktemp("conditional") / "run")
    asked = [
        "metrics=classifier",
        "metrics.epochs=1",
        f"quality.n={N}",
        "nll.train_stride=0",
        "sampler=ddim",
        "sampler.steps=3",
    ]
    return run, evaluate(run, "-m", "guidance=none,classifier_free", *asked)


@pytest.fixture(scope="module")
def data():
    data = Digits(conditional=True)
    data.setup()
    return data


def test_the_bound_is_given_the_class_and_left_out_of_guided_samples(measured, data):
    run, told = measured
    one, other = (ddpm_lab.load(run).bound(data.val_images[:10], labels=data.labels("val")[i : i + 10]) for i in (0, 1))
    assert abs(one.total_bpd - other.total_bpd) > 1e-4
    assert told.value("bound") == pytest.approx(one.total_bpd, abs=1e-6)
    record = told.record("bound")
    assert (record["given"], record["labels_sha256"]) == ("class", data.labels_sha256())
    assert not [key for key in told.results(1) if "bound" in key]
    assert told.results(1).keys() < told.results(0).keys()


def test_records_say_how_each_was_guided(measured):
    _, told = measured
    for arm, scale_ in enumerate((1.0, 2.0)):
        record = told.record("classifier_fd@400", arm)
        assert (record["guidance_scale"], record["classes"], record["n"]) == (
            scale_, "by training frequency", N,
        )  # fmt: skip
    assert [arm["guidance"] for arm in told.arms] == ["none", "scale 2.0"]
    assert [arm["setting"] for arm in told.arms] == ["", ""]
    table = (told.folder / "table.md").read_text()
    assert "guidance" in table
    assert "scale 2.0" in table


def test_shares_and_distances_of_classes_are_those_of_the_samples(measured, data, monkeypatch):
    """From pixels and from the classifier's own words, by hand."""
    from ddpm_lab.metrics.classifier import Classifier

    run, told = measured
    guided = ddpm_lab.load(run).model.sampling(guidance=ClassifierFree(2.0), steps=3, eta=0.0)
    x = scale(((guided.sample(N).clamp(-1, 1) + 1) * 8).round().to(torch.uint8), 17)
    classes = guided.sample_classes(0, N)
    judged = Classifier(epochs=1, data=data).judged(x)
    right = (judged.logits.argmax(1) == classes).double()
    key = "classifier@400_asked_class"
    assert told.value(key, 1) == pytest.approx(float(right.mean()), abs=1 / N)
    for label in range(10):
        assert told.value(f"{key}_{label}", 1) == pytest.approx(float(right[classes == label].mean()), abs=0.03)
        assert told.record(f"{key}_{label}", 1)["n"] == int((classes == label).sum())
    real, rows = Classifier(epochs=1, data=data)(data.scaled("train")), judged.features
    enough = [label for label in range(10) if (classes == label).sum() >= 50]
    assert 0 < len(enough) < 10
    distances = []
    for label in enough:
        pair = (stats_of([features]) for features in (rows[classes == label], real[data.labels("train") == label]))
        distances.append(frechet_distance(*pair))
        assert told.value(f"classifier_fd_class@400_{label}", 1) == pytest.approx(distances[-1], rel=0.02)
    assert told.value("classifier_fd_class@400", 1) == pytest.approx(np.mean(distances), rel=0.02)
    assert told.record("classifier_fd_class@400", 1)["classes_measured"] == len(enough)
    assert not any(f"classifier_fd_class@400_{label}" in told.results(1) for label in set(range(10)) - set(enough))


@pytest.mark.slow
def test_a_value_of_the_guidance_alone_is_about_the_runs_own(run_of, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("ddpm_lab.evaluation.evaluate.log.info", lambda text, *_: said.append(text))
    run = copied(run_of(*CONDITIONAL, "guidance=classifier_free", "guidance.interval=[-3.0,3.0]"), tmp_path / "run")
    told = evaluate(run, "guidance.scale=3", "variance=analytic", start=["name=e", "gamma.n=4", "quality.n=8"])
    assert told.arms[0]["guidance"] == "scale 3 at log-SNR -3.0 to 3.0"
    assert told.record("pixels_fd")["guidance_interval"] == "[-3.0, 3.0]"
    assert [line for line in said if "guidance=none" in line]


def test_what_guidance_cannot_be_asked_is_refused(run_of, tmp_path, capsys):
    plain = copied(run_of(*DIGITS), tmp_path / "plain")
    said = refusal(capsys, f"ckpt={plain}", "guidance=classifier_free")
    assert all(word in said for word in ("guidance=classifier_free", "data.conditional=true"))
    conditional = copied(run_of(*CONDITIONAL), tmp_path / "conditional")
    said = refusal(capsys, f"ckpt={conditional}", "guidance=classifier_free", "nll.n=5")
    assert all(word in said for word in ("nll.n=5", "guidance.scale=2.0", "guidance=none"))
