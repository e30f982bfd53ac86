"""The Fréchet distance of a run is that of its own samples, quantised, to its own data; memory is flat, and work is kept."""

from collections.abc import Iterator

import pytest
import torch

from ddpm_lab.core.grey import quantise
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.metrics.extractors import Pixels
from ddpm_lab.metrics.frechet import FeatureStats, frechet_distance
from ddpm_lab.training.callbacks.frechet import FrechetCurve, FrechetDistance
from ddpm_lab.training.checkpoint import Checkpoints

from .support import Dots, T, fit, module, quiet, table

pytestmark = quiet


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))


def test_distance_of_the_training_data_is_zero_and_of_validation_data_the_floor(tmp_path, monkeypatch):
    model, data, frechet = module(), Dots(n_train=40, n_val=30), FrechetDistance(20, 3, extractor=Pixels())
    trainer = fit(tmp_path, model, [frechet], data=data, steps=1)
    train, asked = data.scaled("train"), []

    def samples(n: int, seed: int) -> Iterator[torch.Tensor]:
        asked.append((n, seed))
        return iter((train + 0.01).split(7))  # a grey level is 0.125: rounded away

    monkeypatch.setattr(model.model, "sample_batches", samples)
    distance, floor = frechet.final(trainer, model)
    assert abs(distance.value) < 1e-5
    assert asked == [(20, 3)]
    a, b = (FeatureStats(16).add(x.flatten(1)) for x in (train, data.scaled("val")[:20]))
    assert floor.value == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert (distance.record["n"], floor.record["n"], floor.record["n_reference"]) == (20, 20, 40)
    assert (distance.key, floor.key) == ("pixels_fd", "pixels_fd_real")


def test_distance_is_that_of_the_runs_own_samples(tmp_path):
    model, data, frechet = module(sampler=DDIM(4)), Dots(), FrechetDistance(24, 3, extractor=Pixels())
    trainer = fit(tmp_path, model, [frechet], data=data, steps=4, validate_every=1)
    a, b = (FeatureStats(16).add(x.flatten(1)) for x in (quantise(model.model.sample(24, seed=3), 17), data.scaled("train")))
    result = frechet.final(trainer, model)[0]
    assert result.value == pytest.approx(frechet_distance(a, b), rel=1e-6)
    expected = {"sampler": "ddim", "steps": 4, "spacing": "trailing", "eta": 0.0, "clip": True, "levels": 17, "seed": 3}
    assert expected.items() <= result.record.items()
    assert not (tmp_path / "metrics.csv").exists()


def test_curve_is_that_of_its_own_n_and_sampler(tmp_path):
    model, data = module(), Dots()
    curve = FrechetCurve(24, 2, 3, steps=3, eta=0.0, extractor=Pixels())
    trainer = fit(tmp_path, model, [curve, Checkpoints(10)], data=data, steps=4, validate_every=1)
    rows = [row for row in table(tmp_path) if "val/pixels_fd@24" in row]
    assert [row["step"] for row in rows] == [2, 4]  # every second validation
    samples = quantise(model.model.sampling(sampler=DDIM(3)).sample(24, seed=3), 17)
    a, b = (FeatureStats(16).add(x.flatten(1)) for x in (samples, data.scaled("train")))
    assert rows[-1]["val/pixels_fd@24"] == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert trainer.callback_metrics["val/pixels_fd@24"] == pytest.approx(frechet_distance(a, b), rel=1e-5)
    callbacks, last = [curve, Checkpoints(10)], tmp_path / "checkpoints" / "last.ckpt"
    fit(tmp_path, module(), callbacks, data=data, steps=7, validate_every=1, checkpoint=last)
    assert [row["step"] for row in table(tmp_path) if "val/pixels_fd@24" in row] == [6]  # a resumed run keeps the rhythm


def test_a_curve_that_is_never_measured_costs_nothing(tmp_path):
    fit(tmp_path, module(), [FrechetCurve(24, 0, extractor=Pixels())], steps=1, validate_every=1)
    assert not (tmp_path / "metrics.csv").exists()


def test_steps_of_a_curve_are_at_most_those_of_the_chain():
    model = module().model
    assert (model.sampling(steps=100).sample_steps, model.sampling(steps=3).sample_steps, model.sample_steps) == (T, 3, T)


def test_samples_that_are_not_finite_have_no_distance_and_the_run_is_measured_all_the_same(tmp_path, monkeypatch, caplog):
    model, data, frechet = module(), Dots(), FrechetDistance(24, 3, extractor=Pixels())
    trainer = fit(tmp_path, model, [], data=data, steps=1)
    broken = data.scaled("train")[:24].clone()
    broken[3, 0, 1, 2], broken[5, 0, 0, 0] = torch.nan, torch.inf
    monkeypatch.setattr(model.model, "sample_batches", lambda n, seed: iter(broken.split(7)))
    distance, floor = frechet.final(trainer, model)
    assert (distance.key, distance.known, distance.record["not_finite"]) == ("pixels_fd", None, 2)
    assert floor.known is not None
    assert "2 of 24 samples are not finite" in caplog.text
    FrechetCurve(24, 1, 3, extractor=Pixels()).on_validation_epoch_end(trainer, model)
    assert not (tmp_path / "metrics.csv").exists()


class Features:
    """An extractor as Inception is one: its statistics are kept. Remembers what it was given."""

    name, slow, batch = "features", True, 5

    def __init__(self, record: dict[str, str]) -> None:
        self.record, self.given = record, []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.given.append(len(x))
        return x.flatten(1)[:, :6].float() ** 2

    def key(self, n: int) -> str:
        return f"f@{n}"

    def label(self, n: int) -> str:
        return "features"


def test_samples_and_data_come_in_batches_and_the_distance_is_that_of_the_whole(tmp_path):
    model, data, extractor = module(), Dots(n_train=43, n_val=24), Features({})
    frechet = FrechetDistance(300, 3, extractor=extractor)
    trainer = fit(tmp_path, model, [frechet], data=data, steps=1)
    distance, floor = frechet.final(trainer, model)
    assert sorted(extractor.given) == sorted([256, 44] + [5] * 8 + [3] + [5] * 4 + [4])
    whole = [model.model.sample(300, seed=3), data.scaled("val"), data.scaled("train")]
    samples, held, train = (FeatureStats(6).add(quantise(x, 17).flatten(1)[:, :6] ** 2) for x in whole)
    assert distance.value == pytest.approx(frechet_distance(samples, train), rel=1e-5)
    assert floor.value == pytest.approx(frechet_distance(held, train), rel=1e-5)
    assert (distance.key, floor.key, floor.record["n"]) == ("f@300", "f@24_real", 24)


def test_slow_statistics_of_real_data_are_computed_once(tmp_path):
    def given(data: Dots, extractor: Features, n: int = 20) -> list[int]:
        model, frechet = module(), FrechetDistance(n, 3, extractor=extractor)
        frechet.final(fit(tmp_path / "run", model, [frechet], data=data, steps=1), model)
        return extractor.given

    assert len(given(Dots(n_train=40), Features({"weights": "a"}))) == 1 + 8 + 4
    assert given(Dots(n_train=40), Features({"weights": "a"})) == [20]
    assert len(given(Dots(n_train=40), Features({"weights": "b"}))) == 1 + 8 + 4
    assert len(given(Dots(n_train=40, seed=1), Features({"weights": "a"}))) == 1 + 8 + 4
    assert len(given(Dots(n_train=40), Features({"weights": "a"}), n=10)) == 1 + 2  # as many held-out data
