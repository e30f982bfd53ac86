"""No step of training waits for the device, and the numbers are those of the CPU."""

from collections import Counter

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from pretended import DEVICE, pretended

from ddpm_lab.core.loss import VLB, Hybrid, Simple
from ddpm_lab.core.timesteps import Importance, Uniform
from ddpm_lab.core.variance import Beta, LearnedRange
from ddpm_lab.errors import UserError
from ddpm_lab.training.callbacks.progress import LossQuartiles, Throughput
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.guard import NonFiniteGuard

from .support import Dots, Linear, Recorder, fit, module, quiet, same, weights_of
from .test_guard import Optimizer, trained

pytestmark = quiet
LOSSES = {
    "simple": (Simple, Beta, Uniform),
    "hybrid": (Hybrid, LearnedRange, Uniform),
    "vlb": (VLB, Beta, lambda: Importance(history=1)),
}


class Anywhere(CPUAccelerator):
    """Lightning's own takes no device but the CPU."""

    def setup_device(self, device: torch.device) -> None: ...


def run(folder, name, monkeypatch, waits=lambda: {}, on_device=False):
    """Nine steps with a row after the fifth. Returns what `waits` counted in each step but the first, the raw weights and the
    averages, and the state of the choice of t."""
    loss, variance, timesteps = LOSSES[name]
    model = module(loss=loss(), variance=variance(), net=Linear((1, 4, 4), variance.n_outputs, dropout=0.1))
    model.model.timesteps, model.guard = timesteps(), NonFiniteGuard(every=3)
    data, counted = Dots(), Recorder(lambda *_: Counter(waits()))
    data.flip, data.on_device = True, on_device
    trainer = fit(
        folder, model, [LossQuartiles(), Throughput(), EMA(0.5, also=(0.9,)), counted], data=data, steps=9, log_every=5
    )
    assert (trainer.train_dataloader.raw.device == DEVICE) == on_device
    steps = [after - before for before, after in zip(counted.seen, counted.seen[1:], strict=False)]
    nets = [model.model.net, *(average.net.cpu() for average in model.averages.values())]
    weights = [weight for net in nets for weight in weights_of(net)]
    return steps, weights, list(model.model.training_state().values())


@pytest.mark.parametrize(("name", "on_device"), [*((name, False) for name in LOSSES), ("simple", True)])
def test_no_step_waits_for_the_device(name, on_device, tmp_path, monkeypatch):
    """But for the one that is logged: losses with their weights, and the norm of the gradient. Dropout and flips are on, and
    the data live there or not."""
    with pretended() as device:
        strategy = SingleDeviceStrategy(DEVICE, accelerator=Anywhere())
        with monkeypatch.context() as patched:
            patched.setattr("ddpm_lab.training.trainer._place", lambda *_: {"accelerator": "auto", "strategy": strategy})
            steps, weights, state = run(tmp_path / "device", name, monkeypatch, lambda: device.waits, on_device)
    row = steps.pop(3)
    assert sum(row.values()) == 2
    assert steps == [Counter()] * 7
    assert device.counts["copy: _to_copy"] >= 5 * 9  # data, noise, times, coefficients and weights
    _, expected, expected_state = run(tmp_path / "cpu", name, monkeypatch)
    assert same(weights, expected)
    assert same(state, expected_state)


def test_a_step_that_is_not_finite_is_named_once_the_next_one_runs():
    """On a device each reading leaves the flag of the last step for the next."""
    good, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    with pretended() as device:
        guard = NonFiniteGuard(every=2)
        norm, parts = torch.tensor(1.0).to(DEVICE), [x.to(DEVICE) for x in (good, bad, good)]
        guard.watch(0, [trained(mse=parts[0])], norm, Optimizer())
        before = device.waits
        guard.watch(1, [trained(mse=parts[1])], norm, Optimizer())
        assert device.waits == before
        with pytest.raises(UserError, match=r"step 1 .*'mse' is nan"):
            guard.watch(2, [trained(mse=parts[2])], norm, Optimizer())
