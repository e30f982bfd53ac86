"""Muon: against its update written out and exact orthogonal factors; which weights it takes; steps that are not finite."""

import copy

import pytest
import torch
from helpers import TINY
from torch import nn

from ddpm_lab.domains import Incompatible
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.networks import Accompanied
from ddpm_lab.nets.head import Head
from ddpm_lab.nets.mlp import MLP
from ddpm_lab.nets.unet import UNet
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.muon import Muon, MuonWithAdamW, hidden_kernels

from .support import fit, module, quiet
from .test_guard import OverflowOnce

pytestmark = quiet


def unet(classes: int | None = None) -> UNet:
    return UNet(1, 1, 4, channels=8, multipliers=(1, 2), groups=4, attention=(4,), blocks=1, dropout=0.1, classes=classes)


def with_gradients(net: nn.Module, scale: float = 1.0, seed: int = 0) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.grad = torch.empty_like(p).copy_(scale * torch.randn(p.shape, generator=g))


def all_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Copies of weights, momenta, moments and counters."""
    return [p.detach().clone() for p in net.parameters()] + [v.clone() for s in optimizer.state.values() for v in s.values()]


def stepped(
    net: nn.Module, optimizer: torch.optim.Optimizer, scale: float = 1.0, found_inf: float = 0.0, seed: int = 0
) -> None:
    with_gradients(net, scale, seed)
    optimizer.found_inf = torch.tensor(found_inf)
    optimizer.step()


def test_it_takes_the_layers_between_the_first_and_the_last():
    """Of all that torch calls a linear layer or a convolution, by name."""
    net = unet(classes=3)
    taken = {id(kernel) for kernel in hidden_kernels(net)}
    names = {name for name, p in net.named_parameters() if id(p) in taken}
    matrices = {name for name, p in net.named_parameters() if p.ndim > 1}
    assert matrices - names == {"down.0.enter.weight", "up.1.leave.2.weight", "classes.weight"}
    assert all(name.endswith("weight") for name in names)


def test_the_ends_of_each_network_take_the_data_and_give_the_output():
    for net, inputs, outputs in ((unet(), 1, 1), (MLP(3, 5), 3, 5), (Head(6, 2, True), 6, 2), (Head(6, 2, False), 6, 2)):
        first, last = net.ends
        assert (first.weight.shape[1], last.weight.shape[0]) == (inputs, outputs)


def test_a_network_without_hidden_layers_is_refused():
    for net in (nn.Linear(2, 2), Head(6, 2, True, layers=1)):
        for one in (net, Accompanied(net)):
            with pytest.raises(Incompatible, match=type(net).__name__) as caught:
                Muon().check(one)
            assert caught.value.arguments == ("optim", "net")


@pytest.mark.parametrize(
    ("words", "beside"), [(("schedule=learned", "loss=vlb"), "net.path."), (("uncertainty=learned",), "net.uncertainty.")]
)
def test_what_is_learned_beside_the_network_is_trained_by_adamw(words, beside, run_of):
    """Kernels have a momentum alone, all else the two moments of Adam."""
    run = run_of(*TINY, "optim=muon", "optim.warmup=0", *words)
    stored = read_checkpoint(run / "checkpoints" / "last.ckpt")
    (optimizer,), weights = stored["optimizer_states"], stored["state_dict"]
    shapes = [
        tuple(weights[name].shape) for name in weights if name.startswith(beside) and not name.endswith(("first", "rise"))
    ]
    of_adamw = [entry for entry in optimizer["state"].values() if "exp_avg_sq" in entry]
    found = [tuple(entry["exp_avg_sq"].shape) for entry in of_adamw[-len(shapes) :]]
    assert sorted(found) == sorted(shapes)
    assert all(bool((entry["exp_avg_sq"] > 0).any()) for entry in of_adamw[-len(shapes) :])
    assert len(of_adamw) < len(optimizer["state"])
    assert [group["weight_decay"] for group in optimizer["param_groups"]] == [0.01, 0.01, 0.0]


def test_gradients_do_not_outlive_the_step():
    net = unet()
    optimizer = Muon(lr=0.1, warmup=0).make(net)
    stepped(net, optimizer)
    assert all(view.grad is None for view in optimizer.param_groups[0]["params"])


@pytest.mark.parametrize("channels_last", [False, True])
def test_updates_are_the_orthogonal_factor_of_the_momentum(channels_last):
    """Liu et al. 2025: W ← (1 − η λ) W − 0.2 η √max(n, m) U Vᵀ of the Nesterov momentum. Newton–Schulz leaves singular values
    of about 0.7 to 1.2 where U Vᵀ has 1."""
    net = unet()
    net.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    kernels = hidden_kernels(net)
    optimizer = Muon(lr=0.1, momentum=0.9, weight_decay=0.2, warmup=0).make(net)
    momenta = [torch.zeros_like(kernel) for kernel in kernels]
    for seed in range(3):
        before = [kernel.detach().clone() for kernel in kernels]
        stepped(net, optimizer, seed=seed)
        for kernel, weight, momentum in zip(kernels, before, momenta, strict=True):
            assert kernel.grad is not None
            momentum.lerp_(kernel.grad, 0.1)
            u, _, vh = torch.linalg.svd((0.1 * kernel.grad + 0.9 * momentum).flatten(1).double(), full_matrices=False)
            rows, columns = weight.flatten(1).shape
            step = ((1 - 0.1 * 0.2) * weight - kernel.detach()).flatten(1).double() / (0.1 * 0.2 * max(rows, columns) ** 0.5)
            shares = (u.T @ step @ vh.T).diagonal()  # of the exact factor: 1 each
            assert shares.min() > 0.2
            assert shares.max() < 1.3
            assert (u.T @ step @ vh.T - shares.diag()).abs().max() < 0.1


def test_memory_formats_give_one_update():
    nets = [unet(), unet()]
    nets[1].load_state_dict(nets[0].state_dict())
    nets[1].to(memory_format=torch.channels_last)
    for net in nets:
        stepped(net, Muon(lr=0.1, warmup=0).make(net))
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=5e-3, rtol=0)  # bfloat16: updates are of the size 0.02


def test_other_weights_move_as_torchs_adamw_moves_them():
    net, twin = unet(), unet()
    twin.load_state_dict(net.state_dict())
    optimizer = Muon(lr=0.1, betas=(0.5, 0.9), eps=0.01, weight_decay=0.3, warmup=0).make(net)
    theirs = torch.optim.AdamW(
        twin.parameters(), lr=0.1, betas=(0.5, 0.9), eps=0.01, weight_decay=0.3, fused=False, foreach=False
    )
    for seed in range(3):
        stepped(net, optimizer, seed=seed)
        with_gradients(twin, seed=seed)
        theirs.step()
    taken = set(map(id, hidden_kernels(net)))
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert (id(p) in taken) or torch.allclose(p, q, atol=1e-6)
        assert (id(p) not in taken) or not torch.allclose(p, q, atol=1e-2)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_step_that_is_not_finite_changes_nothing(steps):
    """Weights, momenta, moments and counters; the next good step is that of a run which never saw it."""
    net = unet()
    optimizer = Muon(lr=0.1, weight_decay=0.1, warmup=0).make(net)
    for seed in range(steps):
        stepped(net, optimizer, seed=seed)
    twin = copy.deepcopy(net)
    other = Muon(lr=0.1, weight_decay=0.1, warmup=0).make(twin)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = all_of(net, optimizer)
    stepped(net, optimizer, scale=float("nan"), found_inf=1.0)
    after = all_of(net, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, after[: len(before)], strict=True))
    assert all(not value.any() for value in after[len(before) :])  # what the first step made begins at 0
    for one, its in ((net, optimizer), (twin, other)):
        stepped(one, its, seed=9)
    assert all(torch.equal(a, b) for a, b in zip(all_of(net, optimizer), all_of(twin, other), strict=True))


@pytest.mark.parametrize("at", [1, 4])
def test_training_stops_at_a_gradient_that_is_not_finite_with_all_as_it_was(at, tmp_path):
    class Ends(OverflowOnce):
        ends = property(lambda self: self.net.ends)

    model = module(net=Ends(unet(), at=at), optim=Muon(lr=0.01, warmup=0))
    start = [p.detach().clone() for p in model.model.net.parameters()]
    with pytest.raises(Exception, match=f"gradient is not finite at step {at - 1} "):
        fit(tmp_path, model, [EMA(0.5), averages := Checkpoints(1, None)], steps=6)
    assert averages.best is None
    weights = list(model.model.net.parameters())
    assert all(p.isfinite().all() for p in [*weights, *model.averages["ema/0.5"].net.parameters()])
    if at == 1:
        assert all(torch.equal(p, q) for p, q in zip(weights, start, strict=True))


def test_a_loaded_state_goes_on_in_both():
    net, twin = unet(), unet()
    optimizer = Muon(lr=0.1, warmup=0).make(net)
    stepped(net, optimizer)
    twin.load_state_dict(net.state_dict())
    other = Muon(lr=0.1, warmup=0).make(twin)
    assert isinstance(other, MuonWithAdamW)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((net, optimizer), (twin, other)):
        stepped(one, its, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(all_of(net, optimizer), all_of(twin, other), strict=True))
