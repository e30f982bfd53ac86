"""The VAE against linear-Gaussian models, whose evidence is known, and against sums over all data."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import trained
from torch import nn
from torch.distributions import MultivariateNormal

from ddpm_lab.core.grey import quantise
from ddpm_lab.domains import Incompatible
from ddpm_lab.models.vae import VAE

from .runs import SHORT, pictures

D, K = 5, 2


def made(shape=(D,), levels=None, **settings) -> VAE:
    return VAE(**settings, shape=shape, levels=levels, seed=3, config={}).double()


class Affine(nn.Module):
    """x -> [xWᵀ + b, constant log variances], in the shape that coders give."""

    def __init__(self, weight, bias, log_var) -> None:
        super().__init__()
        self.weight, self.bias, self.log_var = (nn.Parameter(value) for value in (weight, bias, log_var))

    def forward(self, x):
        return torch.cat([x @ self.weight.T + self.bias, self.log_var.expand(len(x), -1)], 1)


@pytest.fixture(scope="module")
def linear():
    """x = Az + b + σn with orthogonal columns of A, so that the posterior is diagonal; and the density of x."""
    g = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64))[0][:, :K]
    A, b, variance = directions * torch.tensor([1.5, 0.7]), torch.randn(D, generator=g, dtype=torch.float64), 0.3
    precision = 1 + (A**2).sum(0) / variance
    posterior = A.T / variance / precision[:, None]
    model = made(latent=K)
    model.net.encoder = Affine(posterior, -posterior @ b, -precision.log())
    model.net.decoder = Affine(A, b, torch.full((D,), math.log(variance), dtype=torch.float64))
    evidence = MultivariateNormal(b, A @ A.T + variance * torch.eye(D, dtype=torch.float64))
    draws = torch.randn(400, D, generator=g, dtype=torch.float64)
    return model, evidence.mean + draws @ evidence.scale_tril.T, evidence


def iwae(model: VAE, x, k: int, draws: int = 1, seed: int = 1):
    """Mean over `draws` of the importance-weighted bound, in nats of each datum."""
    eps = torch.randn(draws, k, len(x), K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = torch.stack([torch.stack([model.log_weight(x, one) for one in some]) for some in eps])
    return (weights.logsumexp(1) - math.log(k)).mean(0)


def test_with_the_exact_posterior_every_bound_is_the_evidence(linear):
    model, x, evidence = linear
    for k in (1, 7):
        torch.testing.assert_close(iwae(model, x, k), evidence.log_prob(x), atol=1e-9, rtol=0)
    bits = model.readings(seed=0)["iwae_bpd"].of(x, torch.arange(len(x)))
    torch.testing.assert_close(bits, -evidence.log_prob(x) / (D * math.log(2)), atol=1e-9, rtol=0)


def test_with_another_posterior_more_draws_are_closer_to_the_evidence(linear):
    model, x, evidence = linear
    other = made(latent=K)
    other.load_state_dict(made(latent=K).state_dict())
    other.net.decoder = model.net.decoder
    given = model.net.encoder
    other.net.encoder = Affine(given.weight.data, given.bias.data + 0.4, given.log_var.data + 0.6)
    g = torch.Generator().manual_seed(2)
    bounds = [iwae(other, x, k, draws=20) for k in (1, 4, 16)] + [evidence.log_prob(x)]
    for lower, higher in itertools.pairwise(bounds):
        difference = higher - lower
        assert difference.mean() > 3 * difference.std() / math.sqrt(len(x))
    parts = [other.summands(x, eps) for eps in torch.randn(300, len(x), K, generator=g, dtype=torch.float64)]
    elbo = torch.stack([-(one["reconstruction"] + one["kl"]).mean() for one in parts]) * D * math.log(2)
    kl_to_posterior = 0.5 * (0.4**2 * torch.exp(-given.log_var) + math.expm1(0.6) - 0.6).sum()
    expected = evidence.log_prob(x).mean() - kl_to_posterior
    assert abs(elbo.mean() - expected) < 4 * elbo.std() / math.sqrt(len(elbo))


@pytest.mark.parametrize("scale", ["shared", "output"])
def test_samples_have_the_probabilities_of_the_model(scale):
    """Over all data of three pixels and two grey levels, by quadrature over one latent dimension."""
    model = made((3,), levels=2, latent=1, width=8, scale=scale)
    for parameter in model.net.decoder.parameters():
        parameter.data *= 3
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    z, w = torch.tensor(nodes)[:, None], torch.tensor(weights / math.sqrt(2 * math.pi))
    data = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    p = torch.stack([(w * model.log_likelihood(x.expand(60, 3), z).exp()).sum() for x in data])
    assert p.sum().item() == pytest.approx(1, abs=1e-9)
    samples = quantise(model.sample(20_000, seed=5), 2)
    found = torch.stack([(samples == x).all(1).double().mean() for x in data])
    assert ((found - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt() + 1e-3).all()  # 1e-3: of the decoder's Φ
    assert (p > 0.03).sum() > 3


def test_draws_are_addressed_by_index():
    model = made((1, 8, 8), levels=17, architecture="conv", width=8)
    numbers = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = quantise(numbers * 2 - 1, 17)
    whole, parts = model.bound_meter(), model.bound_meter()
    whole.add(x, 0)
    parts.add(x[:2], 0)
    parts.add(x[2:], 2)
    np.testing.assert_allclose(whole.arrays()["per_datum_bpd"], parts.arrays()["per_datum_bpd"], rtol=1e-12)
    assert sum(part.value for part in whole.parts()) == pytest.approx(whole.result().total_bpd)
    one = torch.cat([state.x for state in model.sample_states(3, 5, seed=1)])
    torch.testing.assert_close(model.sample(5, seed=1)[3:], one, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(2,), (1, 6, 6)])
def test_convolutions_are_refused_where_they_do_not_fit(shape):
    with pytest.raises(Incompatible, match="multiple of 4"):
        made(shape, architecture="conv")


def test_a_run_without_a_validation_leaves_pictures(tmp_path):
    words = ("model=vae", "trainer.max_steps=2", "trainer.validate_every=3", *SHORT)
    folder = trained(tmp_path / "run", *[word for word in words if "validate_every=4" not in word])
    assert pictures(folder) == {f"{name}_0000002.png" for name in ("reconstruction", "interpolation", "step")}
