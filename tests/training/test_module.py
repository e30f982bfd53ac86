"""The training step by hand, and samples that depend on nothing but their seed and index."""

import pytest
import torch

from ddpm_lab.core import rng
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.sampler import DDIM, Ancestral
from ddpm_lab.core.timesteps import Drawn, Uniform
from ddpm_lab.data.gaussian_mixture import GaussianMixture
from ddpm_lab.training.ema import EMA

from .support import Dots, Linear, T, fit, hybrid, module, quiet, same, weights_of

pytestmark = quiet


def batch(n: int = 16, counter: int = 3, first: int = 0) -> Batch:
    g = torch.Generator().manual_seed(counter)
    return Batch(torch.randint(17, (n, 1, 4, 4), generator=g) / 8 - 1, counter, first, n)


def alphas_bar() -> list[float]:
    """Of support.module's schedule, from the formula."""
    found = [1.0]
    for i in range(T):
        found.append(found[-1] * (1 - (0.01 + (0.7 - 0.01) * i / (T - 1))))
    return found


@pytest.mark.parametrize("first", [0, 40, 100])
def test_loss_is_algorithm_1_with_the_draws_of_its_address(first):
    model, data = module(seed=5), batch(first=first)
    u = rng.uniform(5, "t", 3, first, first + 16)
    eps = rng.normal((1, 4, 4), 5, "noise", 3, first, first + 16).double()
    ab, total = alphas_bar(), 0.0
    weight, bias = (p.detach().double() for p in model.model.net.map.parameters())
    for i in range(16):
        t = int(float(u[i]) * T) + 1
        xt = ab[t] ** 0.5 * data.x0[i].double() + (1 - ab[t]) ** 0.5 * eps[i]
        out = weight @ torch.cat([xt.flatten(), torch.tensor([t / T]).double()]) + bias
        total += float(((out - eps[i].flatten()) ** 2).mean()) / 16
    assert float(model.training_step(data, 0).detach()) == pytest.approx(total, rel=1e-5)
    assert model.trained.positions.values.tolist() == [int(float(x) * T) + 1 for x in u]


def test_what_callbacks_see_is_what_was_trained_on():
    model = hybrid()
    loss = model.training_step(batch(), 0)
    trained = model.trained
    assert (trained.counter, len(trained.positions.values)) == (3, 16)
    assert list(trained.parts) == ["mse", "vlb"]
    torch.testing.assert_close(trained.per_example, trained.parts["mse"] + trained.parts["vlb"])
    torch.testing.assert_close(trained.per_example.mean(), loss.detach())
    assert torch.equal(trained.loss, loss.detach())
    assert loss.requires_grad
    assert not any(x.requires_grad for x in (trained.per_example, trained.loss, *trained.parts.values()))


def test_weights_of_the_timesteps_weigh_the_loss():
    class Rising(Uniform):
        def __call__(self, u, T, first, size):
            return Drawn(torch.ones(len(u), dtype=torch.long), torch.arange(len(u), dtype=torch.float64))

    model = module()
    model.model.timesteps = Rising()
    loss = float(model.training_step(batch(), 0).detach())
    expected = float((torch.arange(16) * model.trained.per_example).mean())
    assert loss == pytest.approx(expected, rel=1e-6)


def test_two_slices_of_a_batch_see_what_the_whole_sees():
    """Rank 1 of 2 draws the numbers of its own rows."""
    model, whole = module(), batch(16)
    model.training_step(whole, 0)
    expected = model.trained
    for first in (0, 8):
        model.training_step(Batch(whole.x0[first : first + 8], 3, first, 16), 0)
        assert torch.equal(model.trained.positions.values, expected.positions.values[first : first + 8])
        torch.testing.assert_close(model.trained.per_example, expected.per_example[first : first + 8])


def test_dropout_is_a_function_of_the_batch_number():
    """What is dropped, and so the loss, whatever torch's generator was doing; the next batch drops others."""
    model, dropped = module(net=Linear((1, 4, 4), dropout=0.5)), []
    model.model.net.dropout.register_forward_hook(lambda _, inputs, output: dropped.append((output == 0) & (inputs[0] != 0)))
    losses = []
    for counter in (3, 3, 4):
        torch.rand(100)
        losses.append(float(model.training_step(Batch(batch().x0, counter, 0, 16), 0).detach()))
    assert losses[0] == losses[1]
    assert torch.equal(dropped[0], dropped[1])
    assert not torch.equal(dropped[0], dropped[2])
    assert 0.3 < dropped[0].float().mean() < 0.7
    assert not torch.equal(dropped[0][0], dropped[0][1])


def test_raw_state_dict_has_only_the_network(tmp_path):
    model = module()
    fit(tmp_path, model, [EMA(0.9, False)], steps=1)
    assert set(model.state_dict()) == {"net.map.weight", "net.map.bias"}


@pytest.mark.parametrize("sampler", [Ancestral(), Ancestral(4), DDIM(3), DDIM(5, eta=1.0)])
def test_fewer_samples_are_the_first_of_many_whatever_the_batch(sampler):
    model = module(sampler=sampler)
    many = model.model.sample(10)
    assert many.shape == (10, 1, 4, 4)
    for n, size in ((4, 256), (4, 1), (10, 3), (10, 10), (7, 4)):
        torch.testing.assert_close(model.model.sample(n, batch=size), many[:n], rtol=0, atol=1e-5)
    assert (many[0] - many[1]).abs().max() > 0.01


def test_samples_beyond_a_block_of_random_numbers_agree_too():
    model = module()
    torch.testing.assert_close(model.model.sample(130, batch=50), model.model.sample(200)[:130], rtol=0, atol=1e-5)


def test_samples_follow_the_seed_and_not_torchs_generator():
    model = module()
    torch.manual_seed(0)
    first = model.model.sample(5, seed=1)
    torch.manual_seed(1)
    assert torch.equal(model.model.sample(5, seed=1), first)
    assert not torch.equal(model.model.sample(5, seed=2), first)


def test_sampling_is_algorithm_2_with_the_draws_of_its_address():
    model = module(seed=9)
    ab, schedule = alphas_bar(), model.model.diffusion.schedule
    x = rng.normal((1, 4, 4), 2, "sampling", 0, 0, 3).double()
    net = model.model.net.double()
    for t in range(T, 0, -1):
        beta = 1 - ab[t] / ab[t - 1]
        with torch.no_grad():
            eps = net(x, torch.full((3,), t))
        x0 = ((x - (1 - ab[t]) ** 0.5 * eps) / ab[t] ** 0.5).clamp(-1, 1)
        mean = (ab[t - 1] ** 0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - ab[t - 1]) * x) / (1 - ab[t])
        z = rng.normal((1, 4, 4), 2, "sampling", t, 0, 3).double() if t > 1 else 0
        x = mean + beta**0.5 * z
    net.float()
    torch.testing.assert_close(model.model.sample(3, seed=2).double(), x, rtol=0, atol=1e-5)
    assert schedule.T == T


def test_training_state_is_untouched_by_sampling():
    model = module(net=Linear((1, 4, 4), dropout=0.5))
    state, before = torch.get_rng_state(), weights_of(model.model.net)
    model.model.net.train()
    model.model.sample(3)
    assert model.model.net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert same(weights_of(model.model.net), before)
    model.model.net.eval()
    model.model.sample(3)
    assert not model.model.net.training
    samples = model.model.sample(2)
    assert (samples.requires_grad, samples.is_inference()) == (False, False)


def test_mode_is_put_back_when_sampling_breaks_off():
    model = module()
    model.model.net.train()
    states = model.model.sample_states(0, 2)
    next(states)
    assert not model.model.net.training  # no average: the network itself samples
    states.close()
    assert model.model.net.training


def test_no_samples_are_no_error():
    assert module().model.sample(0).shape == (0, 1, 4, 4)


def test_vectors_train_and_sample_too(tmp_path):
    model = module(shape=(2,), levels=None)
    data = GaussianMixture(n_train=100, n_val=10, batch_size=16)
    before = weights_of(model.model.net)
    fit(tmp_path, model, data=data, steps=3)
    assert not same(weights_of(model.model.net), before)
    assert model.model.sample(5).shape == (5, 2)
    assert model.model.sample(200).abs().max() > 1  # not clipped


def test_a_run_is_a_function_of_its_seed(tmp_path):
    runs = [module(seed=seed, net=Linear((1, 4, 4), dropout=0.3)) for seed in (0, 0, 1)]
    for i, model in enumerate(runs):
        torch.manual_seed(i)
        fit(tmp_path / str(i), model, data=Dots(), steps=4)
    a, b, c = (weights_of(model.model.net) for model in runs)
    assert same(a, b)
    assert not same(a, c)
