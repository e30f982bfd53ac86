"""Facts are read from source, through bases and imports, and nothing is imported."""

import sys

import pytest

from ddpm_lab.config.facts import fact

BODY = """
from .deep.base import Base as Root
from pkg_facts.deep import Other
import torch_that_is_not_there

class Plain:
    n_outputs = 2
    name: str = "plain"
    declared: int
    many = left = [1, 2]
    computed = 1 + len("a")

class Child(Plain):
    name = "child"

class Far(Root): ...
class Circle(Circle): ...
class Dotted(torch_that_is_not_there.Loss):
    x = 1
def function(): ...
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    deep = tmp_path / "pkg_facts" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / "pkg_facts" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "pkg_facts" / "mod.py").write_text(BODY)
    (deep / "__init__.py").write_text("from .base import Base\nfrom ..mod import Child as Other\nraise RuntimeError")
    (deep / "base.py").write_text("class Base:\n    trains = False\n")
    (tmp_path / "pkg_facts" / "broken.py").write_text("class Plain(:\n")
    (tmp_path / "single_facts.py").write_text("class A:\n    x = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert not {"pkg_facts", "pkg_facts.mod", "single_facts"} & set(sys.modules)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        ("pkg_facts.mod.Plain", "n_outputs", 2),
        ("pkg_facts.mod.Plain", "name", "plain"),
        ("pkg_facts.mod.Plain", "many", [1, 2]),
        ("pkg_facts.mod.Child", "name", "child"),
        ("pkg_facts.mod.Child", "n_outputs", 2),
        ("pkg_facts.mod.Far", "trains", False),
        ("pkg_facts.deep.Base", "trains", False),  # re-exported by __init__
        ("pkg_facts.deep.Other", "name", "child"),
        ("pkg_facts.mod.Dotted", "x", 1),
        ("single_facts.A", "x", 3),
    ],
)
def test_facts_that_are_there(target, name, value):
    assert fact(target, name) == value


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("pkg_facts.mod.Plain", "declared"),
        ("pkg_facts.mod.Plain", "computed"),
        ("pkg_facts.mod.Circle", "x"),
        ("pkg_facts.mod.function", "x"),
        ("pkg_facts.mod.Nothing", "x"),
        ("pkg_facts.broken.Plain", "x"),
        ("pkg_facts.none.Plain", "x"),
        ("single_facts.deeper.A", "x"),
        ("no_such_package.A", "x"),
        ("auto", "x"),
        ("", "x"),
        ("..", "x"),
        ("sys.A", "x"),
    ],
)
def test_facts_that_are_not_there(target, name):
    assert fact(target, name) is None
    assert fact(target, name, "default") == "default"
