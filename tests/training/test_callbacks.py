"""What callbacks measure and draw, against the same computed by hand; and that they leave training alone."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import arrays
from lightning import Callback
from PIL import Image

from ddpm_lab.compare.pairing import per_datum
from ddpm_lab.core.timesteps import Drawn, Uniform
from ddpm_lab.data.gaussian_mixture import GaussianMixture
from ddpm_lab.errors import UserError
from ddpm_lab.likelihood.bound import BoundMeter
from ddpm_lab.likelihood.estimate import BoundEstimator, pilot
from ddpm_lab.metrics.extractors import Pixels
from ddpm_lab.pictures import to_uint8
from ddpm_lab.training.callbacks import samples as samples_module
from ddpm_lab.training.callbacks.bound import VLBTerms
from ddpm_lab.training.callbacks.frechet import FrechetCurve
from ddpm_lab.training.callbacks.progress import LossQuartiles, Throughput
from ddpm_lab.training.callbacks.samples import Samples
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.ema import EMA

from .support import Dots, Recorder, T, adam, fit, module, quiet, same, table, weights_of

pytestmark = quiet


def trained(_, model) -> tuple[torch.Tensor, torch.Tensor]:
    return model.trained.positions.values.clone(), model.trained.per_example.clone()


# --- loss by quartile ---------------------------------------------------------------------------------------------------


def by_hand(records) -> dict[str, float]:
    t, loss = (torch.cat(column).double() for column in zip(*records, strict=True))
    found = {"train/loss": float(loss.mean())}
    for q in range(4):  # T = 8: times 2q+1 and 2q+2
        inside = (t == 2 * q + 1) | (t == 2 * q + 2)
        if inside.any():
            found[f"train/loss_q{q + 1}"] = float(loss[inside].mean())
    return found


def test_quartiles_are_means_over_the_rows_since_the_last(tmp_path):
    seen = Recorder(trained)
    norms = Recorder(lambda trainer, model: (trainer.optimizers[0].param_groups[0]["lr"], float(model.grad_norm)))
    fit(tmp_path, module(optim=adam(warmup=20)), [seen, norms, LossQuartiles()], steps=11, log_every=4)
    rows = table(tmp_path)
    assert [row["step"] for row in rows] == [4, 8]
    for row, start in zip(rows, (0, 4), strict=True):
        for key, value in by_hand(seen.seen[start : start + 4]).items():
            assert row[key] == pytest.approx(value, rel=1e-5)
        rate, norm = norms.seen[start + 3]
        assert (row["train/lr"], row["train/grad_norm"]) == pytest.approx((rate, norm))


class Uneven(Uniform):
    """t = 1 nine times of ten, weighted back."""

    def __call__(self, u, schedule, first, size):
        T = schedule.T
        first_time = u < 0.9
        weight = torch.where(first_time, 1 / (0.9 * T), (T - 1) / (0.1 * T))
        return Drawn(torch.where(first_time, 1, 2 + (10 * (u - 0.9) * (T - 1)).long().clamp(0, T - 2)), weight)


def test_the_logged_loss_is_a_mean_over_t_whatever_t_was_drawn(tmp_path):
    model, seen = module(), Recorder(lambda trainer, module: module.trained)
    model.model.timesteps = Uneven()
    fit(tmp_path, model, [seen, LossQuartiles()], steps=4, log_every=4)
    weight, loss = (torch.cat([getattr(x, name) for x in seen.seen]).double() for name in ("weight", "per_example"))
    assert table(tmp_path)[-1]["train/loss"] == pytest.approx(float((weight * loss).sum() / weight.sum()), rel=1e-5)
    assert abs(float(loss.mean()) - float((weight * loss).sum() / weight.sum())) > 0.01


def test_quartile_without_a_time_has_no_number(tmp_path):
    seen = Recorder(trained)
    fit(tmp_path, module(), [seen, LossQuartiles()], data=Dots(batch_size=1), steps=1)
    (row,) = table(tmp_path)
    assert {key for key in row if key.startswith("train/loss")} == set(by_hand(seen.seen))
    assert len(by_hand(seen.seen)) == 2


def test_sums_of_a_row_travel_through_a_checkpoint(tmp_path):
    def run(folder: Path, steps: int, checkpoint: Path | None = None) -> list[dict[str, float]]:
        callbacks = [LossQuartiles(), Checkpoints(3, None)]
        fit(folder, module(), callbacks, steps=steps, log_every=5, checkpoint=checkpoint)
        return table(folder) if steps > 4 else []

    whole = run(tmp_path / "whole", 10)
    run(tmp_path / "broken", 3)
    assert run(tmp_path / "broken", 10, tmp_path / "broken/checkpoints/last.ckpt") == whole


def test_throughput_counts_every_image_and_not_the_time_of_validation(tmp_path):
    class Slow(Callback):
        def on_validation_epoch_end(self, *_) -> None:
            time.sleep(0.3)

    speed = Throughput()
    fit(tmp_path, module(), [speed, Slow(), Checkpoints(100, None)], steps=6, validate_every=2, log_every=3)
    assert [row["train/images_seen"] for row in table(tmp_path) if "train/images_seen" in row] == [48, 96]
    assert speed.images == 96
    assert 0 < speed.seconds < 0.6
    resumed = Throughput()
    fit(tmp_path, module(), [resumed, Checkpoints(100, None)], steps=8, checkpoint=tmp_path / "checkpoints/last.ckpt")
    assert resumed.images == 128
    assert resumed.seconds > speed.seconds


# --- the bound ----------------------------------------------------------------------------------------------------------


def test_terms_on_disk_add_up_to_what_is_logged_and_equal_one_meter_over_all(tmp_path):
    model, data = module(), Dots(n_val=30)
    trainer = fit(tmp_path, model, [VLBTerms(3, 1, seed=4), EMA(0.5, False)], data=data, steps=4, validate_every=4)
    row, found = table(tmp_path)[-1], arrays(tmp_path / "vlb_terms.npz")
    assert row["val/decoder_bpd"] == pytest.approx(found["terms_bpd"][0], rel=1e-9)
    assert row["val/kl_bpd"] == pytest.approx(found["terms_bpd"][1:].sum(), rel=1e-9)
    assert row["val/prior_bpd"] == pytest.approx(float(found["prior_bpd"]), rel=1e-9)
    total = row["val/prior_bpd"] + row["val/kl_bpd"] + row["val/decoder_bpd"]
    assert row["val/bound_bpd"] == pytest.approx(total, rel=1e-9)
    assert trainer.callback_metrics["val/bound_bpd"] == pytest.approx(total, rel=1e-6)
    assert (found["times"].tolist(), int(found["n"]), int(found["seed"]), int(found["step"])) == ([*range(1, 9)], 30, 4, 4)
    meter = BoundMeter(model.model.diffusion, model.model.diffusion.chain, 3, 4, clip=True)
    meter.add(model.averages["ema/0.5"].net, data.scaled("val"), 0)  # the average, in one piece
    expected = meter.result()
    np.testing.assert_allclose(found["terms_bpd"], expected.terms_bpd.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found["terms_se"], expected.terms_se.numpy(), rtol=1e-4)
    assert row["val/bound_se"] == pytest.approx(expected.total_se, rel=1e-4)
    assert found["index"].tolist() == [*range(30)]
    strata = [found["per_datum_bpd"][found["index"] % int(found["stride"]) == offset].mean() for offset in range(3)]
    assert sum(strata) + found["per_datum_prior_bpd"].mean() == pytest.approx(total, rel=1e-9)
    np.testing.assert_allclose(found["per_datum_bpd"], meter.tally.per_datum.numpy(), rtol=1e-4)
    assert (tmp_path / "vlb_terms.png").stat().st_size > 0


def test_final_bound_has_its_own_stride_and_says_how_it_was_measured(tmp_path):
    model, terms = module(), VLBTerms(6, 1, seed=0)
    trainer = fit(tmp_path, model, [terms], steps=1)
    bound, *parts = terms.final(trainer, model)
    assert [bound.key, *(part.key for part in parts)] == ["bound_bpd", "prior_bpd", "kl_bpd", "decoder_bpd"]
    assert bound.value == pytest.approx(sum(part.value for part in parts), rel=1e-9)
    said = {"unit": "bits/dim", "split": "val", "n": 24, "stride": 1, "T": 8, "seed": 0, "weights": "raw", "clip": True}
    assert said.items() <= bound.record.items()
    assert (arrays(tmp_path / "vlb_terms.npz")["terms_n"] == 24).all()
    assert bound.se > 0


def test_a_final_bound_from_few_terms_is_that_of_the_estimator_after_a_strided_pilot(tmp_path):
    model, terms = module(), VLBTerms(4, seed=3, final_terms=2)
    trainer = fit(tmp_path, model, [terms], steps=1)
    bound, *parts = terms.final(trainer, model)
    net, x0 = model.eval_model.net, model.data.scaled("val")
    diffusion = model.model.diffusion
    strided = BoundMeter(diffusion, diffusion.chain, 4, 3)
    strided.add(net, x0, 0)
    alone = BoundEstimator(diffusion, diffusion.chain, pilot(strided.result()), 2, 3)
    alone.add(net, x0, 0)
    expected, saved = alone.result(), arrays(tmp_path / "vlb_terms.npz")
    assert bound.value == pytest.approx(expected.total_bpd, rel=1e-9)
    assert bound.se == pytest.approx(expected.total_se, rel=1e-9)
    assert [part.key for part in parts] == ["prior_bpd", "kl_bpd", "decoder_bpd"]
    assert bound.value == pytest.approx(sum(part.value for part in parts), rel=1e-9)
    assert {"stride": None, "terms": 2, "calls": 3, "n": 24}.items() <= bound.record.items()
    np.testing.assert_allclose(saved["terms_bpd"], strided.result().terms_bpd)
    np.testing.assert_allclose(per_datum(saved, bound.value), expected.per_datum_bpd)


def test_known_density_stands_beside_the_bound(tmp_path):
    model, data, terms = module(shape=(2,), levels=None), GaussianMixture(n_train=50, n_val=40), VLBTerms(4, 2, 0)
    trainer = fit(tmp_path, model, [terms], data=data, steps=1)
    results = {result.key: result for result in terms.final(trainer, model)}
    assert results["known_bpd"].value == data.known_bpd()
    assert results["bound_bpd"].value > data.known_bpd()
    assert results["bound_bpd"].record["clip"] is False


@pytest.mark.parametrize(("stride", "final", "name"), [(8, 1, "stride"), (1, 7, "final_stride"), (100, 1, "stride")])
def test_too_few_data_for_a_stride_are_answered_before_training(stride, final, name, tmp_path):
    model = module()
    with pytest.raises(UserError, match=rf"callbacks.vlb_terms.{name}=\d+ needs at least \d+ .*: use {name}=6 or less"):
        fit(tmp_path, model, [VLBTerms(stride, final, 0)], data=Dots(n_val=12))
    assert model.trained is None


def test_advice_for_a_single_datum_is_not_an_illegal_stride(tmp_path):
    with pytest.raises(UserError) as caught:
        fit(tmp_path, module(), [VLBTerms(1, 1, 0)], data=Dots(n_val=1))
    assert "stride=0" not in str(caught.value)


# --- pictures -----------------------------------------------------------------------------------------------------------


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in sorted((folder / "samples").iterdir())}


def test_the_same_picture_twice_and_another_once_the_weights_change(tmp_path):
    model, draw = module(optim=adam(lr=0.3)), Samples(n=5, rows=2, frames=3, seed=0, batch=2)
    trainer = fit(tmp_path, model, [draw], steps=1)
    draw.draw(trainer, model)
    first = pictures(tmp_path)
    draw.draw(trainer, model)
    assert pictures(tmp_path) == first
    assert list(first) == ["progression_0000001.png", "step_0000001.png"]
    with torch.no_grad():
        next(model.model.net.parameters()).mul_(-1)
    draw.draw(trainer, model)
    changed = pictures(tmp_path)
    assert all(changed[name] != first[name] for name in first)


@pytest.mark.parametrize(("frames", "times"), [(3, [8, 4, 1]), (2, [8, 1]), (100, [8, 7, 6, 5, 4, 3, 2, 1])])
def test_progression_goes_from_T_to_the_first_time(frames, times, tmp_path, monkeypatch):
    model, draw, shown = module(), Samples(n=5, rows=2, frames=frames, seed=7, batch=3), {}
    trainer = fit(tmp_path, model, steps=1)
    monkeypatch.setattr(samples_module, "save_grid", lambda x, path: shown.update(grid=x))
    monkeypatch.setattr(samples_module, "save_progression", lambda x, labels, _: shown.update(frames=x, labels=labels))
    draw.draw(trainer, model)
    states = list(model.model.sample_states(0, 5, seed=7))
    assert shown["labels"] == [f"t = {t}" for t in times]
    for t, frame in zip(times, shown["frames"], strict=True):
        torch.testing.assert_close(frame, states[T - t].x0[:2], rtol=0, atol=1e-5)
    torch.testing.assert_close(shown["grid"], states[-1].x, rtol=0, atol=1e-5)
    assert to_uint8(shown["grid"]).float().std() > 10


def test_final_draws_only_what_no_validation_has(tmp_path):
    model, draw = module(), Samples(n=2, rows=1, frames=2, seed=0)
    trainer = fit(tmp_path, model, [draw], steps=4, validate_every=2)
    draw.final(trainer, model)
    names = [name for name in pictures(tmp_path) if name.startswith("step")]
    assert names == ["step_0000002.png", "step_0000004.png"]
    (tmp_path / "samples" / "step_0000004.png").unlink()
    assert draw.final(trainer, model) == []
    assert len(pictures(tmp_path)) == 4


def test_vectors_are_pictured_too(tmp_path):
    model, data = module(shape=(2,), levels=None), GaussianMixture(n_train=50, n_val=40)
    fit(tmp_path, model, [Samples(n=50, rows=50, frames=3, seed=0)], data=data, steps=2, validate_every=2)
    assert all(len(set(picture)) > 10 for picture in pictures(tmp_path).values())


# --- none of it touches training ----------------------------------------------------------------------------------------


class Generator(Callback):
    """The state of torch's generator before and after each validation; first and last in the list."""

    def __init__(self) -> None:
        self.states: list[torch.Tensor] = []

    def on_validation_start(self, *_) -> None:
        self.states.append(torch.get_rng_state())

    on_validation_end = on_validation_start


def test_validation_and_pictures_leave_generator_and_weights_alone(tmp_path):
    generator, measured, plain = Generator(), module(), module()
    callbacks = [
        generator,
        Samples(3, 1, 2, 0),
        VLBTerms(4, 1, 0),
        LossQuartiles(),
        Throughput(),
        FrechetCurve(5, 1, extractor=Pixels()),
    ]
    fit(tmp_path / "a", measured, callbacks, steps=6, validate_every=2)
    fit(tmp_path / "b", plain, steps=6)
    assert len(generator.states) == 6
    assert all(torch.equal(a, b) for a, b in zip(generator.states[::2], generator.states[1::2], strict=True))
    assert same(weights_of(measured.model.net), weights_of(plain.model.net))
