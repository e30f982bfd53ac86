"""The numbers are those that the run itself gives in Python, and each says how it was measured."""

import csv
import hashlib
import importlib.metadata
import sys
from unittest.mock import patch

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import ddpm_lab
from ddpm_lab.cli.compare import main as compare
from ddpm_lab.config.build import instantiate
from ddpm_lab.core.grey import scale
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.metrics.copies import copies
from ddpm_lab.metrics.frechet import frechet_distance, stats_of
from ddpm_lab.metrics.record import FIELDS
from ddpm_lab.metrics.scores import subset
from ddpm_lab.metrics.sliced import mind
from ddpm_lab.models.checkpoint import read_checkpoint, write_archive
from ddpm_lab.models.diffusion_measurements import gap_quarters

from .support import DIGITS, T, columns, copied, evaluate, kept, scored


@pytest.fixture(scope="module")
def measured(run_of, tmp_path_factory):
    """All validation data on both chains, with a few samples; what several tests look at."""
    run = copied(run_of(*DIGITS), tmp_path_factory.mktemp("measured") / "run")
    return run, evaluate(run, "sampler=ddim", "sampler.steps=5", "nll.n=null", "quality.n=30")


@pytest.fixture(scope="module")
def data(measured):
    found = instantiate(OmegaConf.create(ddpm_lab.load(measured[0]).config), "data")
    found.setup()
    return found


def test_the_bound_is_that_of_the_run_in_python(measured, data):
    run, told = measured
    bound = ddpm_lab.load(run).bound(data.val_images)
    assert told.value("bound") == pytest.approx(bound.total_bpd, abs=1e-6)
    assert told.results()["bound"]["standard_error"] == pytest.approx(bound.total_se, abs=1e-6)
    assert told.value("bound_prior") == pytest.approx(bound.prior_bpd, abs=1e-9)
    assert told.value("bound_kl") == pytest.approx(bound.kl_bpd, abs=1e-6)
    assert told.value("bound_decoder") == pytest.approx(bound.decoder_bpd, abs=1e-6)
    assert told.value("bound_mismatch") == pytest.approx(bound.mismatch_bpd, abs=1e-6)


@pytest.mark.parametrize(("key", "steps"), [("bound", T), ("bound_5", 5)])
def test_terms_add_up_to_the_bound(measured, key, steps):
    _, told = measured
    terms = columns(told.folder / f"bound_{steps}_beta.csv")
    assert len(terms["t"]) == steps
    assert terms["t"][-1] == T
    assert told.value(f"{key}_prior") + sum(terms["bits_per_dim"]) == pytest.approx(told.value(key), abs=1e-9)
    parts = np.array(terms["by_means"]) + np.array(terms["by_variances"])
    np.testing.assert_allclose(parts[1:], terms["bits_per_dim"][1:], rtol=1e-5)
    assert sum(terms["by_variances"][1:]) == pytest.approx(told.value(f"{key}_mismatch"), abs=1e-9)
    assert terms["rate_bits_per_dim"][-1] == pytest.approx(told.value(f"{key}_prior"), abs=1e-9)  # to know x_T costs L_T


def test_the_gap_is_to_the_bound_of_training_data(measured, data):
    run, told = measured
    train = ddpm_lab.load(run).bound(data.train_images[:360], stride=5)
    assert told.value("bound_train") == pytest.approx(train.total_bpd, abs=1e-6)
    assert told.value("bound_gap") == pytest.approx(told.value("bound") - train.total_bpd, abs=1e-6)
    assert told.record("bound_train")["split"] == told.record("bound_gap")["split"] == "train"
    terms = columns(told.folder / f"bound_{T}_beta.csv")["bits_per_dim"]
    for quarter, first in enumerate((1, 5, 10, 15)):  # times 2 to 5, 6 to 10, 11 to 15, 16 to 20
        places = slice(first, 5 * (quarter + 1))
        expected = sum(terms[places]) - float(train.terms_bpd[places].sum())
        found = told.results()[f"bound_gap_q{quarter + 1}"]
        assert (found["value"], found["level"]) == (pytest.approx(expected, abs=1e-6), 2)
    assert [gap_quarters(train, train, 7), len(gap_quarters(train, train, 8))] == [[], 4]
    divergences = sum(told.value(f"bound_gap_q{quarter}") for quarter in (1, 2, 3, 4))
    assert divergences == pytest.approx(told.value("bound_kl") - train.kl_bpd, abs=1e-6)


def test_the_estimate_holds_the_bound_within_its_error(measured):
    run, told = measured
    few = evaluate(run, "sampler=ddim", "sampler.steps=5", "nll.n=null", "nll.terms=4", "quality.n=0", "name=estimate")
    for key in ("bound", "bound_5"):
        found = few.results()[f"{key}_estimate"]
        assert 0 < abs(found["value"] - told.value(key)) < 3 * found["standard_error"]
        parts = sum(few.value(f"{key}_estimate_{part}") for part in ("prior", "kl", "decoder"))
        assert found["value"] == pytest.approx(parts, abs=1e-9)
        assert (found["record"]["terms"], found["record"]["calls"], found["record"]["n"]) == (4, 5, 360)


def test_by_itself_a_long_chain_is_estimated_and_its_gap_too(measured, monkeypatch):
    run, told = measured
    monkeypatch.setattr("ddpm_lab.models.measurement.AUTO_STEPS", T - 1)
    asked = ["sampler=ddim", "sampler.steps=5", "nll.n=null", "quality.n=0", "nll.train_stride=null"]
    auto = evaluate(run, *asked, "name=auto")
    assert auto.value("bound_5") == told.value("bound_5")
    estimate, train = auto.results()["bound_estimate"], auto.results()["bound_train"]
    error = np.hypot(train["standard_error"], told.results()["bound_train"]["standard_error"])
    assert 0 < abs(train["value"] - told.value("bound_train")) < 3 * error
    assert (train["record"]["split"], train["record"]["calls"]) == ("train", 11)
    assert auto.value("bound_gap") == pytest.approx(estimate["value"] - train["value"], abs=1e-9)
    for key in (f"bound_gap_q{quarter}" for quarter in (1, 2, 3, 4)):
        found = auto.results()[key]
        assert found["value"] == pytest.approx(told.value(key), abs=5 * found["standard_error"])
        assert found["standard_error"] > 0
    assert evaluate(run, *asked, "nll.terms=null", "name=all").value("bound") == told.value("bound")
    assert "bound" in evaluate(run, *asked, "nll.stride=2", "name=stride").results()


def test_a_bound_that_is_not_finite_is_reported_and_stops_nothing(run, capsys):
    path = run / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    for state in [key for key in content if key == "state_dict" or key.startswith("ema/")]:
        content[state] = {name: value * 1e30 if value.is_floating_point() else value for name, value in content[state].items()}
    write_archive(content, path)
    told = evaluate(run, "nll.terms=4", "quality.n=0", "name=huge")
    assert (told.value("bound_estimate"), told.results()["bound_estimate"]["standard_error"]) == (None, None)
    with patch.object(sys, "argv", ["compare.py", str(run)]):
        compare()
    assert "bits/dim" in capsys.readouterr().out


def test_a_stride_of_training_data_acts_beside_an_estimate(measured):
    run, told = measured
    few = evaluate(run, "nll.n=null", "nll.terms=4", "nll.train_stride=5", "quality.n=0", "name=strided")
    assert few.value("bound_train") == told.value("bound_train")
    assert few.value("bound_gap") == pytest.approx(few.value("bound_estimate") - told.value("bound_train"), abs=1e-9)


def test_samples_are_those_of_the_run_in_python(measured, data):
    run, told = measured
    x = ddpm_lab.load(run).sample(30, DDIM(steps=5))
    levels = ((x.clamp(-1, 1) + 1) * 8).round().to(torch.uint8)
    (place,) = kept(run, "samples")
    assert torch.equal(torch.load(place / "00000000-00000030.pt", weights_only=True)["x"], levels)
    features = (scale(images, 17).double().flatten(1) for images in (levels, data.train_images))
    samples, real = (stats_of([found]) for found in features)
    assert told.value("pixels_fd") == pytest.approx(frechet_distance(samples, real), rel=1e-6)
    rows = [scale(images, 17).double().flatten(1) for images in (levels, data.val_images, data.train_images)]
    found = copies(rows[0], subset(rows[1], 30), rows[2])
    assert told.value("pixels_c_t") == pytest.approx(found.c_t.value, rel=1e-6)
    assert told.value("pixels_authenticity") == pytest.approx(found.authenticity.value)
    assert told.value("pixels_authenticity_real") == pytest.approx(found.of_held_out.value)
    assert told.value("pixels_mind") == pytest.approx(mind(rows[0], subset(rows[2], 30)).value, rel=1e-6)
    with Image.open(told.folder / told.arms[0]["picture"]) as picture:
        assert picture.size[0] > 8


def test_numbers_do_not_depend_on_the_batch(measured, tmp_path):
    run, _ = measured
    small = evaluate(copied(run, tmp_path / "run"), "sampler=ddim", "sampler.steps=5", "quality.n=30", "batch=7")
    large = evaluate(run, "sampler=ddim", "sampler.steps=5", "quality.n=30", "name=ten")
    assert small.results().keys() == large.results().keys()
    for key, result in ((r["key"], r) for r in scored(large.arms)[0]["results"]):
        assert small.value(key) == pytest.approx(result["value"], rel=1e-4, abs=1e-4), key


def test_another_seed_is_other_noise_and_the_same_data(measured):
    run, told = measured
    other = evaluate(run, "sampler=ddim", "sampler.steps=5", "nll.n=null", "quality.n=30", "seed=1", "name=seed")
    assert other.record("bound")["seed"] == other.record("pixels_fd")["seed"] == 1
    assert other.value("bound") != told.value("bound")
    assert other.value("pixels_fd") != told.value("pixels_fd")
    assert other.value("bound") == pytest.approx(told.value("bound"), abs=5 * told.results()["bound"]["standard_error"])
    assert other.value("pixels_fd_real") == told.value("pixels_fd_real")


def test_the_record_beside_the_bound_is_complete(measured, data):
    run, told = measured
    checkpoint = run / "checkpoints" / "last.ckpt"
    expected = {
        "unit": "bits/dim", "n": 360, "split": "val", "seed": 0, "weights": "ema/0.9999", "step": 2, "T": T, "steps": 5,
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(), "spacing": "trailing", "variance": "beta",
        "clip": True, "precision": "float32", "levels": 17, "stride": 1, "data_sha256": data.fingerprint(),
    }  # fmt: skip
    for part in ("", "_prior", "_kl", "_mismatch", "_decoder"):
        short, full = told.record(f"bound_5{part}"), told.record(f"bound{part}")
        assert short.items() >= expected.items()
        assert full.items() >= (expected | {"steps": T, "spacing": None}).items()
        assert short.keys() & full.keys() >= set(FIELDS)
    assert told.content["versions"].keys() == {"ddpm-lab", "torch", "torch-fidelity"}
    assert (told.content["checkpoint"], told.content["step"], told.content["seed"]) == (str(checkpoint), 2, 0)


def test_the_record_beside_a_score_is_complete(measured, data):
    _, told = measured
    record = told.record("pixels_fd")
    expected = {
        "n": 30, "split": "samples", "seed": 0, "weights": "ema/0.9999", "step": 2, "sampler": "ddim", "steps": 5,
        "checkpoint_sha256": told.record("bound")["checkpoint_sha256"], "spacing": "trailing", "eta": 0.0, "variance": None,
        "clip": True, "precision": "float32", "levels": 17, "reference": "train", "n_reference": 1437,
        "reference_sha256": data.fingerprint(), "extractor": "pixels", "version_torch": importlib.metadata.version("torch"),
    }  # fmt: skip
    assert {name: record.get(name) for name in expected} == expected
    assert {f"version_{name}" for name in ("ddpm_lab", "torch", "torch_fidelity")} <= record.keys()
    for key, result in told.results().items():
        if key.startswith("pixels"):
            assert result["record"].keys() >= record.keys()
            assert result["record"]["n"] > 0
    assert told.record("pixels_fd_real")["split"] == "val"
    assert told.record("pixels_fd_real")["sampler"] is None
    assert told.record("pixels_kid")["kid_subset_size"] == 30
    assert [told.record("pixels_mind")[field] for field in ("n_reference", "mind_projections")] == [30, 1000]
    assert [told.record("pixels_c_t")[field] for field in ("n_reference", "n_held_out")] == [1437, 30]
    assert told.record("pixels_authenticity_real")["split"] == "val"
    assert {key for key, result in told.results().items() if "reference_subset" in result["record"]} == {"pixels_mind"}
    for key in ("pixels_c_t", "pixels_authenticity_real"):
        assert told.record(key)["held_out_subset"] == "random"


def test_ancestral_samples_say_their_variance(run):
    assert evaluate(run).record("pixels_fd")["variance"] == "beta"


def test_analytic_says_from_what_it_was_estimated(run):
    told = evaluate(run, "variance=analytic", "gamma.n=6", "sampler.max_last_noise=0.5")
    gamma = columns(told.folder / "gamma.csv")
    assert gamma["t"] == list(range(1, T + 1))
    clipped = [sum(x < 0 for x in gamma["cov"]), sum(x > 1 for x in gamma["cov"])]
    for key in ("bound", "pixels_fd"):
        record = told.record(key)
        assert (record["gamma_n"], record["gamma_times"]) == (6, T)
        assert (record["clip_cov"], record.get("max_last_noise")) == (True, 0.5 if key == "pixels_fd" else None)
        assert [record["cov_clipped_at_0"], record["cov_clipped_at_1"]] == clipped


def test_published_statistics_take_the_place_of_data(run, data, tmp_path):
    stats = stats_of([scale(data.val_images, 17).double().flatten(1)])
    np.savez(tmp_path / "stats.npz", mu=stats.mean.numpy(), sigma=stats.cov.numpy())
    told = evaluate(run, f"quality.statistics={tmp_path / 'stats.npz'}")
    against_val = evaluate(run, "quality.reference=val", "name=val")
    assert told.value("pixels_fd") == pytest.approx(against_val.value("pixels_fd"), rel=1e-6)
    assert "pixels_c_t" in told.results()
    assert not {"pixels_c_t", "pixels_authenticity"} & against_val.results().keys()  # held-out data are no training data
    record = told.record("pixels_fd")
    assert record["reference"] == "published"
    assert record["reference_sha256"] == hashlib.sha256((tmp_path / "stats.npz").read_bytes()).hexdigest()
    for key, n_reference in (
        ("pixels_kid", len(data.train_images)),
        ("pixels_precision", 12),
        ("pixels_recall", 12),
        ("pixels_mind", 12),
    ):
        record = told.record(key)  # of features: moments are no use
        assert (record["reference"], record["n_reference"]) == ("train", n_reference)
        assert record["reference_sha256"] == data.fingerprint()


def test_weights_are_those_asked_for(run):
    average, raw = evaluate(run), evaluate(run, "weights=raw", "name=raw")
    assert (average.record("bound")["weights"], raw.record("bound")["weights"]) == ("ema/0.9999", "raw")
    assert average.value("bound") != raw.value("bound")


def test_csv_has_every_number_of_json(measured):
    _, told = measured
    with (told.folder / "evaluation.csv").open() as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert {key: float(row["value"]) for key, row in rows.items()} == {k: r["value"] for k, r in told.results().items()}
    assert rows["pixels_fd"]["sampler"] == "ddim"


def test_samples_that_are_not_finite_have_no_score_and_the_bound_stands(run, monkeypatch, caplog):
    step = DDIM.step

    def diverges(self, x, *arguments):
        found = step(self, x, *arguments)
        first = torch.full_like(found[0], torch.nan)
        return (first, *found[1:])

    monkeypatch.setattr(DDIM, "step", diverges)
    made = evaluate(run, "sampler=ddim", "sampler.steps=4")
    assert "12 of 12 samples are not finite" in caplog.text
    assert "bound" in made.results()
    assert not [key for key in made.results() if key.startswith("pixels")]
