"""sampler.spacing=optimal of a trained run: which times, how they were found, and what is refused."""

import itertools
import json
import math
import sys
from unittest.mock import patch

import pytest
import torch

import ddpm_lab
from ddpm_lab.cli.sample import main as sample
from ddpm_lab.core.optimal import costs
from ddpm_lab.core.sampler import Ancestral
from ddpm_lab.core.spacing import Optimal
from ddpm_lab.core.variance import BetaTilde
from ddpm_lab.likelihood.at_times import ErrorMeter
from ddpm_lab.models.optimal import times_record

from .support import DIGITS, VECTORS, Counted, T, columns, copied, evaluate, kept, refusal

ASK = ["sampler.spacing=optimal", "sampler.steps=4", "nll.chain=sampler", "gamma.n=6"]


def of_data(run) -> torch.Tensor:
    """The first six training data."""
    from ddpm_lab.config.build_evaluation import data_of

    data = data_of(ddpm_lab.load(run), run / "checkpoints" / "last.ckpt")
    return data.train_images[:6].float() / 8 - 1


def test_times_are_the_cheapest_of_all_chains(run):
    """Of the 969 with four steps, by errors that are measured once for all numbers of steps."""
    told = evaluate(run, "variance=beta_tilde", "sampler=ancestral", *ASK)
    process, net = ddpm_lab.load(run).diffusion, ddpm_lab.load(run).net
    meter = ErrorMeter(process, tuple(range(1, T + 1)))
    with torch.inference_mode():
        meter.add(net, of_data(run), 0)
    of_steps = costs(process.schedule, BetaTilde(), meter.result())

    def total(times) -> float:
        (s, t), *rest = itertools.pairwise(times)
        return float(of_steps.opening[s - 1, t - 1] + sum(of_steps.between[s - 1, t - 1] for s, t in rest))

    chains = [(*times, T) for times in itertools.combinations(range(1, T), 3)]
    times = min(chains, key=total)
    record, of_samples = told.record("bound_4"), told.record("pixels_fd")
    expected = {"spacing": "optimal", "steps": 4, "times": " ".join(map(str, times)), "times_n": 6, "times_calls": 6 * T}
    assert {key: record[key] for key in expected} == {key: of_samples[key] for key in expected} == expected
    assert columns(told.folder / "times_4_beta_tilde.csv")["t"] == list(times)
    assert columns(told.folder / "bound_4_beta_tilde.csv")["t"] == list(times)


def test_errors_are_measured_once_and_samples_have_the_same_times(run, monkeypatch):
    first = evaluate(run, "sampler=ancestral", *ASK)
    (place,) = kept(run, "errors")
    pieces = sorted(place.iterdir())
    calls = Counted(monkeypatch)
    again = evaluate(run, "sampler=ancestral", *ASK, "sampler.steps=6", "quality.n=0", "name=six")
    assert calls.n == 1  # of the bound
    assert sorted(place.iterdir()) == pieces
    assert len(again.record("bound_6")["times"].split()) == 6
    drawn = ["sample.py", f"ckpt={run}", "n=12", "sampler=ancestral", *(word for word in ASK if "nll" not in word)]
    before = calls.n
    with patch.object(sys, "argv", drawn):
        sample()
    assert calls.n == before  # those of the evaluation
    (folder,) = (run / "drawn").iterdir()
    record = json.loads((folder / "samples.json").read_text())["record"]
    assert {key: record[key] for key in ("times", "times_n")} == {
        key: first.record("pixels_fd")[key] for key in ("times", "times_n")
    }
    assert columns(folder / "times_4_beta.csv")["t"] == [int(t) for t in record["times"].split()]


def test_many_times_are_a_hash():
    def told(*times: int) -> str:
        return times_record(Ancestral(len(times), "optimal", optimal=Optimal(times, 6)), 30)["times"]

    few, many = range(11, 31), range(10, 31)
    assert told(*few) == " ".join(map(str, few))
    assert told(*many).startswith("sha256 ")
    assert len({told(*many), told(9, *range(11, 31))}) == 2


def test_each_variance_has_its_own_times_also_of_ddim(run):
    """Γ is known at every t, as any may be chosen; samples of DDIM, which adds no σ², differ by the times."""
    told = evaluate(run, "-m", "variance=beta,analytic", "sampler=ancestral,ddim", *ASK)
    assert [(arm["sampler"], arm["variance"]) for arm in told.arms] == [
        (sampler, variance) for variance in ("beta", "analytic") for sampler in ("ancestral", "ddim")
    ]
    bounds = [told.record("bound_4", arm) for arm in range(4)]
    assert [record.get("gamma_times") for record in bounds] == [None, None, T, T]
    assert bounds[0] == bounds[1]
    assert [told.record("pixels_fd", arm)["variance"] for arm in range(4)] == ["beta", "beta", "analytic", "analytic"]
    assert told.value("pixels_fd", 0) != told.value("pixels_fd", 1)
    assert all(math.isfinite(told.value("bound_4", arm)) for arm in range(4))
    (place,) = kept(run, "gamma")
    assert sum(len(torch.load(path, weights_only=True)["times"]) for path in place.glob("*.pt")) == T


def test_vectors_have_optimal_times_by_a_density(run_of, tmp_path):
    run = copied(run_of(*VECTORS), tmp_path / "run")
    told = evaluate(run, "variance=analytic", "sampler=ancestral", *ASK)
    assert len(told.record("bound_4")["times"].split()) == 4
    (place,) = kept(run, "errors")
    assert {len(torch.load(path, weights_only=True)["sums"]) for path in place.glob("*.pt")} == {1}


def test_a_learned_variance_is_refused_and_a_fixed_one_is_not(run_of, tmp_path, capsys):
    run = copied(run_of(*DIGITS, "loss=hybrid", "variance=learned_range"), tmp_path / "run")
    said = refusal(capsys, f"ckpt={run}", *ASK)
    wanted = ("sampler.spacing=optimal", "variance=learned_range", "variance=analytic", "variance=beta_tilde", "x_t")
    assert all(word in said for word in wanted)
    assert "variance=learned_diagonal" not in said
    assert evaluate(run, "variance=analytic", *ASK, "quality.n=0").record("bound_4")["times_n"] == 6


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["sampler=heun"], ("sampler.spacing=optimal", "trailing", "karras")),
        (["sampler=unipc"], ("sampler.spacing=optimal", "trailing", "karras")),
        (["sampler=ancestral", "sampler.steps=21"], ("steps=21", "T=20")),
        (["sampler=ancestral", "gamma.n=5000"], ("gamma.n=5000", "1437")),
        (["sampler=ancestral", "sampler.steps=null"], ("sampler.spacing=optimal", "sampler.steps=null")),
    ],
)
def test_what_has_no_optimal_times_is_refused(words, named, run, capsys):
    asked = {word.partition("=")[0]: word for word in [*ASK, *words]}
    said = refusal(capsys, f"ckpt={run}", *asked.values())
    assert all(word in said for word in named)
    assert not (run / "eval").exists() or not kept(run, "errors")


def test_errors_that_are_not_finite_are_refused(run, monkeypatch, capsys):
    sums = ErrorMeter.summands
    monkeypatch.setattr(ErrorMeter, "summands", lambda *arguments: sums(*arguments) * torch.nan)
    with pytest.raises(SystemExit) as ended:
        evaluate(run, "sampler=ancestral", *ASK)
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert all(word in told for word in ("sampler.spacing=optimal", "t = 1"))
