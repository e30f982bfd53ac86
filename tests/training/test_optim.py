"""Warm-up, clipping, and that Adam's arguments arrive."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ddpm_lab.core.gamma import Monotone
from ddpm_lab.core.loss import Simple
from ddpm_lab.core.uncertainty import Uncertainty
from ddpm_lab.domains import Incompatible
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.networks import Accompanied
from ddpm_lab.nets.mlp import MLP
from ddpm_lab.nets.unet import UNet
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.muon import Muon
from ddpm_lab.training.optim import Adam, AdamW, Stock

from .support import Recorder, adam, fit, module, quiet

pytestmark = quiet


def rates(tmp_path, optim: Adam, steps: int) -> list[float]:
    """The rate each update used: read before the scheduler moves on, that is, from the one it logs next."""
    seen: list[float] = []

    class Spy(Recorder):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            seen.append(optimizer.param_groups[0]["lr"])

    fit(tmp_path, module(optim=optim), [Spy(lambda *_: None)], steps=steps)
    return seen


def test_rate_rises_from_zero_in_equal_steps(tmp_path):
    """Ho's code: lr · min(step / warmup, 1), the first update being step 0."""
    assert rates(tmp_path, adam(lr=0.02, warmup=4), 7) == pytest.approx([0, 0.005, 0.01, 0.015, 0.02, 0.02, 0.02])


def test_without_warmup_the_rate_is_constant(tmp_path):
    assert rates(tmp_path, adam(lr=0.02, warmup=0), 3) == [0.02, 0.02, 0.02]


def with_gradients(scale: float, seed: int = 0) -> list[nn.Parameter]:
    g = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(2))]
    for p in parameters[:2]:
        p.grad = scale * torch.randn(p.shape, generator=g)
    return parameters  # the last has none


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e6])
@pytest.mark.parametrize("clip", [1.0, 0.1])
def test_clipping_equals_torchs(scale, clip):
    ours, theirs = with_gradients(scale), with_gradients(scale)
    norm = adam(clip=clip).clip_gradients(ours)
    expected = nn.utils.clip_grad_norm_(theirs, clip)
    torch.testing.assert_close(norm, expected)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    after = torch.cat([p.grad.flatten() for p in ours[:2]]).norm()
    assert float(after) == pytest.approx(min(clip, float(norm)), rel=1e-4)


def test_clip_none_measures_and_changes_nothing():
    parameters, untouched = with_gradients(100.0), with_gradients(100.0)
    norm = adam(clip=None).clip_gradients(parameters)
    assert float(norm) == pytest.approx(float(torch.cat([p.grad.flatten() for p in untouched[:2]]).norm()), rel=1e-6)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(parameters[:2], untouched[:2], strict=True))


def test_updates_are_adams_with_every_argument():
    """Against torch's single-tensor Adam on the same gradients."""
    ours, theirs = with_gradients(1.0), with_gradients(1.0)
    choice = Adam(lr=0.1, betas=[0.5, 0.9], eps=0.01, weight_decay=0.3, warmup=0, clip=None)
    a = choice.configure(nn.ParameterList(ours))["optimizer"]
    b = torch.optim.Adam(theirs, lr=0.1, betas=(0.5, 0.9), eps=0.01, weight_decay=0.3, foreach=False, fused=False)
    for _ in range(3):
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)
    assert ours[0].abs().min() > 0


def test_adamws_updates_are_those_of_its_paper():
    """Loshchilov & Hutter 2019, Algorithm 2, written out, down a quadratic in float64."""
    curvature, beta1, beta2, eps, lr, weight_decay = torch.tensor([1.0, 10.0, 0.1]).double(), 0.8, 0.9, 1e-3, 0.05, 0.3
    x = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]).double())
    theta, m, v = x.detach().clone(), torch.zeros(3).double(), torch.zeros(3).double()
    choice = AdamW(lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, warmup=0, clip=None)
    optimizer = choice.configure(nn.ParameterList([x]))["optimizer"]
    for t in range(1, 31):
        x.grad = curvature * x.detach()
        optimizer.step()
        gradient = curvature * theta
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        adam = m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)
        theta = theta - lr * (adam + weight_decay * theta)
        torch.testing.assert_close(x.detach(), theta, rtol=1e-12, atol=1e-14)
    assert float(theta.abs().max()) < 2


def choices(steps: int) -> dict[str, Adam | AdamW | Muon]:
    every = {"lr": 0.02, "warmup": 2, "steps": steps}
    return {
        "adam": Adam(**every, decay="cosine", decay_final=0.1),
        "adamw": AdamW(**every, decay="linear", decay_start=4),
        "muon": Muon(**every, decay="inverse_sqrt"),
    }


def tiny_unet() -> UNet:
    torch.manual_seed(0)
    return UNet(1, 1, 4, channels=8, multipliers=(1, 2), groups=4, attention=(), blocks=1, dropout=0.1)


def assert_same_last(one: Path, other: Path) -> None:
    a, b = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (one, other))
    (states, more), (groups, others) = ([c["optimizer_states"][0][key] for c in (a, b)] for key in ("state", "param_groups"))
    assert groups == others
    torch.testing.assert_close(states, more, rtol=0, atol=0)
    for key in ("global_step", "state_dict", "lr_schedulers", *(key for key in a if key.startswith("ema/"))):
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", choices(9))
def test_a_run_that_goes_on_is_the_unbroken_one_to_the_bit(name, tmp_path):
    def go(folder: str, checkpoint=None):
        model = module(net=tiny_unet(), optim=choices(9)[name])
        trainer = fit(tmp_path / folder, model, [EMA(0.5), Checkpoints(1, 6)], steps=9, checkpoint=checkpoint)
        return trainer.optimizers[0].param_groups[-1]["lr"]

    rates = go("whole"), go("again", tmp_path / "whole" / "checkpoints" / "step_0000006.ckpt")
    assert rates[0] == rates[1] == 0.02 * choices(9)[name].rate(9)
    assert_same_last(tmp_path / "whole", tmp_path / "again")


def test_a_run_whose_decay_knows_no_end_may_be_longer_than_was_planned(tmp_path):
    fit(tmp_path / "whole", module(net=tiny_unet(), optim=choices(9)["muon"]), [Checkpoints(1, None)], steps=9)
    for steps, checkpoint in ((5, None), (9, tmp_path / "longer" / "checkpoints" / "last.ckpt")):
        model = module(net=tiny_unet(), optim=choices(steps)["muon"])
        fit(tmp_path / "longer", model, [Checkpoints(1, None)], steps=steps, checkpoint=checkpoint)
    assert_same_last(tmp_path / "whole", tmp_path / "longer")


def test_one_beta_is_refused():
    with pytest.raises(ValueError, match=r"betas=\[0.9\]: allowed is list of 2 float"):
        Adam(0.1, [0.9], 1e-8, 0.0, 0, None)


def test_the_first_update_with_warmup_moves_nothing(tmp_path):
    model = module(optim=adam(lr=1.0, warmup=10))
    before = [p.detach().clone() for p in model.model.net.parameters()]
    fit(tmp_path, model, steps=1)
    assert all(torch.equal(p, q) for p, q in zip(model.model.net.parameters(), before, strict=True))


# --- optimisers of torch, as they are -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
def test_a_stock_optimiser_updates_as_torchs_own(kind):
    ours, theirs = with_gradients(100.0), with_gradients(100.0)
    choice = Stock(kind, lr=0.1)
    norm = choice.clip_gradients(ours)  # measures, and clips nothing
    assert float(norm) == pytest.approx(float(torch.cat([p.grad.flatten() for p in theirs[:2]]).norm()), rel=1e-6)
    a, b = choice.configure(nn.ParameterList(ours))["optimizer"], kind(theirs, lr=0.1)
    for _ in range(3):
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_a_stock_optimiser_skips_a_step_that_is_not_finite(kind, tmp_path):
    class Broken(Simple):
        def parts(self, diffusion, out, noised):
            return {"mse": torch.nan * super().parts(diffusion, out, noised)["mse"]}

    model = module(optim=Stock(kind, lr=0.1), loss=Broken())
    before = [p.detach().clone() for p in model.model.net.parameters()]
    with pytest.raises(UserError, match="not finite at step 0"):
        fit(tmp_path, model, steps=3)
    assert all(torch.equal(p, q) for p, q in zip(model.model.net.parameters(), before, strict=True))


@pytest.mark.parametrize(("kind", "arguments"), [(torch.optim.RMSprop, {}), (torch.optim.AdamW, {"fused": False})])
def test_an_optimiser_that_could_not_skip_a_step_is_refused(kind, arguments):
    with pytest.raises(Incompatible, match=rf"{kind.__name__} .*AdamW") as caught:
        Stock(kind, lr=0.1, **arguments)
    assert caught.value.arguments == ("optim",)


def test_arguments_that_torch_refuses_are_refused_when_the_choice_is_made():
    with pytest.raises(ValueError, match="learning rate"):
        Stock(torch.optim.AdamW, lr=-1.0)
    with pytest.raises(TypeError, match="warmup"):
        Stock(torch.optim.AdamW, warmup=5)


@pytest.mark.parametrize("kind", [Adam, AdamW, Muon])
def test_what_is_learned_beside_a_network_does_not_decay(kind):
    """Gradients of 0 move what decays, and nothing else."""
    choice = kind(lr=0.1, weight_decay=0.5, warmup=0)
    net = Accompanied(MLP(2, 2), Monotone(-5.0, 5.0, 4, True), Uncertainty(3))
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(1.0)
    beside = {id(p) for part in (net.path, net.uncertainty) for p in part.parameters()}
    optimizer = choice.make(net)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(bool((p == 1).all()) == (id(p) in beside) for p in net.parameters())
    assert len(choice.make(MLP(2, 2)).param_groups) == (2 if kind is Muon else 1)
