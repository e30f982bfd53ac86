"""Every number that a run writes says how it was measured."""

import json
import math

import pytest
from helpers import TINY

from ddpm_lab.metrics.record import FIELDS

from .support import quiet

pytestmark = quiet

PROMISED = {"n", "seed", "weights", "sampler", "steps", "variance", "split"}
"""What stands beside every number; None where it does not apply."""
POINTS = [
    "experiment=gaussian_mixture", "schedule.T=10", "trainer.max_steps=2", "trainer.validate_every=2", "data.n_train=60",
    "data.n_val=20", "data.batch_size=16", "net.width=8", "net.blocks=1", "callbacks.samples.n=4", "callbacks.frechet.n=5",
    "callbacks.frechet_curve.steps=5", "callbacks.frechet_curve.n=5", "callbacks.vlb_terms.stride=5", "trainer.log_every=1",
]  # fmt: skip
RUNS = {
    "ancestral": TINY,
    "learned": [*TINY, "loss=hybrid", "sampler.steps=4", "sampler.spacing=leading", "sampler.clip=false"],
    "ddim": [*TINY, "variance=beta_tilde", "sampler=ddim", "sampler.steps=5", "ema.decay=0.5"],
    "points": POINTS,
}


def metrics(run_of, name: str) -> dict[str, dict]:
    return json.loads((run_of(*RUNS[name]) / "summary.json").read_text())["metrics"]


@pytest.mark.parametrize("name", RUNS)
def test_every_number_keeps_the_promise(name, run_of):
    numbers = metrics(run_of, name)
    assert numbers.keys() >= {"bound_bpd", "pixels_fd", "pixels_fd_real"}
    for key, number in numbers.items():
        fields = set(number) - {"value", "standard_error"}
        assert fields >= {*PROMISED, *FIELDS}, key
        of_samples, of_data = number["split"] == "samples", number["split"] in ("train", "val")
        assert of_samples or of_data, key
        assert number["n"] > 0
        assert (number["sampler"] is not None) == of_samples, key
        if of_samples or (key.endswith("_bpd") and key != "known_bpd"):  # what a model was asked for
            assert None not in (number["seed"], number["weights"], number["steps"], number["T"], number["step"]), key


def test_values_are_those_of_the_run(run_of):
    learned, ddim, points = (metrics(run_of, name) for name in ("learned", "ddim", "points"))
    fd = {
        key: learned["pixels_fd"][key] for key in ("sampler", "steps", "spacing", "eta", "variance", "clip", "seed", "levels")
    }
    assert fd == {
        "sampler": "ancestral", "steps": 4, "spacing": "leading", "eta": None, "variance": "learned_range", "clip": False,
        "seed": 1, "levels": 17,
    }  # fmt: skip
    assert (ddim["pixels_fd"]["sampler"], ddim["pixels_fd"]["eta"], ddim["pixels_fd"]["variance"]) == ("ddim", 0.0, None)
    assert ddim["pixels_fd"]["weights"] == "ema/0.5"
    bound = {key: ddim["bound_bpd"][key] for key in ("variance", "sampler", "steps", "stride", "split", "n", "seed", "clip")}
    assert bound == {
        "variance": "beta_tilde", "sampler": None, "steps": 10, "stride": 5, "split": "val", "n": 360, "seed": 0, "clip": True,
    }  # fmt: skip
    assert (points["known_bpd"]["split"], points["known_bpd"]["weights"], points["bound_bpd"]["clip"]) == ("val", None, False)


def test_the_head_of_the_log_says_where_the_variance_is_not_used(run_of):
    said = {name: (run_of(*RUNS[name]) / "train.log").read_text().count("does not use the variance") for name in RUNS}
    assert said == {"ancestral": 0, "learned": 0, "ddim": 2, "points": 0}


def test_curves_describe_the_schedule(run_of):
    signal, snr = json.loads((run_of(*RUNS["ancestral"]) / "curves.json").read_text())
    assert set(signal) == {"title", "alt", "x", "y"}
    assert signal["x"]["values"] == [i / 10 for i in range(11)]
    assert (signal["y"]["values"][0], len(signal["y"]["values"])) == (1.0, 11)
    assert signal["y"]["values"] == sorted(signal["y"]["values"], reverse=True)
    ab, log_snr = signal["y"]["values"][1], snr["y"]["values"][0]  # t = 0 has no finite ratio
    assert snr["x"]["values"][0] == 0.1
    assert pytest.approx(log_snr, rel=1e-3) == math.log(ab / (1 - ab))
