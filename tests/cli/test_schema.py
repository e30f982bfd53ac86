"""The comments of conf/ are the rules; what they allow is what mathematics says."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ddpm_lab.config.catalogue import Catalog
from ddpm_lab.config.options import conf_dir, is_global
from ddpm_lab.config.schema import MISSING, interval, parse_rule, parse_rules
from ddpm_lab.errors import UserError

CATALOG = Catalog([conf_dir()])
EVALUATE = Catalog([conf_dir() / "evaluate", conf_dir()])
OWN_FILES = sorted(conf_dir().rglob("*.yaml"), key=str)
RULED_FILES = [path for path in OWN_FILES if not is_global(path)]


def at(node, key):
    for part in key.split("."):
        node = node[part]
    return node


@pytest.mark.parametrize("path", RULED_FILES, ids=lambda path: path.stem)
def test_every_key_of_conf_has_a_rule_that_its_default_satisfies(path):
    values = OmegaConf.to_container(OmegaConf.load(path))
    group = path.parent.name
    for key, rule in parse_rules(path.read_text(encoding="utf-8")).items():
        if key.startswith("hydra."):
            continue
        # a value that is written anew without a comment keeps the rule it had
        catalog = EVALUATE if "evaluate" in path.parts else CATALOG
        rule = rule if path.stem == "config" else catalog.rules(group, path.stem)[f"{group}.{key}"]
        assert rule.allowed != "anything", f"{key}: no readable rule"
        assert rule.meaning, key
        if at(values, key) != MISSING:
            rule.check(key, at(values, key))


@pytest.mark.parametrize("path", OWN_FILES, ids=lambda path: path.stem)
def test_defaults_are_shown_as_written(path):
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, rule in parse_rules(path.read_text(encoding="utf-8")).items():
        assert yaml.safe_load(rule.default) == at(values, key), key


@pytest.mark.parametrize(
    ("comment", "good", "bad"),
    [
        ("# int >= 1: n", [1, 10**400], [0, 1.0, True, "1", None, math.inf]),
        ("# int in [2, 256]: n", [2, 256], [1, 257]),
        ("# even int >= 28: n", [28, 30], [29, 26, 28.0, True]),
        ("# float > 0: x", [1, 0.5, 1e-300], [0, -1, math.inf, math.nan, "1", False, None]),
        ("# float in (0, 1): x", [0.5], [0, 1]),
        ("# float in [0, 1): x", [0, 0.5], [1]),
        ("# float in (0, 1]: x", [1], [0]),
        ("# float > -2.5: x", [-2], [-2.5]),
        ("# float > 0 or null: x", [None, 1], [0]),
        ("# bool: b", [True, False], [0, 1, "true", None]),
        ("# bool or null: b", [True, None], [0]),
        ("# str: s", ["a"], ["", 3, None, ["a"]]),
        ("# str or null: s", ["a", None], [True]),
        ("# one of a, b-c, 32-true: s", ["a", "b-c", "32-true"], ["c", None, 32]),
        ("# list of int >= 1: l", [[1, 2]], [[], [0], [1.5], 1, None, "1", [None]]),
        ("# list of int >= 1 or empty: l", [[1, 2], []], [[0]]),
        ("# list of str or empty: l", [["a", "b"], []], [[""], [1], "a", None]),
        ("# list of float in [0, 1): l", [[0.9, 0]], [[1.0], [True]]),
        ("# file: f", [__file__], ["/nowhere", "/", 3, None, "a\0b", "x" * 9999]),
        ("# int: anything", [-5], [0.5]),
    ],
)
def test_rules(comment, good, bad):
    rule = parse_rule(comment)
    assert [value for value in good if not rule.accepts(value)] == []
    assert [value for value in bad if rule.accepts(value)] == []


@pytest.mark.parametrize(
    "comment", ["", "# speed", "# floot > 0: x", "# int > one: x", "# int in [1, 2: x", "# int or empty: x"]
)
def test_what_is_no_rule_is_not_taken_for_one(comment):
    with pytest.raises(ValueError):
        parse_rule(comment)


limits = st.integers(-5, 5) | st.floats(-5, 5).map(lambda x: round(x, 3))


@given(low=limits, high=limits, left=st.sampled_from("[("), right=st.sampled_from("])"), x=limits)
def test_an_interval_contains_what_its_text_says(low, high, left, right, x):
    below = low < x if left == "(" else low <= x
    above = x < high if right == ")" else x <= high
    assert (x in interval(f"in {left}{low}, {high}{right}")) == (below and above)
    assert (x in interval(f"> {low}")) == (x > low)
    assert (x in interval(f">= {low}")) == (x >= low)


def test_keys_are_found_where_yaml_puts_them():
    text = """\
# about
_target_: x.Y
defaults: [a]
a:
    b: 'x # y'     # str: with a hash
    "c": [1,
          2]       # list of int: over two lines
    d:             # list of int: a block
      - 1
      - 2
    e:             # str or null: empty
f: {g: 1}          # not a leaf itself
h: 0.00000001      # float > 0: as written
i: 3
"""
    rules = parse_rules(text)
    assert {key: rule.meaning for key, rule in rules.items()} == {
        "a.b": "with a hash",
        "a.c": "over two lines",
        "a.d": "a block",
        "a.e": "empty",
        "f.g": "}          # not a leaf itself",
        "h": "as written",
        "i": "",
    }
    assert rules["h"].default == "0.00000001"
    assert rules["i"].accepts(object())  # a user's own key without a rule is not checked


@pytest.mark.parametrize(
    ("comment", "value", "hint"),
    [
        ("# int >= 1: n", 1000.0, "write k=1000"),
        ("# one of leading, trailing: s", "traling", "did you mean k=trailing?"),
        ("# list of int >= 1: l", 2, "a list is written k=[2]"),
        ("# str: s", 3, "in quotes it is text: k=\"'3'\""),
        ("# file: f", "/nowhere", "there is no such file"),
    ],
)
def test_a_refusal_says_what_to_type(comment, value, hint):
    with pytest.raises(UserError) as refusal:
        parse_rule(comment).check("k", value)
    assert str(refusal.value).endswith(hint)


def test_a_refusal_shows_the_value_as_typed():
    rule = parse_rule("# bool: b")
    with pytest.raises(UserError, match=r"^k=null: allowed is bool \(b\)$"):
        rule.check("k", None)
    with pytest.raises(UserError, match=r"^k=\[true, 1\.5\]: allowed is bool"):
        rule.check("k", [True, 1.5])
    with pytest.raises(UserError, match=r"^k=1e3: allowed is bool"):
        rule.check("k", 1000.0, typed="1e3")
