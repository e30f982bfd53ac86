"""--help is made from conf/ and fits a narrow terminal."""

import re

import pytest

from ddpm_lab.config.flags import config_dirs
from ddpm_lab.config.help import WIDTH, help_for_group, help_text
from ddpm_lab.config.options import conf_dir, description, groups, options
from ddpm_lab.errors import UserError

DIRS = [conf_dir()]


@pytest.mark.parametrize("text", [help_text(DIRS), *(help_for_group(group, DIRS) for group in groups(DIRS))])
def test_it_fits(text):
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


def test_every_option_is_there_with_its_description_and_defaults_are_marked():
    flat = " ".join(help_text(DIRS).split())
    for group, default in groups(DIRS).items():
        assert f" {group}= " in flat
        for name, path in options(group, DIRS).items():
            assert description(path), f"{path} has no description"
            assert f"{'* ' if name == default else ''}{name} {' '.join(description(path).split())}" in flat


def test_the_keys_outside_the_groups_are_there():
    text = help_text(DIRS)
    assert all(f"  {key}=" in text for key in ("seed", "resume", "run.name", "run.root"))
    assert "hydra." not in text


def test_a_group_shows_values_rules_and_meanings():
    flat = " ".join(help_for_group("sampler", DIRS).split())
    assert "sampler.eta=0.0 float in [0, 1]: how much fresh noise each step adds" in flat
    assert "* ancestral draw from" in flat


def test_an_experiment_shows_what_it_changes():
    text = help_for_group("experiment", DIRS)
    assert "      ema=ramp\n" in text
    assert "      trainer.max_steps=20\n" in text


def test_an_unknown_group():
    with pytest.raises(UserError, match=r"^--help samplr: no such group\. Did you mean --help sampler\? Groups: data, "):
        help_for_group("samplr", DIRS)


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "schedule" / "mine").mkdir(parents=True)
    (tmp_path / "schedule" / "mine" / "steep.yaml").write_text("# steeper\n_target_: x.y\nT: 5  # int >= 1: steps\n")
    dirs = config_dirs([f"--config-dir={tmp_path}"])
    assert re.search(r"^    mine/steep +steeper$", help_text(dirs), re.MULTILINE)
    assert "schedule.T=5" in help_for_group("schedule", dirs)
    assert config_dirs(["-cd", str(tmp_path), "seed=1"]) == dirs
    for argv in (["--config-dir"], ["--config-dir=/nowhere"]):
        with pytest.raises(UserError, match="--config-dir"):
            config_dirs(argv)
