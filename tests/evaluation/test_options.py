"""Every option of evaluate.py's groups works on a trained run, or is refused with what to choose instead."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from formats import random_images
from helpers import CONF

from ddpm_lab.config.instantiate import resolve_target
from ddpm_lab.config.options import groups, options, target
from ddpm_lab.core.heads import OfHead

from .support import DIGITS, VECTORS, T, copied, evaluate, found, refusal

DIRS = [CONF / "evaluate", CONF]
VARIANCES = options("variance", DIRS)
CLASSES = {
    name: resolve_target(str(target(path)), "variance") for name, path in VARIANCES.items() if "." in (target(path) or "")
}
OF_HEADS = [name for name, variance in CLASSES.items() if issubclass(variance, OfHead)]  # test_variance_heads.py
LEARNED = [name for name, variance in CLASSES.items() if variance.n_outputs == 2 and name not in OF_HEADS]
ELSEWHERE = (*LEARNED, *OF_HEADS)

# What an option cannot do without. A new option that needs nothing needs no line here.
NEEDS = {
    ("metrics", "classifier"): ["metrics.epochs=1", "metrics.batch=64"],
    ("metrics", "inception"): ["metrics.weights=WEIGHTS", "metrics.batch=8"],
    ("protocol", "cifar10"): ["metrics.weights=WEIGHTS", "metrics.batch=8"],
    ("check", "cifar10_20min"): ["metrics.weights=WEIGHTS", "metrics.batch=8", "nll.terms=10"],  # of so few steps
    ("logger", "wandb"): ["logger.mode=offline"],
    ("logger", "all"): ["logger.mode=offline"],
}

DISTANCES = {"inception": "fid@12", "cifar10": "fid@12", "cifar10_20min": "fid@12", "classifier": "classifier_fd@12"}
FAIL = {("check", "cifar10_20min")}
"""What no tiny run can reach."""


def steps(group: str, option: str) -> list[str]:
    """Fewer than the T of the run, where a sampler is named whose own may be more."""
    return ["sampler.steps=5"] if group == "sampler" and option != "auto" else []


def cases() -> list[Any]:
    pairs = [
        (group, option) for group in groups(DIRS) for option in options(group, DIRS) if option not in (*LEARNED, *OF_HEADS)
    ]
    pairs = [pair for pair in pairs if pair not in (("logger", "mlflow"), ("logger", "trackio"))]  # compare/test_trackers.py
    pairs = [pair for pair in pairs if pair[0] != "guidance"]  # of conditional models: test_conditional.py
    marks = {pair: pytest.mark.slow for pair in pairs if "metrics.weights=WEIGHTS" in NEEDS.get(pair, [])}
    marks["metrics", "inception"] = marks["check", "cifar10_20min"] = pytest.mark.soak  # protocol=cifar10 measures so as well
    return [pytest.param(*pair, marks=marks.get(pair, ())) for pair in pairs]


@pytest.fixture
def few_images(run_of, tmp_path_factory, tmp_path):
    """A run of twenty images, as an Inception network takes its time over each."""
    path = tmp_path_factory.getbasetemp() / "few.npz"
    np.savez(path, images=random_images(40, 3, 16).transpose(0, 2, 3, 1))
    overrides = (*DIGITS, "data=npz", f"data.path={path}", "data.val_fraction=0.5")
    return copied(run_of(*overrides), tmp_path / "few_run")


@pytest.mark.parametrize(("group", "option"), cases())
def test_option_measures_a_run_of_images(group, option, run, request):
    needs = NEEDS.get((group, option), [])
    if "metrics.weights=WEIGHTS" in needs:
        run, weights = request.getfixturevalue("few_images"), request.getfixturevalue("inception_weights")
        needs = [need.replace("WEIGHTS", str(weights)) for need in needs]
    with pytest.raises(SystemExit) if (group, option) in FAIL else nullcontext():
        evaluate(run, f"{group}={option}", *steps(group, option), *needs)
    told = found(run)
    assert all(math.isfinite(result["value"]) for result in told.arms[0]["results"])
    distance = next(result["key"] for result in told.arms[0]["results"] if result["record"].get("reference"))
    assert distance == {
        "inception": "fid@12",
        "cifar10": "fid@12",
        "cifar10_20min": "fid@12",
        "classifier": "classifier_fd@12",
    }.get(option, "pixels_fd")
    assert told.arms[0]["steps"] == (5 if steps(group, option) else T)
    if option != "auto" and group in ("variance", "sampler"):
        assert told.arms[0][group] == option


def test_auto_is_what_the_run_was_trained_with(run):
    (arm,) = evaluate(run).arms
    assert (arm["sampler"], arm["variance"]) == ("ancestral", "beta")


@pytest.mark.parametrize("group", ["variance", "sampler"])
def test_every_option_measures_vectors(group, run_of, tmp_path):
    run = copied(run_of(*VECTORS), tmp_path / "run")
    names = [name for name in options(group, DIRS) if name not in (*ELSEWHERE, "auto")]
    told = evaluate(run, "-m", f"{group}={','.join(names)}", *steps(group, names[0]))
    assert [arm[group] for arm in told.arms] == names
    for arm in range(len(names)):
        assert math.isfinite(told.value("bound", arm))
        assert math.isfinite(told.value("pixels_fd", arm))
        assert told.record("bound", arm)["levels"] is None


@pytest.mark.parametrize("option", LEARNED)
def test_a_learned_variance_is_refused_where_the_network_has_no_such_output(option, run, capsys):
    said = refusal(capsys, f"ckpt={run}", f"variance={option}")
    assert f"variance={option} is an output of the network, and this one was trained with variance=beta" in said
    assert "variance=analytic" in said
    assert not any(f"variance={other}" in said.partition("or choose")[2] for other in LEARNED)
    assert not (run / "eval").exists()


@pytest.mark.parametrize("option", LEARNED)
def test_a_learned_variance_is_measured_where_the_network_has_it_and_any_other_in_its_place(option, run_of, tmp_path):
    run = copied(run_of(*DIGITS, "loss=hybrid", f"variance={option}"), tmp_path / "run")
    told = evaluate(run, "-m", f"variance=auto,{option},beta,analytic")
    assert [arm["variance"] for arm in told.arms] == [option, option, "beta", "analytic"]
    own, same, beta, analytic = (told.value("bound", arm) for arm in range(4))
    assert own == same
    assert len({own, beta, analytic}) == 3
