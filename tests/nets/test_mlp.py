"""The residual perceptron: what it must do before, during and after training."""

import pytest
import torch
from torch.testing import assert_close

from ddpm_lab.domains import Incompatible
from ddpm_lab.nets.mlp import MLP, PerceptronBlock


def batch(n: int = 8, dim: int = 2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, dim, generator=generator), torch.arange(1, n + 1) * 100


def randomise(net):
    """Away from the initial zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return net


def test_initial_output_is_zero_and_initial_blocks_are_the_identity():
    x, t = batch()
    assert (MLP(2, 4)(x, t) == 0).all()
    h, emb = torch.randn(8, 16), torch.randn(8, 16)
    assert torch.equal(PerceptronBlock(16, dropout=0.0)(h, emb), h)


def test_output_reads_every_input_and_the_time():
    net = randomise(MLP(2, 3, width=32).double())
    x, t = batch()
    x = x.double().requires_grad_()
    out = net(x, t)
    assert out.shape == (8, 3)
    for k in range(3):
        (grad,) = torch.autograd.grad(out[:, k].sum(), x, retain_graph=True)
        assert (grad.abs() > 1e-6).all()
    assert ((net(x, t + 1) - out).abs().amax(dim=1) > 1e-3).all()
    assert_close(net(x, t.double()), out)  # a time is a time, integer or not
    assert_close(net(x[3:4], t[3:4]), out[3:4])  # no sample reads another


def test_gradient_reaches_every_parameter():
    net = randomise(MLP(2, 2, width=16))
    net(*batch()).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())


def test_learning_starts_from_the_zeros():
    """With every branch and the output at zero, one step must reach the output and a second the branches."""
    net = MLP(2, 2, width=16, blocks=2)
    x, t = batch()
    before = {name: p.clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x, t) - x).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_it_learns_a_function_of_x_and_t():
    torch.manual_seed(0)
    net = MLP(2, 2, width=64, blocks=2)
    x, t = torch.randn(64, 2), torch.randint(1, 1001, (64,))
    target = x * torch.cos(t / 200)[:, None]
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(400):
        loss = (net(x, t) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3 * target.square().mean()


def test_dropout_acts_in_training_only():
    net = randomise(MLP(2, 2, width=32, dropout=0.5))
    x, t = batch()
    assert not torch.equal(net.train()(x, t), net(x, t))
    assert torch.equal(net.eval()(x, t), net(x, t))


def test_state_dict_holds_parameters_only():
    net = MLP(2, 2)
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}


def test_images_are_refused():
    with pytest.raises(Incompatible) as error:
        MLP(1, 1, size=8)
    assert error.value.arguments == ("net", "data")
