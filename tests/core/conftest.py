"""Every test of this folder is marked `core`."""

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before tests are chosen by marks."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("core")
