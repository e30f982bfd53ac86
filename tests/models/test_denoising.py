"""The denoising auto-encoder: its score on Gaussian data, exactly and trained; noise, PSNR, walk; a run by yaml."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import ddpm_lab
from ddpm_lab.config.preflight import preflight
from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.path import NoiseSchedule
from ddpm_lab.core.prediction import Eps
from ddpm_lab.errors import UserError
from ddpm_lab.models.denoising import FLOOR, DenoisingAutoencoder, psnr

from .runs import metrics, pictures, run

VECTORS = {"shape": (3,), "levels": None, "seed": 0, "config": {}}
DIGITS = {"shape": (1, 8, 8), "levels": 17, "seed": 0, "config": {}}
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.3, 0.4, 0.8]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T


def smoothed(sigma: float) -> MultivariateNormal:
    """x + σ ε of Gaussian x."""
    return MultivariateNormal(torch.zeros(3).double(), COVARIANCE + sigma**2 * torch.eye(3).double())


def exact_score(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """By differentiation of the log density."""
    x = x.double().requires_grad_()
    return torch.autograd.grad(smoothed(sigma).log_prob(x).sum(), x)[0]


def optimal(sigma: float) -> DenoisingAutoencoder:
    """r(x̃) = E[x | x̃] = Σ (Σ + σ² I)⁻¹ x̃."""
    model = DenoisingAutoencoder([], 3, amount=sigma, **VECTORS).double()
    gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + sigma**2 * torch.eye(3).double())
    for layer, weight in ((model.net.encoder[0], gain), (model.net.decoder[0], torch.eye(3).double())):
        layer.load_state_dict({"weight": weight, "bias": torch.zeros(3).double()})
    return model


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_the_optimal_one_gives_the_score_of_the_smoothed_data(sigma):
    x = rng.normal((3,), 0, "evaluation", 0, 0, 50).double()
    torch.testing.assert_close(optimal(sigma).score(x), exact_score(x, sigma), rtol=1e-9, atol=1e-9)


def test_its_score_is_the_noise_that_a_diffusion_model_predicts():
    """With x_t = √ᾱ x̃ and σ² = (1 − ᾱ)/ᾱ, DDPM Eq. 15 gives r(x̃) from ε = −σ score."""
    alpha_bar = 0.6
    sigma = math.sqrt((1 - alpha_bar) / alpha_bar)
    model, x = optimal(sigma), rng.normal((3,), 0, "evaluation", 0, 0, 20).double()
    step = NoiseSchedule(torch.tensor([1.0, alpha_bar]).double()).chain().step(torch.ones(20).long(), x)
    x0 = Eps().x0(-sigma * model.score(x), math.sqrt(alpha_bar) * x, step)
    torch.testing.assert_close(x0, model.reconstructed(x))


def test_a_trained_one_comes_within_two_percent_of_the_score():
    """Relative root mean square over the smoothed data."""
    sigma, steps, n = 1.0, 500, 512
    model = DenoisingAutoencoder([32], 8, amount=sigma, **VECTORS)
    optim, numbers = torch.optim.Adam(model.net.parameters()), torch.Generator().manual_seed(0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optim, 0.01, total_steps=steps)
    for step in range(steps):
        x = torch.randn(n, 3, generator=numbers) @ ROOT.T.float()
        optim.zero_grad()
        model.losses(Batch(x, step, 0, n)).per_example.mean().backward()
        optim.step()
        rate.step()
    x = (torch.randn(2000, 3, generator=numbers) @ ROOT.T.float()) + sigma * torch.randn(2000, 3, generator=numbers)
    exact = exact_score(x, sigma).detach()
    assert ((model.score(x) - exact) ** 2).sum() < 0.02**2 * (exact**2).sum()


def test_only_gaussian_noise_gives_a_score():
    with pytest.raises(ValueError, match="mask"):
        DenoisingAutoencoder(noise="mask", **VECTORS).score(torch.zeros(1, 3))


def test_each_noise_is_what_it_says():
    x = torch.full((2000, 1, 8, 8), 0.5)
    made = {
        noise: DenoisingAutoencoder([], 1, noise=noise, **DIGITS).corrupted(x, 0.3, 0, "noise", 0, 0)
        for noise in ("gaussian", "mask", "salt_and_pepper")
    }
    assert abs(float(made["gaussian"].mean()) - 0.5) < 0.005
    assert abs(float(made["gaussian"].std()) - 0.3) < 0.005
    shares = {
        noise: {value: round(float((y == value).float().mean()), 2) for value in y.unique().tolist()}
        for noise, y in made.items()
        if noise != "gaussian"
    }
    assert shares == {"mask": {0.0: 0.3, 0.5: 0.7}, "salt_and_pepper": {-1.0: 0.15, 0.5: 0.7, 1.0: 0.15}}


@pytest.mark.parametrize("noise", ["gaussian", "mask", "salt_and_pepper"])
def test_pieces_of_a_batch_change_no_loss(noise):
    model, x = DenoisingAutoencoder([], 4, noise=noise, **DIGITS), rng.normal((1, 8, 8), 0, "evaluation", 0, 0, 40)
    whole = model.losses(Batch(x, 7, 0, 40)).per_example
    pieces = [model.losses(Batch(x[i : i + 10], 7, i, 40)).per_example for i in range(0, 40, 10)]
    torch.testing.assert_close(torch.cat(pieces), whole)
    assert not torch.allclose(model.losses(Batch(x, 8, 0, 40)).per_example, whole)


def test_psnr_of_a_constant_error_and_of_none():
    x = torch.zeros(3, 1, 8, 8)
    torch.testing.assert_close(psnr(x + 0.02, x), torch.full((3,), 40.0))
    assert float(psnr(x, x)[0]) == pytest.approx(10 * math.log10(4 / FLOOR)) == pytest.approx(58.9, abs=0.1)


def test_a_sample_depends_on_its_index_and_stays_in_range():
    model = DenoisingAutoencoder(amount=3.0, steps=3, **DIGITS)
    for p in model.net.decoder.parameters():
        p.data.mul_(50)
    whole = model.sample(6, seed=2)
    torch.testing.assert_close(model.sample(6, seed=2, batch=4), whole)
    assert (whole.abs() <= 1).all()
    assert not torch.equal(model.sample(6, seed=3), whole)
    assert len(list(model.sample_states(0, 2))) == model.sample_steps == 3


def test_a_run(tmp_path):
    words = ["model=dae", "model.measured=[0.5,1.0]", "model.hidden=[32]"]
    folder = run(tmp_path / "run", *words)
    readings = {f"psnr{kind}@{amount}" for kind in ("", "_corrupted") for amount in ("0.5", "1")}
    found = metrics(folder)
    assert found.keys() == readings | {"pixels_fd", "pixels_fd_real"}
    assert found["psnr_corrupted@1"]["value"] == pytest.approx(10 * math.log10(4), abs=0.2)
    assert (found["pixels_fd"]["sampler"], found["pixels_fd"]["steps"]) == ("corrupt_and_reconstruct", 10)
    names = {f"{name}_000000{step}.png" for name in ("denoising", "step", "progression") for step in (4, 8)}
    assert pictures(folder) == names
    assert ddpm_lab.load(folder).sample(3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model.noise=blur"], "salt_and_pepper"),
        (["model.noise=mask", "model.amount=1.5", "model.measured=[0.5]"], "1.5"),
        (["model.noise=salt_and_pepper", "model.measured=[0.5,2.0]"], "2.0"),
        (["model.amount=0"], "model.amount=0"),
        (["sampler.steps=3"], "sampler"),
        (["data.conditional=true"], "data.conditional=true"),
    ],
)
def test_what_it_cannot_have_is_refused_by_name(words, named):
    with pytest.raises(UserError) as refusal:
        preflight(["model=dae", *words])
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)
