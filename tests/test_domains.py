"""Domains of arguments: what they accept, how they are described, and that every option's signature checks them."""

import importlib
import inspect
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from annotated_types import Ge, Le, MinLen, MultipleOf
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ddpm_lab import domains
from ddpm_lab.domains import accepts, allowed, check, checked, domains_of, shown

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ["schedule", "prediction", "variance", "loss", "timesteps", "sampler", "net", "data", "evaluate/variance"]

FLOATS = {
    "PositiveFloat": lambda x: x > 0,
    "NonNegativeFloat": lambda x: x >= 0,
    "OpenUnit": lambda x: 0 < x < 1,
    "ClosedUnit": lambda x: 0 <= x <= 1,
    "HalfOpenUnit": lambda x: 0 <= x < 1,
}
INTS = {"PositiveInt": lambda n: n >= 1, "NonNegativeInt": lambda n: n >= 0}
NUMBERS = st.one_of(st.floats(), st.integers(-3, 3), st.sampled_from([0.0, -0.0, 1.0, math.nextafter(1, 0), 5e-324]))


@pytest.mark.parametrize("name", FLOATS)
@given(value=NUMBERS)
def test_floats_are_finite_and_within_their_bounds(name, value):
    assert accepts(getattr(domains, name), value) == (math.isfinite(value) and FLOATS[name](value))


@given(value=NUMBERS)
def test_a_plain_float_is_finite(value):
    assert accepts(float, value) == math.isfinite(value)


@pytest.mark.parametrize("name", INTS)
@given(value=NUMBERS)
def test_integers_are_within_their_bounds_and_floats_are_none(name, value):
    assert accepts(getattr(domains, name), value) == (isinstance(value, int) and INTS[name](value))


WORDS = st.one_of(st.text(max_size=3), st.none(), st.booleans(), st.binary(max_size=2), st.lists(st.integers(), max_size=2))


@pytest.mark.parametrize("name", [*FLOATS, *INTS])
@given(value=WORDS)
def test_what_is_no_number_is_refused(name, value):
    assert not accepts(getattr(domains, name), value)
    assert accepts(getattr(domains, name) | None, value) == (value is None)


@given(value=st.one_of(WORDS, NUMBERS))
def test_bools_and_texts_are_themselves_alone(value):
    assert accepts(bool, value) == isinstance(value, bool)
    assert accepts(str, value) == isinstance(value, str)
    assert accepts(domains.Text, value) == (isinstance(value, str) and value != "")
    assert accepts(Literal["a", "b"], value) == (isinstance(value, str) and value in ("a", "b"))
    assert accepts(Literal[1, 3], value) == (type(value) is int and value in (1, 3))


@given(values=st.lists(st.one_of(st.integers(-1, 2), st.booleans(), st.floats(0, 2), st.none()), max_size=3))
def test_lists_are_accepted_for_tuples_item_by_item(values):
    items = all(type(value) is int and value >= 1 for value in values)
    for sequence in (values, tuple(values)):
        assert accepts(tuple[domains.PositiveInt, ...], sequence) == items
        assert accepts(Annotated[tuple[domains.PositiveInt, ...], MinLen(1)], sequence) == (items and bool(values))
        assert accepts(tuple[int, int], sequence) == (len(values) == 2 and all(type(value) is int for value in values))


def test_files_are_there(tmp_path):
    (tmp_path / "here.npz").touch()
    assert accepts(domains.File, str(tmp_path / "here.npz"))
    assert not any(accepts(domains.File, value) for value in (str(tmp_path), str(tmp_path / "gone.npz"), "", None, 3))


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        (domains.PositiveInt, "int >= 1"),
        (domains.NonNegativeFloat, "float >= 0"),
        (domains.PositiveFloat, "float > 0"),
        (domains.OpenUnit, "float in (0, 1)"),
        (domains.ClosedUnit, "float in [0, 1]"),
        (domains.HalfOpenUnit, "float in [0, 1)"),
        (Annotated[int, Ge(2), Le(256)], "int in [2, 256]"),
        (Annotated[int, Ge(28), MultipleOf(2)], "int >= 28, a multiple of 2"),
        (domains.PositiveInt | None, "int >= 1 or null"),
        (Literal["a", "b"], "one of a, b"),
        (tuple[domains.PositiveInt, ...], "list of int >= 1"),
        (tuple[float, float], "list of 2 float"),
        (Annotated[list[int], MinLen(1)], "list of int, not empty"),
        (domains.File, "file that exists"),
        (domains.Text | None, "str, not empty or null"),
        (bool, "bool"),
    ],
)
def test_domains_are_described(domain, words):
    assert allowed(domain) == words


@pytest.mark.parametrize(
    ("value", "typed"),
    [(None, "null"), (True, "true"), ((1, 2.5), "[1, 2.5]"), ([None, False], "[null, false]"), ("a b", "a b")],
)
def test_values_are_shown_as_they_are_typed(value, typed):
    assert shown(value) == typed


def test_an_error_names_argument_value_and_domain():
    with pytest.raises(ValueError) as error:
        check("steps", 0, domains.PositiveInt | None)
    assert all(part in str(error.value) for part in ("steps=0", "int >= 1", "null"))


@checked
class Example:
    def __init__(
        self, gamma: torch.Tensor, channels: domains.Given[int], steps: domains.PositiveInt = 5, *, eta: float = 0.5
    ) -> None:
        self.values = (gamma, channels, steps, eta)


@checked
class Derived(Example):
    """Inherits the signature."""


@pytest.mark.parametrize("cls", [Example, Derived])
def test_positional_and_named_arguments_are_checked_and_those_of_python_are_not(cls):
    gamma = torch.zeros(2)
    assert cls(gamma, "any", 3, eta=1.0).values == (gamma, "any", 3, 1.0)
    assert set(domains_of(cls)) == {"steps", "eta"}
    for arguments, named in (
        ((gamma, 1, 0), {}),
        ((gamma, 1), {"steps": 0}),
        ((), {"gamma": gamma, "channels": 1, "steps": 0}),
    ):
        with pytest.raises(ValueError, match="steps=0"):
            cls(*arguments, **named)
    with pytest.raises(TypeError):
        cls(gamma, 1, stepz=3)


# --- every option of conf/ that core, nets and data have -------------------------------------------------------------------


def options() -> list[tuple[str, Any, dict[str, Any]]]:
    """(group/name, callable, values of the yaml)."""
    found = []
    for path in (path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))):
        values: Any = OmegaConf.to_container(OmegaConf.load(path))
        module, _, name = values.pop("_target_").rpartition(".")
        if module:
            target = getattr(importlib.import_module(module), name)
            found.append((path.relative_to(CONF).with_suffix("").as_posix(), target, values))
    return found


OPTIONS = {name: (target, values) for name, target, values in options()}
KEYS = [(name, key) for name, (_, values) in OPTIONS.items() for key in values]
CALLABLES = list({target: None for target, _ in OPTIONS.values()})


@pytest.mark.parametrize("name", OPTIONS)
def test_a_yaml_has_the_keys_of_its_signature_and_legal_values(name):
    target, values = OPTIONS[name]
    signature = domains_of(target)
    assert set(values) == set(signature)
    for key, value in values.items():
        assert value == "???" or accepts(signature[key], value)


@pytest.mark.parametrize("target", CALLABLES, ids=lambda target: target.__name__)
def test_defaults_are_those_of_a_yaml(target):
    """Options that share a callable differ in their values; one of them has its defaults."""
    parameters = inspect.signature(target).parameters
    defaults = {key: parameters[key].default for key in domains_of(target)}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    yamls = [values for other, values in OPTIONS.values() if other is target]
    assert any(all(value in ("???", plain[key]) for key, value in values.items()) for values in yamls)
    assert all((default is inspect.Parameter.empty) == (yamls[0][key] == "???") for key, default in defaults.items())


@pytest.mark.parametrize(("name", "key"), KEYS)
@pytest.mark.parametrize("wrong", [{"a": 1}, math.nan, b"1"], ids=str)
def test_values_of_a_wrong_type_are_refused_by_the_callable_itself(name, key, wrong):
    target, values = OPTIONS[name]
    given = {other: __file__ if value == "???" else value for other, value in values.items()}
    offered = {
        p: None for p in inspect.signature(target).parameters if p not in domains_of(target) and p not in ("args", "kwargs")
    }
    with pytest.raises(ValueError, match=rf"^{key}=.*allowed"):
        target(**offered, **{key: wrong}, **{other: value for other, value in given.items() if other != key})


ENDS = [
    ("schedule/linear", "T", 1, 0),
    ("schedule/linear", "beta_start", 0.5, 0.0),
    ("schedule/linear", "beta_end", 0.5, 1.0),
    ("schedule/constant", "beta", 0.5, 1.0),
    ("schedule/zero_terminal_snr", "T", 2, 1),
    ("schedule/zero_terminal_snr", "base", "quadratic", "cosine"),
    ("schedule/cosine", "offset", 0.0, -1e-9),
    ("schedule/cosine", "max_beta", 0.5, 1.0),
    ("schedule/warmup10", "fraction", 1, 1.0001),
    ("schedule/sigmoid_beta", "width", 1, 0),
    ("schedule/sigmoid_alpha_bar", "tau", 0.1, 0.0),
    ("variance/interpolated", "fraction", 1.0, -0.1),
    ("loss/p2", "gamma", 0, -1),
    ("loss/p2", "k", 0.1, 0),
    ("loss/min_snr", "gamma", 0.1, 0),
    ("loss/truncated_snr", "floor", 0.1, 0.0),
    ("loss/vlb", "scale", 1, 0),
    ("loss/hybrid", "weight", 1, 0.0),
    ("timesteps/importance", "history", 1, 0),
    ("timesteps/importance", "floor", 0.5, 1.0),
    ("sampler/ancestral", "steps", None, 0),
    ("sampler/ddim", "steps", 1, 2.0),
    ("sampler/ddim", "eta", 1, 1.5),
    ("sampler/ddim", "spacing", "leading", "cubic"),
    ("sampler/ddim", "clip", None, 1),
    ("data/mnist", "pad", 28, 31),
    ("data/digits", "val_fraction", 0.5, 1.0),
    ("data/gaussian_mixture", "n_val", 2, 1),
    ("data/gaussian_mixture", "batch_size", 1, 0),
    ("data/celeba", "crop", "ddim128", "centre"),
    ("data/celeba", "validation", "test", "train"),
    ("data/fashion_mnist", "validation", "split", "val"),
    ("data/digits", "split_seed", 0, -1),
    ("data/image_folder", "channels", 1, 2),
    ("data/image_folder", "resize", "none", "nearest"),
    ("data/image_folder", "alpha", "white", "red"),
]


@pytest.mark.parametrize(("name", "key", "last", "beyond"), ENDS)
def test_ends_of_domains(name, key, last, beyond):
    target, values = OPTIONS[name]
    target(**values | {key: last})
    with pytest.raises(ValueError, match=rf"^{key}={shown(beyond)}: allowed is"):
        target(**values | {key: beyond})


NET_ENDS = [
    ("net/mlp", "width", 2, 1),
    ("net/mlp", "dropout", 0, 1.0),
    ("net/unet_small", "channels", 8, 1),
    ("net/unet_small", "multipliers", [1], []),
    ("net/unet_small", "multipliers", (1, 1), [1, 0]),
    ("net/unet_small", "attention", [], [0]),
    ("net/unet_small", "blocks", 1, 0),
    ("net/unet_small", "groups", 1, 0),
    ("net/unet_small", "heads", 2, 0),
    ("net/unet_small", "time_scale", 0.25, 0.0),
]


@pytest.mark.parametrize(("name", "key", "last", "beyond"), NET_ENDS)
def test_ends_of_the_domains_of_networks(name, key, last, beyond):
    target, values = OPTIONS[name]
    size = None if name == "net/mlp" else 8
    if key == "multipliers":
        values = values | {"attention": []}
    target(2, 2, size, **values | {key: last})
    with pytest.raises(ValueError, match=rf"^{key}=.*allowed is"):
        target(2, 2, size, **values | {key: beyond})
