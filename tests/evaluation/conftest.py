"""A tiny run of digits, a cache of one's own, and plots that are not drawn where no test looks at them."""

from unittest.mock import patch

import pytest
from matplotlib.figure import Figure
from PIL import Image

from .support import DIGITS, copied


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module", autouse=True)
def _no_drawing(request):
    """Half of the time of a tiny evaluation. A module that looks at plots sets DRAWN."""
    if getattr(request.module, "DRAWN", False):
        yield
        return
    with patch.object(Figure, "savefig", lambda figure, path, **_: Image.new("L", (1, 1)).save(path)):
        yield


@pytest.fixture
def run(run_of, tmp_path):
    """A run of digits with nothing measured."""
    return copied(run_of(*DIGITS), tmp_path / "run")
