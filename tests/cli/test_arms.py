"""Which runs a command line means."""

import pytest

from ddpm_lab.config.options import conf_dir, options
from ddpm_lab.config.preflight import preflight


def test_one_run():
    (arm,) = preflight(["schedule=cosine", "schedule.T=177", "++seed=3"])
    assert arm.overrides == ["schedule=cosine", "schedule.T=177", "++seed=3"]
    assert (arm.config.schedule.T, arm.config.seed, arm.choices["schedule"]) == (177, 3, "cosine")
    assert "hydra" not in arm.config


@pytest.mark.parametrize(("loss", "variance"), [("simple", "Beta"), ("vlb", "Beta"), ("hybrid", "LearnedRange")])
def test_auto_is_resolved(loss, variance):
    (arm,) = preflight([f"loss={loss}"])
    assert arm.config.variance._target_.endswith(f".{variance}")
    assert arm.choices["variance"] == "auto"


def test_a_sweep_unfolds_as_in_hydra():
    arms = preflight(["-m", "schedule=glob(*ine*)", "seed=range(1,3)", "loss=choice(vlb)"])
    assert [arm.overrides for arm in arms] == [
        [f"schedule={schedule}", f"seed={seed}", "loss=vlb"] for schedule in ("cosine", "linear") for seed in (1, 2)
    ]
    assert [(arm.choices["schedule"], arm.config.seed) for arm in arms[:3]] == [("cosine", 1), ("cosine", 2), ("linear", 1)]
    assert arms[0].config is not arms[1].config


def test_a_ready_sweep_is_its_lines_and_what_is_typed_wins():
    arms = preflight(["-m", "sweep=ddpm_table2"])
    told = [" ".join(arm.overrides) for arm in arms]
    assert len(set(told)) == len(arms) == 6
    assert told[0] == "sampler=ancestral sampler.steps=null prediction=mu loss=vlb variance=learned_diagonal"
    (eps, mu) = preflight(["-m", "sweep=ddpm_table2", "loss=simple", "variance=beta", "prediction=eps,mu", "seed=3"])
    assert (eps.config.seed, mu.overrides) == (
        3,
        [*told[0].split()[:2], "loss=simple", "variance=beta", "prediction=mu", "seed=3"],
    )
    assert len(preflight(["-m", "experiment=digits_sweep"])) == 8
    assert len(preflight(["-m", "experiment=digits_sweep", "sweep=none", "seed=1,2"])) == 2
    one = preflight(["-m", "sweep.arms=['loss=simple variance=beta,beta_tilde','loss=hybrid']"])
    assert [" ".join(arm.overrides) for arm in one] == [
        "loss=simple variance=beta",
        "loss=simple variance=beta_tilde",
        "loss=hybrid",
    ]


@pytest.mark.parametrize("sweep", [name for name in options("sweep", [conf_dir()]) if name not in ("none", "search")])
@pytest.mark.parametrize("size", ["digits", "ddpm_cifar10", "iddpm_cifar10"])
def test_every_ready_sweep_works_on_digits_and_at_the_size_of_cifar10(sweep, size):
    assert len(preflight(["-m", f"sweep={sweep}", f"experiment={size}"])) > 1


def test_without_an_experiment():
    (arm,) = preflight(["~experiment"])
    assert arm.choices["experiment"] is None
    assert arm.choices["ema"] == "constant"  # experiment=digits chooses ramp


@pytest.mark.parametrize(
    "argv", [["--help"], ["--hydra-help"], ["--version"], ["-sc", "install=bash"], ["--cfg", "job"], ["--info"]]
)
def test_where_hydra_only_shows_something_there_is_no_run(argv):
    assert preflight(argv) == []
