"""A protocol sets values of whichever options are chosen, and refuses where one has no such key."""

import pytest

from ddpm_lab.config.evaluated import apply_settings
from ddpm_lab.config.options import conf_dir
from ddpm_lab.errors import UserError

DIRS = [conf_dir() / "evaluate", conf_dir()]
LINES = [
    "sampler.spacing=linspace",
    "variance=analytic variance.clip_cov=true",
    "sampler=ddim sampler.max_last_noise=2",
    "sampler=ddim schedule=cosine sampler.max_last_noise=1",
]


def applied(sampler: str, variance: str, schedule: str, typed: set[str] = frozenset()) -> dict:
    config = {"sampler": {"spacing": "trailing", "max_last_noise": None}, "variance": {"_target_": "x"}}
    if variance == "analytic":
        config["variance"] |= {"clip_cov": False}
    apply_settings(config, LINES, {"sampler": sampler, "variance": variance, "schedule": schedule}, typed, DIRS)
    return config


@pytest.mark.parametrize(("schedule", "noise"), [("linear", 2), ("cosine", 1)])
def test_lines_apply_where_their_options_are_chosen(schedule, noise):
    config = applied("ddim", "analytic", schedule)
    assert config == {
        "sampler": {"spacing": "linspace", "max_last_noise": noise},
        "variance": {"_target_": "x", "clip_cov": True},
    }
    other = applied("ancestral", "beta", schedule)
    assert other == {"sampler": {"spacing": "linspace", "max_last_noise": None}, "variance": {"_target_": "x"}}


def test_typed_values_win():
    config = applied("ddim", "analytic", "cosine", {"sampler.spacing", "sampler.max_last_noise"})
    assert config["sampler"] == {"spacing": "trailing", "max_last_noise": None}
    assert config["variance"] == {"_target_": "x", "clip_cov": True}


@pytest.mark.parametrize("sampler", [{"steps": 3}, None])
def test_an_option_without_the_key_is_refused(sampler):
    with pytest.raises(UserError) as caught:
        apply_settings({"sampler": sampler}, LINES[:1], {"sampler": "mine"}, set(), DIRS)
    assert all(named in str(caught.value) for named in ("sampler.spacing=linspace", "sampler=mine"))


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("variance=nope variance.x=1", ("variance=nope", "analytic")),
        ("nogroup=linear sampler.spacing=linspace", ("nogroup=linear",)),
        ("schedule=cosine", ("schedule=cosine", "sets nothing")),
        ("foo.bar=1", ("foo.bar=1", "group foo")),
    ],
)
def test_a_line_that_can_set_nothing_is_refused(line, names):
    with pytest.raises(UserError) as caught:
        apply_settings({"sampler": {"spacing": "trailing"}}, [line], {"sampler": "ddim"}, set(), DIRS)
    assert all(name in str(caught.value) for name in names)


def test_a_key_that_the_configuration_of_an_older_run_lacks_is_set():
    config = {"sampler": {"_target_": "ddpm_lab.core.sampler.DDIM", "spacing": "trailing"}}
    apply_settings(config, LINES, {"sampler": "ddim", "variance": "beta", "schedule": "linear"}, set(), DIRS)
    assert config["sampler"]["max_last_noise"] == 2
