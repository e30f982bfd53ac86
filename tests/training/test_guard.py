"""A step that is not finite leaves no trace in weights, moments or counters, and is named in the message."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from ddpm_lab.core.loss import Simple, target_mse
from ddpm_lab.errors import UserError
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.models.contract import Positions
from ddpm_lab.models.vae import VAE
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.guard import NonFiniteGuard, Trained
from ddpm_lab.training.module import TrainingModule

from .support import CONFIG, Recorder, T, adam, fit, module, quiet, weights_of

pytestmark = quiet


class Trap(Simple):
    """The loss becomes `value` for the rows with t in `times`, from the given batch on; "spike" is a part beside "mse"."""

    def __init__(self, value: float, times: tuple[int, ...] = tuple(range(1, T + 1)), after: int = 0) -> None:
        self.value, self.times, self.calls = value, torch.tensor(times), -after

    def parts(self, diffusion, out, noised):
        self.calls += 1
        bad = torch.isin(noised.step.t.flatten().long(), self.times) & (self.calls > 0)
        mse = target_mse(diffusion, out, noised)
        return {"mse": mse, "spike": torch.where(bad, self.value, 0.0) + 0 * mse}


def optimizer_content(optimizer: Any) -> list[torch.Tensor]:
    return [value.clone() for state in optimizer.state.values() for value in state.values()]


def everything(trainer, model) -> list[torch.Tensor]:
    """Weights, both moments and the step counters."""
    return weights_of(model.model.net) + optimizer_content(trainer.optimizers[0])


def failed_fit(tmp_path, model, steps: int = 10):
    """What was there after each good step, what is there after the failure, and the message."""
    before, last = Recorder(everything), {}

    class Keep(Recorder):
        def on_exception(self, trainer, pl_module, exception) -> None:
            last["state"] = everything(trainer, pl_module)

    with pytest.raises(UserError) as caught:
        fit(tmp_path, model, [before, Keep(lambda *_: None)], steps=steps)
    return before.seen, last["state"], str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_at_some_t_is_traced_and_leaves_no_trace(value, tmp_path):
    model = module(loss=Trap(value, times=(3, 5), after=4))
    good, after, message = failed_fit(tmp_path, model)
    assert len(good) == 4
    assert all(torch.equal(a, b) for a, b in zip(good[-1], after, strict=True))
    counters = [x for x in after if x.ndim == 0]
    assert [float(x) for x in counters] == [4.0] * len(counters)
    t = model.trained.positions.values
    wrong = int(((t == 3) | (t == 5)).sum())
    assert 0 < wrong < len(t)
    named = ("loss is not finite", "step 4 (batch 4)", "'spike'", f"{wrong} of 16", "t in [3, 5]", "optim.lr")
    assert all(word in message for word in named)


@pytest.mark.parametrize("predicts", [True, False])
def test_only_a_model_with_a_prediction_is_advised_on_it(predicts):
    model = module().model if predicts else VAE(width=4, latent=2, shape=(1, 4, 4), levels=17, seed=0, config=CONFIG)
    guard, bad = TrainingModule(model, adam()).guard, trained(mse=torch.tensor([float("inf")]))
    with pytest.raises(UserError, match=r"optim\.lr") as caught:
        guard.watch(0, [bad], torch.tensor(1.0), Optimizer())
    assert ("prediction=v" in str(caught.value)) == predicts


class Overflow(torch.autograd.Function):
    """The identity, with a gradient that is infinite."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, float("inf"))


class OverflowOnce(nn.Module):
    """Finite outputs always, an infinite gradient in call number `at`."""

    def __init__(self, net: nn.Module, at: int) -> None:
        super().__init__()
        self.net, self.at, self.calls = net, at, 0

    def forward(self, x, t):
        self.calls += 1
        out = self.net(x, t)
        return Overflow.apply(out) if self.calls == self.at else out


@pytest.mark.parametrize("clip", [1.0, None])
def test_an_infinite_gradient_of_a_finite_loss_is_caught_too(clip, tmp_path):
    net = OverflowOnce(module().model.net, at=3)
    good, after, message = failed_fit(tmp_path, module(net=net, optim=adam(clip=clip)))
    assert len(good) == 2
    assert all(torch.equal(a, b) for a, b in zip(good[-1], after, strict=True))
    assert all(word in message for word in ("gradient is not finite", "step 2 (batch 2)", "'mse'", "optim.lr"))
    assert re.search(r"t in \[1, \d\]", message)


def test_read_every_third_step_the_update_is_still_skipped_at_the_bad_one(tmp_path):
    """Bad in the fifth step (step 4): read with the sixth. The message is about the bad one; the sixth was a good update."""
    model = module(net=OverflowOnce(module().model.net, at=5))
    model.guard = NonFiniteGuard(every=3)
    good, after, message = failed_fit(tmp_path, model)
    assert len(good) == 5
    assert all(torch.equal(a, b) for a, b in zip(good[3], good[4], strict=True))  # the fifth changed nothing
    assert "step 4 (batch 4)" in message
    assert all(torch.isfinite(x).all() for x in after)


def test_what_is_pending_at_the_end_is_read_too(tmp_path):
    model = module(net=OverflowOnce(module().model.net, at=5))
    model.guard = NonFiniteGuard(every=50)
    with pytest.raises(UserError, match="step 4"):
        fit(tmp_path, model, steps=6)


def test_last_checkpoint_is_finite_and_of_the_last_good_step(tmp_path):
    model, checkpoints = module(loss=Trap(float("nan"), after=7)), Checkpoints(1, None)
    with pytest.raises(UserError, match="step 7"):
        fit(tmp_path, model, [EMA(0.5, False), checkpoints], steps=20)
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 7
    for state in (checkpoint["state_dict"], checkpoint["ema/0.5"]):
        assert all(torch.isfinite(value).all() for value in state.values())
    moments = checkpoint["optimizer_states"][0]["state"].values()
    assert all(torch.isfinite(value).all() for state in moments for value in state.values())


def trained(**parts: torch.Tensor) -> Trained:
    n = len(next(iter(parts.values())))
    per_example = torch.stack(list(parts.values())).sum(0)
    return Trained(7, parts, torch.ones(n), per_example, Positions("t", torch.arange(1, n + 1), n), per_example.mean())


class Optimizer:
    """Takes the flags."""

    found_inf: torch.Tensor
    grad_scale: Any = 1


def test_a_finite_step_passes_and_lowers_the_flag_again():
    guard, optimizer = NonFiniteGuard(every=2), Optimizer()
    bad, good = trained(mse=torch.tensor([1.0, float("nan")])), trained(mse=torch.ones(2))
    guard.watch(0, [good], torch.tensor(2.0), optimizer)
    assert (float(optimizer.found_inf), optimizer.grad_scale) == (0, None)
    with pytest.raises(UserError, match=r"step 1 \(batch 7\).*'mse' is nan.* 1 of 2 .*t in \[2, 2\]"):
        guard.watch(1, [bad], torch.tensor(2.0), optimizer)
    assert float(optimizer.found_inf) == 1
    guard.watch(2, [good], torch.tensor(2.0), optimizer)
    assert float(optimizer.found_inf) == 0


def test_the_first_of_several_bad_steps_is_named():
    guard, bad = NonFiniteGuard(every=3), trained(mse=torch.tensor([float("inf")]))
    guard.watch(0, [trained(mse=torch.ones(1))], torch.tensor(1.0), Optimizer())
    guard.watch(1, [bad], torch.tensor(1.0), Optimizer())
    with pytest.raises(UserError, match="step 1 "):
        guard.watch(2, [bad], torch.tensor(1.0), Optimizer())


def test_parts_that_overflow_only_together_are_called_a_loss():
    huge = torch.full((2,), 3e38)
    with pytest.raises(UserError, match="the loss is not finite"):
        NonFiniteGuard(every=1).watch(0, [trained(mse=huge, vlb=huge)], torch.tensor(1.0), Optimizer())


def test_a_bad_piece_of_a_batch_is_named_whichever_it_is():
    bad, good = trained(mse=torch.tensor([1.0, float("nan")])), trained(mse=torch.ones(2))
    with pytest.raises(UserError, match=r"step 0 \(batch 7\).*'mse' is nan"):
        NonFiniteGuard(every=1).watch(0, [bad, good], torch.tensor(float("nan")), Optimizer())


def test_a_piece_of_a_batch_that_was_not_finite_stops_training(tmp_path):
    with pytest.raises(UserError, match=r"step 2 \(batch 2\).*'spike' is nan"):
        fit(tmp_path, module(loss=Trap(float("nan"), times=(3, 5), after=4)), steps=6, accumulate=2)
