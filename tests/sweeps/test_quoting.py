"""What is put on a command line is read back by Hydra's own parser as the same text."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from ddpm_lab.sweeps.quoting import argument


def read(word: str) -> object:
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1e3",
        "true",
        "NULL",
        "nan",
        "a b",
        "a,[b",
        "a=b",
        "it's",
        '"',
        "\\",
        "\\'",
        "a\\\\'b\\",
        "é",
        "${x}",
        "",
        "2026-01-02_3",
    ],
)
def test_hard_texts(text):
    assert read(argument("key", text)) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12))
def test_any_text(text):
    assert read(argument("key", text)) == text


@given(st.text("aT1_/.+@%-eE0'\\ ", max_size=10))
def test_text_of_letters_that_matter(text):
    assert read(argument("key", text)) == text


def test_what_needs_no_quotes_has_none():
    assert argument("run.root", "outputs/multirun") == "run.root=outputs/multirun"
