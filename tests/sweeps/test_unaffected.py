"""Before a sweep starts it names the numbers in which its runs cannot differ."""

import pytest

from ddpm_lab.cli.sweep import plan_of
from ddpm_lab.config.options import conf_dir
from ddpm_lab.config.preflight import preflight


def notes(line: str) -> list[str]:
    return list(plan_of(preflight(["-m", *line.split()]), [], [conf_dir()]).notes)


@pytest.mark.parametrize("sampler", ["ddim", "ddim_eta1"])
def test_samples_of_ddim_under_two_variances(sampler):
    (note,) = notes(f"sampler={sampler} variance=beta,beta_tilde seed=0,1")
    for name in ("samples", "variance=beta and variance=beta_tilde", f"sampler={sampler}", "sampler=ancestral"):
        assert name in note


def test_the_bound_under_two_samplers():
    (note,) = notes("sampler=ancestral,ddim seed=0,1 variance=beta")
    for name in ("bound_bpd", "sampler=ancestral and sampler=ddim"):
        assert name in note


def test_the_bound_under_two_guidances():
    (note,) = notes("data.conditional=true guidance=none,classifier_free seed=0,1")
    for name in ("bound_bpd", "guidance=none and guidance=classifier_free"):
        assert name in note


@pytest.mark.parametrize(
    "line",
    [
        "sampler=ancestral variance=beta,beta_tilde",
        "sampler=ddim schedule=linear,cosine",
        "sampler=ddim loss=vlb variance=beta,learned_range",
        "seed=0,1",
        "sweep=variance",
        "sweep=ddpm_table2",
        "sweep=schedule_loss",
    ],
)
def test_where_every_number_may_differ_nothing_is_noted(line):
    assert notes(line) == []


def test_the_same_run_typed_twice():
    (note,) = notes("seed=1,1")
    assert "seed=1" in note
