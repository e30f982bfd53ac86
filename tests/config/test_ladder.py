"""`variance=all` is what the catalogue offers and the checkpoint can be asked; what is left out is said."""

import re
from pathlib import Path

import pytest
import torch
from evaluation.support import DIGITS, copied, evaluate, refusal

from ddpm_lab.config.ladder import with_all_variances
from ddpm_lab.config.options import conf_dir, options
from ddpm_lab.core import variance as of_core
from ddpm_lab.core.analytic import Analytic
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.variance import BetaTilde
from ddpm_lab.errors import UserError

DIRS = [conf_dir() / "evaluate", conf_dir()]
LEARNED = ["learned_diagonal", "learned_range"]


@pytest.fixture(scope="module")
def run(run_of):
    return run_of(*DIGITS)


@pytest.fixture(scope="module")
def learned(run_of):
    return run_of(*DIGITS, "variance=learned_range", "loss=hybrid")


def asked(*words: str, dirs=DIRS) -> tuple[list[str], str]:
    """The variances in the place of `all`, and the line about them."""
    argv, (note,) = with_all_variances(["-m", *words], dirs)
    (given,) = [word for word in argv if word.startswith("variance=")]
    assert [word for word in argv if word != given] == ["-m", *(w for w in words if not w.startswith("variance="))]
    return given.removeprefix("variance=").split(","), note


def test_all_is_what_needs_no_training_of_a_run_that_learned_none(run):
    rungs, note = asked(f"ckpt={run}", "variance=all", "sampler.steps=4,5")
    assert rungs[:3] == ["beta", "beta_tilde", "interpolated"]
    assert "analytic" in rungs
    assert not {"auto", "exact", *LEARNED} & set(rungs)
    told, without = re.fullmatch(r"variance=all is (.+); left out: (.+)", note).groups()
    assert told.split(", ") == rungs
    for option in options("variance", DIRS).keys() - {"auto", *rungs}:
        assert option in without


def test_its_own_learned_variance_is_among_them_and_no_other_learned_one(learned):
    rungs, note = asked(f"ckpt={learned}", "variance=all")
    assert rungs[-1] == "auto"
    assert "beta" in rungs
    assert not set(LEARNED) & set(rungs)
    assert "learned_diagonal" in note
    assert "learned_range" not in note


def test_what_is_known_of_whole_chains_alone_is_asked_for_by_name(run_of, capsys):
    run = run_of(*DIGITS, "variance=learned_diagonal", "loss=hybrid", "sampler.steps=null")
    rungs, note = asked(f"ckpt={run}", "variance=all")
    assert "auto" not in rungs
    assert "auto (of chains that skip no time alone: name it, with sampler.steps=null)" in note
    for words, instead in (
        (["sampler=ancestral"], "sampler.steps=null"),
        (["sampler=ddim", "nll.chain=both"], "nll.chain=full"),
    ):
        told = refusal(capsys, f"ckpt={run}", *words, "sampler.steps=4")
        assert all(word in told for word in ("variance=learned_diagonal", "sampler.steps=4", "T=20", f"use {instead}"))
    assert evaluate(run, "variance=beta", "sampler=ancestral", "sampler.steps=4", "nll.chain=sampler").value("bound_4") > 0


def test_of_several_checkpoints_what_each_can_be_asked(run, learned):
    rungs, note = asked(f"ckpt={run},{learned}", "variance=all")
    assert "beta" in rungs
    assert not {"auto", *LEARNED} & set(rungs)
    assert all(word in note for word in ("auto", *LEARNED))


def test_others_may_stand_beside_it_and_none_twice(run):
    rungs, note = asked(f"ckpt={run}", "variance=analytic,all,learned_range")
    assert (rungs[0], rungs[-1]) == ("analytic", "learned_range")
    assert len(set(rungs)) == len(rungs)
    assert "learned_range" not in note


def test_a_class_says_why_all_never_means_it(run, monkeypatch):
    monkeypatch.setattr(Analytic, "left_out_of_all", "it is dear", raising=False)
    rungs, note = asked(f"ckpt={run}", "variance=all")
    assert "analytic" not in rungs
    assert "it is dear" in note
    assert "analytic" in asked(f"ckpt={run}", "variance=all,analytic")[0]


def test_a_head_is_offered_where_the_run_has_it(run, tmp_path, monkeypatch):
    class OfHead(BetaTilde):
        n_outputs = 2

        def __init__(self, head: str | None = None) -> None:
            self.head = head

    monkeypatch.setattr(of_core, "OfHead", OfHead, raising=False)
    (tmp_path / "variance").mkdir()
    (tmp_path / "variance" / "mine.yaml").write_text("# mine\n_target_: ddpm_lab.core.variance.OfHead\nhead: null  # which\n")
    mine, dirs = copied(run, tmp_path / "run"), [*DIRS, tmp_path]
    rungs, note = asked(f"ckpt={mine}", "variance=all", dirs=dirs)
    assert "mine" not in rungs
    assert "mine" in note
    (mine / "heads" / "mine").mkdir(parents=True)
    assert "mine" in asked(f"ckpt={mine}", "variance=all", dirs=dirs)[0]


def test_what_divides_by_the_signal_is_left_out_where_none_is_left(run, monkeypatch):
    monkeypatch.setattr(Analytic, "needs_signal", True)
    assert "analytic" in asked(f"ckpt={run}", "variance=all")[0]
    monkeypatch.setattr(NoiseSchedule, "reaches_zero", True)
    rungs, note = asked(f"ckpt={run}", "variance=all")
    assert "analytic" not in rungs
    assert "analytic" in note


def test_without_m_it_is_refused(run, capsys):
    said = refusal(capsys, f"ckpt={run}", "variance=all")
    assert all(word in said for word in ("variance=all", "-m"))
    assert not (Path(run) / "eval").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [(["variance=all"], "ckpt"), (["ckpt=/nowhere", "variance=all"], "/nowhere"), (["ckpt=X", "variance=all,bta"], "bta")],
)
def test_other_mistakes_are_named_as_they_are_without_it(words, named, run, capsys):
    assert named in refusal(capsys, "-m", *(word.replace("ckpt=X", f"ckpt={run}") for word in words))


def test_a_model_without_a_variance_is_refused(run, tmp_path):
    bare = copied(run, tmp_path / "run")
    path = bare / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["config"]["variance"]
    torch.save(checkpoint, path)
    (bare / "config.yaml").unlink()
    with pytest.raises(UserError, match=str(bare)):
        with_all_variances(["-m", f"ckpt={bare}", "variance=all"], DIRS)


@pytest.mark.slow
def test_every_rung_is_measured(learned, tmp_path):
    own = copied(learned, tmp_path / "run")
    told = evaluate(own, "-m", "variance=all", "nll.chain=sampler", "sampler.steps=3", "nll.train_stride=0", "gamma.n=4")
    names = [arm["variance"] for arm in told.arms]
    assert names[-1] == "learned_range"
    assert {"beta", "beta_tilde", "interpolated", "analytic"} <= set(names)
    assert len({told.value("bound_3", arm) for arm in range(len(names))}) == len(names)
