"""`compare.py FOLDER plan`: command lines that train what was compared under further seeds, and nothing else."""

import json
import shlex
import shutil

import pytest

from compare.synthetic import write_run
from compare.test_command import command
from ddpm_lab.compare.run_folder import read_run
from ddpm_lab.config.nested import plain
from ddpm_lab.config.preflight import preflight

CHOSEN = ["loss=hybrid", "net.multipliers=[1,2,2]", "optim.lr=3e-4", "data.flip=true", "trainer.max_steps=600"]
OWN = ("run", "sweep", "launcher", "logger", "base", "seed")


def without_own(config) -> dict:
    return {key: value for key, value in config.items() if key not in OWN}


def arms(*words: str) -> list[dict]:
    return [plain(arm.config) for arm in preflight(words)]


@pytest.fixture
def trained(tmp_path):
    """linear of seeds 1 to 3, cosine of 1 and 2, by the options of the project; open on bits/dim."""
    for schedule, seeds in (("linear", "1,2,3"), ("cosine", "1,2")):
        for config in arms("-m", *CHOSEN, f"schedule={schedule}", f"seed={seeds}"):
            config = {key: value for key, value in config.items() if key not in ("sweep", "launcher", "base")}
            config["run"]["experiment"] = "digits"
            bpd = 3 + config["seed"] / 10 + (schedule == "cosine") * (-1) ** config["seed"] / 50
            write_run(tmp_path / f"{schedule}{config['seed']}", config, bpd)
    return tmp_path


def lines(out: str) -> list[list[str]]:
    return [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("in_sweep", [False, True])
def test_the_lines_train_exactly_these_configurations(trained, in_sweep):
    if in_sweep:  # named as a sweep names them, with the words that it was given
        entries = []
        for number, place in enumerate(sorted(trained.iterdir())):
            words = [*CHOSEN, f"schedule={place.name[:-1]}", f"seed={place.name[-1]}"]
            entries.append({"number": number, "overrides": words})
            place.rename(trained / str(number))
        (trained / "sweep.json").write_text(json.dumps({"arms": entries}))
    before = {path.name for path in trained.iterdir()}
    code, out, err = command(trained, "plan", "resolve=0.1")
    assert (code, err) == (0, "")
    assert before == {path.name for path in trained.iterdir()}
    configs = [read_run(path).config for path in trained.iterdir() if path.is_dir()]
    seeds = {}
    for _, program, *words in lines(out):
        assert (program, words[0]) == ("train.py", "-m")
        for planned in arms(*words):
            assert without_own(planned) in [without_own(config) for config in configs]
            seeds.setdefault(planned["schedule"]["_target_"].rpartition(".")[2], []).append(planned["seed"])
    assert seeds["cosine"] == [3, *seeds["linear"]]  # the seed that linear has is paired first
    assert seeds["linear"] == list(range(4, 4 + len(seeds["linear"])))
    if in_sweep:
        assert "optim.lr=3e-4" in out
    hours = len(seeds["cosine"] + seeds["linear"]) * 12.5 / 3600
    assert f"about {hours:.2g} h of training" in out


def test_what_no_command_line_makes_is_said_and_not_planned(trained):
    for path in trained.glob("linear*"):
        config = path / "config.yaml"
        config.write_text(config.read_text().replace("lr: 0.0003", "lr: 0.0003\n  of_old: 1"))
    code, out, _ = command(trained, "plan", "resolve=0.1")
    assert code == 0
    assert "cannot be repeated by a command line" in out
    assert len(lines(out)) == 1


def test_choices_that_share_one_seed_are_planned_the_others(trained):
    """Of open comparisons alone; a line that trains nothing is no sum of hours."""
    for path in (trained / "linear1", trained / "cosine2"):
        shutil.rmtree(path)
    for config in arms("-m", *CHOSEN, "schedule=cosine", "seed=3"):
        config = {key: value for key, value in config.items() if key not in ("sweep", "launcher", "base")}
        config["run"]["experiment"] = "digits"
        write_run(trained / "cosine3", config, 3.31)
    out = command(trained, "plan")[1]
    assert {(words[-1], "schedule=linear" in words) for words in lines(out)} == {("seed=2", False), ("seed=1", True)}
    assert "1 more seed," in out


def test_what_is_left_out_has_no_hours(trained):
    out = command(trained, "plan", "resolve=1e-300")[1]
    assert "left out" in out
    assert lines(out) == []
    assert " h " not in out


def test_nothing_is_planned_where_nothing_is_open(trained):
    out = command(trained, "plan", "resolve=fd:100")[1]
    assert "nothing to train" in out


@pytest.mark.parametrize(
    "asked",
    [["looks=all"], ["power=1"], ["power=0.4"], ["looks=any", "resolve=0.1"], ["looks=any", "plan"], ["resolve=0.1,0.2"]],
)
def test_a_mistake_is_one_line_that_names_the_key(tmp_path, asked):
    code, _, err = command(tmp_path, *asked)
    assert code == 2
    assert asked[0] in err
    assert err.count("\n") == 1
