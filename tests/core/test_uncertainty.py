"""Learned uncertainty: where it is least, that it is found, and with what it does not go."""

import pytest
import torch

from ddpm_lab.core.path import marginal
from ddpm_lab.core.schedule import cosine
from ddpm_lab.core.timesteps import Importance, Uniform
from ddpm_lab.core.types import Incompatible
from ddpm_lab.core.uncertainty import Uncertainty, uncertain

from .support import Setting, assert_close, diffusion_of, make, options

F64 = torch.float64
SQUARED = {"simple", "min_snr", "p2", "truncated_snr", "constant_weight", "edm"}


def test_it_is_least_where_e_to_u_is_the_mean_loss():
    losses = torch.tensor([0.1, 3.0, 0.7, 12.0], dtype=F64)
    u = losses.mean().log().requires_grad_()
    value = sum(uncertain({"a": 0.25 * losses, "b": 0.75 * losses}, u.expand(4)).values()).mean()
    (slope,) = torch.autograd.grad(value, u)
    assert_close(slope, 0.0)
    assert_close(value, 1 + losses.mean().log())
    for other in (-0.1, 0.1):
        assert sum(uncertain({"a": losses}, (u + other).expand(4)).values()).mean() > value


def test_it_converges_to_the_mean_loss_of_each_noise_level():
    """Noisy losses, whose mean is a power of σ with a bend in it, at every t of a schedule."""
    at_t = marginal(cosine(200).alphas_bar[1:-1])
    log_sigma = at_t.sigma.log()
    mean = torch.exp(-0.8 * log_sigma + torch.sin(log_sigma))
    g = torch.Generator().manual_seed(0)
    factors = torch.rand(50, len(mean), generator=g, dtype=F64) + 0.5
    losses, u = mean * factors / factors.mean(0), Uncertainty().double()
    assert torch.equal(u(at_t), torch.zeros(len(mean), dtype=F64))
    optimizer = torch.optim.LBFGS(u.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = sum(uncertain({"mse": losses.flatten()}, u(at_t).repeat(len(losses))).values()).mean()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    assert (u(at_t) - mean.log()).abs().max() < 0.02


@pytest.mark.parametrize("loss", options("loss"))
def test_losses_that_are_squared_errors_take_it(loss):
    diffusion = diffusion_of(cosine(10), Setting("v"))
    if loss in SQUARED:
        Uncertainty().check(diffusion, make("loss", loss), Uniform())
    else:
        with pytest.raises(Incompatible) as error:
            Uncertainty().check(diffusion, make("loss", loss), Uniform())
        assert error.value.arguments == ("uncertainty", "loss")


@pytest.mark.parametrize(
    ("schedule", "timesteps", "names"),
    [("cosine", Importance(), ("uncertainty", "timesteps")), ("zero_terminal_snr", Uniform(), ("uncertainty", "schedule"))],
)
def test_what_does_not_go_with_it(schedule, timesteps, names):
    with pytest.raises(Incompatible) as error:
        Uncertainty().check(diffusion_of(make("schedule", schedule), Setting("v")), make("loss", "simple"), timesteps)
    assert error.value.arguments == names
