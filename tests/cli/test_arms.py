"""Which runs a command line means."""

import argparse

import pytest

from ddpm_lab.config.flags import hydra_flags
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


def test_without_an_experiment():
    (arm,) = preflight(["~experiment"])
    assert arm.choices["experiment"] is None
    assert arm.choices["ema"] == "constant"  # experiment=digits chooses ramp


@pytest.mark.parametrize(
    "argv", [["--help"], ["--hydra-help"], ["--version"], ["-sc", "install=bash"], ["--cfg", "job"], ["--info"]]
)
def test_where_hydra_only_shows_something_there_is_no_run(argv):
    assert preflight(argv) == []


def test_the_flags_are_those_of_hydra():
    """As the installed version has them, in a module that is not public."""
    hydra = pytest.importorskip("hydra._internal.utils")

    def flags(parser: argparse.ArgumentParser) -> dict[tuple[str, ...], tuple]:
        actions = {tuple(action.option_strings): action for action in parser._actions}
        return {names: (type(a), a.dest, a.nargs, a.const, a.default) for names, a in actions.items()}

    theirs = flags(hydra.get_args_parser())
    del theirs["--version",]
    assert flags(hydra_flags()) == theirs
