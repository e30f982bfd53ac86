"""One thread per process: tests run side by side, and sums are the same on every machine. And what several files share."""

import fcntl
import gc
import hashlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hydra._internal import defaults_list

torch.set_num_threads(1)
_choices = getattr(defaults_list, "_create_interpolation_map", None)  # gone in Hydra 1.4


def _choices_if_asked_for(overrides: Any, defaults: list, self_added: bool) -> Any:
    """What Hydra makes for each file of a composition, a quarter of its time, and looks at where a defaults list has ${...}."""
    return _choices(overrides, defaults, self_added) if any(entry.is_interpolation() for entry in defaults) else None


if _choices:
    defaults_list._create_interpolation_map = _choices_if_asked_for


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: one worker trains the default run, or a fifth of it, beside all other tests."""
    items.sort(key=lambda item: item.path.stem != "test_quality")


def pytest_collection_finish() -> None:
    """What is imported stays: no collection of garbage looks through it again."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory) -> Path:
    """Random weights for torch-fidelity's Inception network, as a file; scaled so that features keep their size."""
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    network, path = inception.FeatureExtractorInceptionV3, tmp_path_factory.mktemp("inception") / "random.pth"
    download, load = patch.object(inception, "load_state_dict_from_url"), patch.object(network, "load_state_dict")
    with torch.random.fork_rng(devices=[]), download, load:
        torch.manual_seed(0)
        net = network("inception-v3-compat", ["2048"])
        for p in net.parameters():
            if p.ndim > 1:
                torch.nn.init.kaiming_normal_(p)
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[..., str]:
    """once(kind, overrides, make) is the text that `make` gives. It is made by one worker, and the others read it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(kind: str, overrides: tuple[str, ...], make: Callable[[], str]) -> str:
        place = shared / f"{kind}_{hashlib.sha256(repr(overrides).encode()).hexdigest()}"
        with place.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            if not (text := file.read()):
                file.write(text := make())
        return text

    return made


@pytest.fixture(scope="session")
def results(tmp_path_factory, once):
    """Digest of everything a run gave, by its overrides; each set of overrides is trained once. Few data are held out."""
    from helpers import FEW_HELD_OUT, digest, trained

    def result(*overrides: str) -> str:
        return digest(trained(tmp_path_factory.mktemp("run"), *FEW_HELD_OUT, *overrides))

    return lambda *overrides: once("result", overrides, partial(result, *overrides))


@pytest.fixture(scope="session")
def run_of(tmp_path_factory, once):
    """The folder of a run by its overrides; each is trained once. Tests that change it take a copy."""
    from helpers import trained

    def run(*overrides: str) -> str:
        return str(trained(tmp_path_factory.mktemp("trained") / "run", *overrides))

    return lambda *overrides: Path(once("run", overrides, partial(run, *overrides)))
