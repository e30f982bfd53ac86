"""The same code evaluates another model than diffusion: one of code and yaml files outside the package."""

from pathlib import Path

import numpy as np
import pytest
from helpers import trained
from tiny_model import TARGETS

import ddpm_lab
from ddpm_lab.core.grey import scale, to_levels
from ddpm_lab.data.digits import Digits
from ddpm_lab.metrics.frechet import frechet_distance, stats_of
from ddpm_lab.metrics.record import FIELDS

from .support import copied, evaluate, kept, refusal

CONF = Path(__file__).parents[1] / "tiny_model" / "conf"
RUN = ["experiment=none", "model=categorical", "optim=torch_adamw", "trainer.max_steps=20", "trainer.validate_every=20"]
RUN += ["data.batch_size=64", "callbacks.samples.n=4", "callbacks.frechet.n=20"]


@pytest.fixture(autouse=True)
def _admitted(monkeypatch):
    monkeypatch.setenv("DDPM_LAB_TARGETS", TARGETS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_LAB_TARGETS", TARGETS)
        return trained(tmp_path_factory.mktemp("tiny") / "run", *RUN, config_dir=CONF)


@pytest.fixture
def tiny(folder, tmp_path) -> Path:
    return copied(folder, tmp_path / "run")


def test_its_likelihood_and_samples_are_those_of_the_run_in_python(tiny):
    told, run = evaluate(tiny, "nll.n=null", "quality.n=30"), ddpm_lab.load(tiny)
    data = np.load(told.folder / told.arms[0]["per_datum"]["bound"])
    assert told.value("bound") == pytest.approx(data["per_datum_bpd"].mean())
    assert (told.record("bound")["n"], told.record("bound")["steps"], told.record("bound")["variance"]) == (360, 1, None)
    samples = scale(to_levels(run.sample(30), 17), 17).flatten(1)
    digits = Digits()
    digits.setup()
    real = stats_of([digits.scaled("train").flatten(1)])
    assert told.value("pixels_fd") == pytest.approx(frechet_distance(stats_of([samples]), real), rel=1e-6)
    assert told.record("pixels_fd")["sampler"] == "inverse_cdf"
    for result in told.results().values():
        assert set(FIELDS) <= result["record"].keys()


def test_pieces_are_kept_and_seeds_of_a_sweep_stand_side_by_side(tiny):
    told = evaluate(tiny, "-m", "seed=0,1")
    assert [arm["setting"] for arm in told.arms] == ["seed=0", "seed=1"]
    assert told.value("bound", 0) == told.value("bound", 1)  # nothing of it is random
    assert told.value("pixels_fd", 0) != told.value("pixels_fd", 1)
    assert (len(kept(tiny, "bound")), len(kept(tiny, "samples"))) == (2, 2)
    table = (told.folder / "table.md").read_text()
    assert [table.count(f"seed={seed}") for seed in (0, 1)] == [3, 3]
    assert "spacing" not in table
    assert "variance" not in table
    assert "exact likelihood" in table


@pytest.mark.parametrize("typed", ["variance=beta", "sampler=ddim", "nll.terms=3", "nll.ode_n=4"])
def test_what_it_does_not_have_is_refused(typed, tiny, capsys):
    said = refusal(capsys, f"ckpt={tiny}", typed)
    assert typed in said
    assert not (tiny / "eval").exists()
