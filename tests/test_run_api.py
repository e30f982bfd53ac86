"""`ddpm_lab.load`: what a run says about itself in Python is what it said when it was trained."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, arrays, trained
from omegaconf import OmegaConf

import ddpm_lab
from ddpm_lab.core.diffusion import GaussianDiffusion
from ddpm_lab.core.prediction import Eps
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.schedule import linear
from ddpm_lab.core.variance import Beta
from ddpm_lab.data.digits import Digits
from ddpm_lab.data.gaussian_mixture import GaussianMixture
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # Lightning's own
]

POINTS = [
    "experiment=gaussian_mixture",
    "schedule.T=10",
    "trainer.max_steps=20",
    "trainer.validate_every=20",
    "data.n_train=200",
    "data.n_val=60",
    "data.batch_size=32",
    "net.width=16",
    "net.blocks=1",
    "callbacks.samples.n=20",
    "optim.warmup=0",
    "callbacks.frechet.n=50",
    "callbacks.vlb_terms.stride=5",
    "callbacks.vlb_terms.final_stride=2",
    "trainer.log_every=5",
]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("digits"), *TINY, "callbacks.vlb_terms.seed=6", "ema.decay=0.5", "optim.warmup=0")


@pytest.fixture(scope="module")
def points_run(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("points"), *POINTS)


@pytest.fixture(scope="module")
def run(digits_run):
    return ddpm_lab.load(digits_run)


@pytest.fixture(scope="module")
def val() -> torch.Tensor:
    data = Digits()
    data.setup()
    return data.val_images


def test_it_is_the_run_that_was_trained(run, digits_run):
    assert (run.step, run.weights, run.net.training) == (2, "ema/0.5", False)
    assert run.config == OmegaConf.to_container(OmegaConf.load(digits_run / "config.yaml"))
    assert (run.diffusion.schedule.T, run.diffusion.levels) == (10, 17)
    average = read_checkpoint(digits_run / "checkpoints" / "last.ckpt")["ema/0.5"]
    assert all(torch.equal(value, average[name]) for name, value in run.net.state_dict().items())


def test_raw_weights_are_others(run, digits_run):
    raw = ddpm_lab.load(str(digits_run), weights="raw")
    stored = read_checkpoint(digits_run / "checkpoints" / "last.ckpt")["state_dict"]
    assert raw.weights == "raw"
    assert all(torch.equal(value, stored[f"net.{name}"]) for name, value in raw.net.state_dict().items())
    assert not torch.equal(raw.sample(2), run.sample(2))
    with pytest.raises(UserError, match=r"weights=best.*\bema, raw, ema/"):
        ddpm_lab.load(digits_run, weights="best")


def test_a_single_checkpoint_opens_too(run, digits_run):
    best = ddpm_lab.load(digits_run / "checkpoints" / "best.ckpt")
    assert torch.equal(best.sample(2), run.sample(2))  # the one validation was at the last step


def test_a_moved_folder_opens(run, digits_run, tmp_path):
    moved = shutil.copytree(digits_run, tmp_path / "elsewhere")
    assert torch.equal(ddpm_lab.load(moved).sample(1), run.sample(1))


def test_bound_is_the_one_the_run_reported(run, digits_run, val):
    """Same data, seed and stride: term by term, and the summary's total."""
    bound, found = run.bound(val, stride=5, seed=6), arrays(digits_run / "vlb_terms.npz")
    np.testing.assert_allclose(bound.terms_bpd.numpy(), found["terms_bpd"], rtol=1e-5)
    np.testing.assert_allclose(bound.terms_se.numpy(), found["terms_se"], rtol=1e-3)
    reported = json.loads((digits_run / "summary.json").read_text())["metrics"]["bound_bpd"]
    assert (reported["seed"], reported["stride"], reported["n"], bound.n) == (6, 5, 360, 360)
    assert bound.total_bpd == pytest.approx(reported["value"], rel=1e-6)
    assert bound.total_se == pytest.approx(reported["standard_error"], rel=1e-4)
    other = run.bound(val, stride=5, seed=7)
    assert other.total_bpd != bound.total_bpd
    assert abs(other.total_bpd - bound.total_bpd) < 6 * bound.total_se


def test_grey_levels_and_floats_on_their_grid_are_the_same_images(run, val):
    floats = val[:20].float() / 8 - 1
    assert run.bound(floats).total_bpd == run.bound(val[:20]).total_bpd


def test_images_off_the_grid_are_refused(run, val):
    floats = val[:20].float() / 8 - 1
    for wrong in (floats + 0.06, floats * 1.125, (floats + 1) / 2 + 0.01, val[:20] * 2, val[:20].float()):
        with pytest.raises(UserError, match=r"\b17\b.*\[-1, 1\]"):
            run.bound(wrong)


def test_images_of_another_shape_are_refused(run, val):
    for wrong in (val[:20, 0], val[:20, :, :4], val[:20].expand(20, 3, 8, 8)):
        with pytest.raises(UserError, match=rf"{re.escape(str(tuple(wrong.shape[1:])))}.*\(1, 8, 8\)"):
            run.bound(wrong)


def test_too_few_images_for_a_stride_are_refused(run, val):
    with pytest.raises(UserError, match=r"stride=4.*\b8\b.*\b7\b"):
        run.bound(val[:7], stride=4)


def nan(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[0, 0, 0, 0] = float("nan")
    return x


WRONG = {
    "not a number": lambda val: nan(val[:20].float() / 8 - 1),
    "whole numbers": lambda val: (val[:20] > 8).long(),
    "no images": lambda val: val[:0],
}


@pytest.mark.parametrize("case", WRONG)
def test_what_are_no_images_is_refused(case, run, val):
    with pytest.raises(UserError):
        run.bound(WRONG[case](val))


def test_float64_images_are_images(run, val):
    assert run.bound(val[:20].double() / 8 - 1).total_bpd == pytest.approx(run.bound(val[:20]).total_bpd, rel=1e-5)


def test_a_sampler_that_asks_for_too_many_steps_is_answered(run):
    with pytest.raises(UserError, match=r"steps=50 .*T=10"):
        run.sample(2, DDIM(50))


def test_home_is_understood(digits_run, monkeypatch):
    monkeypatch.setenv("HOME", str(digits_run.parent))
    assert ddpm_lab.load(f"~/{digits_run.name}").step == 2


def test_samples_follow_seed_and_index_and_another_sampler(run):
    many = run.sample(6, seed=3)
    assert many.shape == (6, 1, 8, 8)
    assert many.abs().max() <= 1
    torch.testing.assert_close(run.sample(2, seed=3, batch=1), many[:2], rtol=0, atol=1e-5)
    ddim = run.sample(6, DDIM(5), seed=3)
    assert (ddim - many).abs().max() > 0.1
    assert torch.equal(run.sample(6, DDIM(5), seed=3), ddim)


def test_picture_of_the_run_shows_the_samples_that_python_gives(run, digits_run):
    from PIL import Image

    from ddpm_lab.pictures import to_uint8

    picture = np.asarray(Image.open(digits_run / "samples" / "step_0000002.png"))  # 2 × 2 of them, 6 times as large
    expected = to_uint8(run.sample(4, seed=0)).numpy()[:, 0]
    for i in range(4):
        top, left = 2 + i // 2 * 50, 2 + i % 2 * 50
        tile = picture[top : top + 48 : 6, left : left + 48 : 6].astype(int)
        assert np.abs(tile - expected[i]).max() <= 1


def test_run_stays_where_it_is_told(run):
    assert run.to("cpu") is run


def test_vectors_run_too(points_run):
    run = ddpm_lab.load(points_run)
    data = GaussianMixture(n_train=200, n_val=60)
    data.setup()
    bound, found = run.bound(data.val_images, stride=2), arrays(points_run / "vlb_terms.npz")
    np.testing.assert_allclose(bound.terms_bpd.numpy(), found["terms_bpd"], rtol=1e-4)
    metrics = json.loads((points_run / "summary.json").read_text())["metrics"]
    assert metrics["known_bpd"]["value"] == pytest.approx(data.known_bpd(), rel=1e-9)
    assert bound.total_bpd == pytest.approx(metrics["bound_bpd"]["value"], rel=1e-5)
    assert run.sample(5).shape == (5, 2)
    with pytest.raises(UserError, match=r"\(3,\).*\(2,\)"):
        run.bound(torch.zeros(10, 3))


def test_what_is_not_there_is_answered(tmp_path, digits_run):
    with pytest.raises(UserError, match="nowhere"):
        ddpm_lab.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"last\.ckpt"):
        ddpm_lab.load(tmp_path)
    with pytest.raises(UserError, match=r"config\.yaml.*checkpoint"):
        ddpm_lab.load(digits_run / "config.yaml")


def test_weights_of_another_network_are_answered(digits_run, tmp_path):
    content = torch.load(digits_run / "checkpoints" / "last.ckpt", weights_only=True)
    content["config"]["net"]["channels"] = 16
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other\.ckpt.*\bnet\.\S+ .*\(.*\).*\("):
        ddpm_lab.load(tmp_path / "other.ckpt")


def test_package_says_what_it_lacks():
    with pytest.raises(AttributeError, match="nothing"):
        _ = ddpm_lab.nothing


def test_samplers_call_the_network_without_autograd():
    modes = []

    def net(xt, t):
        modes.append(torch.is_grad_enabled())
        return xt

    x = torch.zeros(1, 1)
    list(Ancestral()(GaussianDiffusion(linear(T=3), Eps(), Beta(), levels=None), net, x, lambda t: x))
    assert modes == [False] * 3
