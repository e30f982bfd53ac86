"""One thread per process: tests run side by side, and sums are the same on every machine. And what several files share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path
from unittest.mock import patch

import pytest
import torch

torch.set_num_threads(1)


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
def results(tmp_path_factory):
    """Digest of everything a run gave, by its overrides; each set of overrides is trained once. Few data are
    held out, and both plots are one pixel: else they take half of such a run's time."""
    from helpers import FEW_HELD_OUT, digest, one_pixel, trained

    known: dict[tuple[str, ...], str] = {}

    def result(*overrides: str) -> str:
        if overrides not in known:
            with patch("ddpm_lab.training.callbacks.samples.save_progression", one_pixel):
                known[overrides] = digest(trained(tmp_path_factory.mktemp("run"), *FEW_HELD_OUT, *overrides))
        return known[overrides]

    return result


@pytest.fixture(scope="session")
def run_of(tmp_path_factory):
    """The folder of a run by its overrides; each is trained once."""
    from helpers import trained

    known: dict[tuple[str, ...], Path] = {}

    def run(*overrides: str) -> Path:
        if overrides not in known:
            known[overrides] = trained(tmp_path_factory.mktemp("trained") / "run", *overrides)
        return known[overrides]

    return run
