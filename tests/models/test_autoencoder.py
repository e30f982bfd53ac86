"""Auto-encoders: principal components as the limit of a linear one, sparsity against Bernoulli distributions, runs by yaml."""

import pytest
import torch
from helpers import trained
from torch.distributions import Bernoulli, kl_divergence

from ddpm_lab.config.preflight import preflight
from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.data.digits import Digits
from ddpm_lab.errors import UserError
from ddpm_lab.models.autoencoder import Autoencoder, SparseAutoencoder

from .runs import metrics, pictures, run

VECTORS = {"shape": (4,), "levels": None, "seed": 0, "config": {}}
DIGITS = {"shape": (1, 8, 8), "levels": 17, "seed": 0, "config": {}}


def fitted(model, x, steps, lr):
    """By Adam on batches that are drawn from x."""
    optim, numbers = torch.optim.Adam(model.net.parameters(), lr), torch.Generator().manual_seed(0)
    for step in range(steps):
        batch = x[torch.randint(len(x), (128,), generator=numbers)]
        optim.zero_grad()
        model.losses(Batch(batch, step, 0, 128)).per_example.mean().backward()
        optim.step()
    return model


def test_a_linear_one_comes_to_the_principal_components_and_not_below():
    """Baldi & Hornik 1989: the least error of k linear code units is the sum of all but the k largest eigenvalues."""
    numbers = torch.Generator().manual_seed(1)
    x = torch.randn(512, 4, generator=numbers).double() * torch.tensor([1.0, 0.7, 0.4, 0.2])
    x -= x.mean(0)
    least = float(torch.linalg.eigvalsh(x.T @ x / len(x))[:2].sum()) / 4
    model = fitted(Autoencoder([], 2, **VECTORS).double(), x, 400, 0.01)
    error = float(model.losses(Batch(x, 0, 0, 512)).per_example.detach().mean())
    assert least < error < 1.01 * least


def test_hidden_layers_stand_in_reverse_in_the_decoder():
    net = Autoencoder([5, 3], 2, **DIGITS).net
    shapes = [tuple(p.shape) for name, p in net.named_parameters() if name.endswith("weight")]
    assert shapes == [(5, 64), (3, 5), (2, 3), (3, 2), (5, 3), (64, 5)]


def test_the_error_is_per_dimension():
    model = Autoencoder([], 4, **VECTORS).double()
    eye = torch.eye(4, dtype=torch.float64)
    for layer, factor in ((model.net.encoder[0], 1.0), (model.net.decoder[0], 3.0)):
        layer.load_state_dict({"weight": factor * eye, "bias": torch.zeros(4).double()})
    x = rng.normal((4,), 0, "evaluation", 0, 0, 6).double()
    torch.testing.assert_close(model.losses(Batch(x, 0, 0, 6)).per_example, 4 * (x**2).mean(1))
    reading = model.readings()["reconstruction_error"]
    torch.testing.assert_close(reading.of(x, torch.arange(6)), 4 * (x**2).mean(1))


def test_sparsity_is_the_divergence_of_bernoulli_units():
    model = SparseAutoencoder(code=5, rho=0.1, weight=0.5, **VECTORS).double()
    x = rng.normal((4,), 0, "evaluation", 0, 0, 16).double()
    means = torch.sigmoid(model.net.encoder[0](x)).mean(0)
    expected = 0.5 * kl_divergence(Bernoulli(torch.full_like(means, 0.1)), Bernoulli(means)).sum()
    torch.testing.assert_close(model.losses(Batch(x, 0, 0, 16)).parts["sparsity"], expected.expand(16))


@pytest.mark.parametrize(("logit", "rho_hat"), [(200.0, 1 - 1e-6), (-200.0, 1e-6)])
def test_units_that_saturate_have_a_finite_divergence(logit, rho_hat):
    """In float32, in which a sigmoid becomes 0 or 1."""
    model = SparseAutoencoder(code=2, rho=0.1, weight=1.0, **VECTORS)
    model.net.encoder[0].bias.data.fill_(logit)
    loss = model.losses(Batch(torch.zeros(3, 4), 0, 0, 3)).parts["sparsity"]
    expected = 2 * kl_divergence(Bernoulli(torch.tensor(0.1)), Bernoulli(torch.tensor(rho_hat)))
    torch.testing.assert_close(loss, expected.expand(3), rtol=0.01, atol=0)
    loss.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_mean_activations_come_near_to_rho():
    data = Digits()
    data.setup()
    model = fitted(SparseAutoencoder(code=64, rho=0.1, weight=0.1, **DIGITS), data.scaled("train"), 400, 0.005)
    with torch.no_grad():
        units = model.net(data.scaled("val"))[1].mean(0)
        reading = model.readings()["mean_activation"].of(data.scaled("val"), torch.arange(360))
    assert ((units - 0.1).abs() / 0.1).mean() < 0.2
    torch.testing.assert_close(reading.mean(), units.mean())


@pytest.mark.parametrize("name", ["ae", "sae"])
def test_a_run(name, tmp_path):
    folder = run(tmp_path / "run", f"model={name}")
    found = metrics(folder)
    assert found.keys() == {"reconstruction_error"} | ({"mean_activation"} if name == "sae" else set())
    error = found["reconstruction_error"]
    assert (error["n"], error["weights"], error["levels"]) == (90, "ema/0.9999", 17)
    assert pictures(folder) == {"reconstructions_0000004.png", "reconstructions_0000008.png"}
    log = (folder / "train.log").read_text()
    assert "no bits/dim" in log
    assert "no samples" in log


def test_vectors_are_data_too(tmp_path):
    words = ("experiment=none", "model=ae", "data=gaussian_mixture", "data.n_train=64", "data.n_val=10", "ema=ramp")
    folder = trained(tmp_path / "run", *words, "trainer.max_steps=2", "trainer.validate_every=2", "data.batch_size=16")
    assert set(metrics(folder)) == {"reconstruction_error"}


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("schedule=cosine", "schedule"),
        ("net=unet", "net"),
        ("callbacks.frechet.n=20", "callbacks.frechet.n"),
        ("callbacks.samples.n=20", "callbacks.samples.n"),
        ("callbacks.vlb_terms.stride=2", "callbacks.vlb_terms.stride"),
        ("data.conditional=true", "data.conditional=true"),
        ("model.code=0", "model.code=0"),
        ("model.hidden=[0]", "model.hidden"),
        ("model.rho=0.1", "model.rho"),
    ],
)
def test_what_it_has_not_is_refused_by_name(word, named):
    with pytest.raises(UserError) as refusal:
        preflight(["model=ae", word])
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_it_gives_neither_samples_nor_a_likelihood():
    model = Autoencoder(**DIGITS)
    with pytest.raises(ValueError, match="Autoencoder"):
        next(iter(model.sample_states(0, 2)))
    with pytest.raises(ValueError, match="Autoencoder"):
        model.bound_meter()
