"""What samples cost: seconds of every piece, whoever drew it and when, and the work of one sample."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from matplotlib.figure import Figure

import ddpm_lab
from ddpm_lab.core import jacobian
from ddpm_lab.core.jacobian import Hutchinson, Lanczos
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.variance import Beta
from ddpm_lab.evaluation import evaluate as of_arm
from ddpm_lab.metrics.record import incomparable
from ddpm_lab.models.checkpoint import read_archive, write_archive
from ddpm_lab.models.contract import Model

from .support import DIGITS, Counted, evaluate, kept

FOUR = ["sampler=ddim", "sampler.steps=4", "nll.chain=sampler", "nll.train_stride=0"]
TWO_PIECES = [*FOUR, "quality.n=260"]
SPENT = {"seconds": 3.0, "waited": 0.25, "device": "cpu", "cpu": "A", "threads": 2, "batch": 64, "processes": 1, "machine": "a"}


def rewritten(run: Path, *costs: dict | None) -> None:
    """What each piece of the samples cost; None: it is of a version that took no time."""
    paths = sorted(kept(run, "samples")[0].glob("*.pt"))
    assert len(paths) == len(costs)
    for path, cost in zip(paths, costs, strict=True):
        piece = read_archive(path)
        del piece["cost"]
        if cost is not None:
            piece["cost"] = torch.tensor([*json.dumps(cost).encode()], dtype=torch.uint8)
        write_archive(piece, path)


def test_the_seconds_are_those_of_the_pieces(run):
    told = evaluate(run, *TWO_PIECES)
    pieces = [read_archive(path) for path in kept(run, "samples")[0].glob("*.pt")]
    spent = sum(json.loads(bytes(piece["cost"].tolist()))["seconds"] for piece in pieces)
    record = told.record("sampling_seconds")
    assert told.value("sampling_seconds") == pytest.approx(1000 * spent / 260)
    assert record["seconds"] == pytest.approx(spent)
    assert [record[name] for name in ("device", "batch", "processes", "machines")] == ["cpu", 256, 1, 1]
    assert record["threads"] == torch.get_num_threads()
    assert record["cpu"]
    assert (record["calls"], record["products"], record["n"], record["sampler"]) == (4, 0, 260, "ddim")


def test_what_was_spent_before_a_stop_and_elsewhere_counts(run):
    evaluate(run, *TWO_PIECES)
    rewritten(run, SPENT, SPENT | {"seconds": 5.0, "waited": 0.5, "threads": 4, "processes": 8, "machine": "b"})
    told = evaluate(run, *TWO_PIECES, "name=again")
    record = told.record("sampling_seconds")
    assert told.value("sampling_seconds") == pytest.approx(1000 * 8 / 260)
    assert record["waited"] == pytest.approx((3 * 0.25 + 5 * 0.5) / 8, abs=1e-4)
    assert [record[name] for name in ("machines", "threads", "processes", "batch")] == [2, "2, 4", "1, 8", 64]
    assert "41%" in told.results()["sampling_seconds"]["label"]


def test_samples_of_a_version_that_took_no_time_have_no_seconds_and_it_is_said(run):
    before = evaluate(run, "-m", *TWO_PIECES, "sampler.steps=3,4")
    assert all(before.value("sampling_seconds", arm) > 0 for arm in (0, 1))
    rewritten(run, None, SPENT)
    told = evaluate(run, "-m", *TWO_PIECES, "sampler.steps=3,4", "name=again")
    (untimed,) = [arm for arm in (0, 1) if told.value("sampling_seconds", arm) is None]
    assert told.record("sampling_seconds", untimed)["untimed_pieces"] == 1
    assert "1 of 2 pieces" in told.results(untimed)["sampling_seconds"]["label"]
    assert told.value("pixels_fd", untimed) == before.value("pixels_fd", untimed)
    assert "device" not in told.record("sampling_seconds", untimed)


def test_no_identity_knows_of_durations_and_no_score_is_held_back_by_them(run):
    told = evaluate(run, *FOUR)
    for about in (run / "eval" / "work").rglob("about.json"):
        assert not {"seconds", "waited", "cost"} & set(about.read_text().replace('"', " ").split())
    record = told.record("sampling_seconds")
    assert incomparable(record, record | {"seconds": 1.0, "waited": 0.9, "machines": 2, "products": 7, "calls": 9}) == []
    (difference,) = incomparable(record, record | {"threads": -1})
    assert difference.field == "threads"


def test_samples_that_cannot_differ_are_scored_once(run, monkeypatch, capsys):
    scores, asked = of_arm.scores, []
    monkeypatch.setattr(of_arm, "scores", lambda *arguments: asked.append(arguments) or scores(*arguments))
    told = evaluate(run, "-m", *FOUR, "sampler=ddim,ancestral", "variance=beta,beta_tilde")
    assert len(asked) == 3
    first, second = ([r for r in told.arms[arm]["results"] if r["record"]["split"] == "samples"] for arm in (0, 1))
    assert told.arms[1]["variance"] == "beta_tilde"
    assert first == second
    (note,) = [line for line in (told.folder / "table.md").read_text().splitlines() if line.startswith("any: ")]
    assert all(word in note for word in ("ddim", "beta, beta_tilde"))


def test_scores_of_other_samples_or_of_more_are_measured(run, monkeypatch):
    scores, asked = of_arm.scores, []
    monkeypatch.setattr(of_arm, "scores", lambda *arguments: asked.append(arguments) or scores(*arguments))
    evaluate(run, "-m", *FOUR, "quality.n=12,14", "seed=0,1")
    assert len(asked) == 4


def test_a_compiled_network_is_measured_anew_after_a_first_step_that_is_not_timed(run, monkeypatch):
    counted, plain = Counted(monkeypatch), evaluate(run, *TWO_PIECES)
    before, counted.n = counted.n, 0
    monkeypatch.setattr(Model, "compiled", True)
    told = evaluate(run, *TWO_PIECES, "name=compiled")
    assert counted.n == before + 2  # one of 256 rows, one of 4
    assert told.value("pixels_fd") == plain.value("pixels_fd")
    (difference,) = incomparable(*(of.record("sampling_seconds") for of in (plain, told)))
    assert (difference.field, difference.a, difference.b) == ("compile", None, True)


@pytest.fixture(scope="module")
def model(run_of):
    return ddpm_lab.load(run_of(*DIGITS)).model


@pytest.mark.parametrize("sampler", [Ancestral(steps=5), DDIM(steps=5)], ids=["ancestral", "ddim"])
@pytest.mark.parametrize("variance", [Hutchinson(n_probes=2), Lanczos(1.0, steps=3)], ids=["hutchinson", "lanczos"])
def test_products_are_as_many_as_are_taken(sampler, variance, model, monkeypatch):
    taken, product = [], jacobian.data_product

    def counted(seen):
        return lambda v: taken.append(1) or product(seen)(v)

    monkeypatch.setattr(jacobian, "data_product", counted)
    asked = model.sampling(sampler=sampler).with_variance(variance)
    for _ in asked.sample_states(0, 2):
        pass
    assert asked.sample_record()["products"] == len(taken) == 4 * variance.products(64)


def test_nothing_that_costs_no_product_says_so(model):
    """Records of samples that were drawn before there were products must stay as they are."""
    assert "products" not in model.sampling(sampler=Ancestral(steps=5)).with_variance(Beta()).sample_record()


def test_the_plot_has_distances_over_seconds(run):
    evaluate(run, "-m", *FOUR, "sampler.steps=3,4", "variance=beta")
    drawn: list[Figure] = []
    with patch.object(Figure, "savefig", lambda figure, path, **_: drawn.append(figure)):
        told = evaluate(run, "-m", *FOUR, "sampler.steps=3,4", "variance=beta", "quality.grid=0")
    figure = next(figure for figure in drawn if len(figure.axes) == 3)
    (line,) = figure.axes[2].lines
    assert list(line.get_xdata()) == [told.value("sampling_seconds", arm) for arm in (0, 1)]
    assert list(line.get_ydata()) == [told.value("pixels_fd", arm) for arm in (0, 1)]
    assert figure.axes[2].get_xscale() == "log"
