"""The average of the weights: its recursion, its place, and that it never gets in the way of training."""

import math

import pytest
import torch
from lightning import Callback
from torch import nn

from ddpm_lab.core.sampler import Ancestral
from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.ema import EMA, HalfLife

from .support import Linear, Recorder, adam, fit, module, quiet, same, weights_of

pytestmark = quiet


def recursion(start: list, history: list[list], rate) -> list[torch.Tensor]:
    """average ← d · average + (1 − d) · weights in float64, written out."""
    average = [w.double() for w in start]
    for n, weights in enumerate(history):
        d = rate(n)
        average = [d * a + (1 - d) * w.double() for a, w in zip(average, weights, strict=True)]
    return average


def net_of(ema: EMA) -> nn.Module:
    """The one that evaluation uses."""
    return next(iter(ema.models.values())).net


RATES = {
    (0.9, False): lambda n: 0.9,
    (0.5, True): lambda n: min(0.5, (1 + n) / (10 + n)),
    (0.9999, True): lambda n: (1 + n) / (10 + n),
    (0.0, False): lambda n: 0.0,
}


@pytest.mark.parametrize(("decay", "ramp"), RATES)
def test_average_follows_the_recursion(decay, ramp, tmp_path):
    model, ema = module(), EMA(decay, ramp)
    start, weights = weights_of(model.model.net), Recorder(lambda trainer, module: weights_of(module.model.net))
    fit(tmp_path, model, [weights, ema], steps=20)
    assert len(weights.seen) == 20
    expected = recursion(start, weights.seen, RATES[decay, ramp])
    for a, b in zip(net_of(ema).parameters(), expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-6)
    assert (same(weights_of(net_of(ema)), weights_of(model.model.net))) == (decay == 0)


@pytest.mark.parametrize(("images", "ramp"), [(40, 1e9), (10**6, 0.05), (100, 0.5)])
def test_a_half_life_in_images_halves_the_weight_of_the_past(images, ramp, tmp_path):
    model, ema = module(), HalfLife(images, ramp)
    start, weights = weights_of(model.model.net), Recorder(lambda trainer, module: weights_of(module.model.net))
    fit(tmp_path, model, [weights, ema], steps=20)
    batch, halved = model.data.batch_size, lambda n: min(images, ramp * n * batch)
    expected = recursion(start, weights.seen, lambda n: math.exp(-batch * math.log(2) / halved(n)) if n else 0.0)
    for a, b in zip(net_of(ema).parameters(), expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-6)
    steps = images // batch
    assert math.prod(ema.rate(images, 10**9) for _ in range(steps)) == pytest.approx(0.5 ** (steps * batch / images))
    assert list(model.averages) == [f"ema/{images}"]


@pytest.mark.parametrize(("decay", "ramp"), [(0.9, False), (0.9999, True)])
def test_average_of_a_resumed_run_is_that_of_an_unbroken_one(decay, ramp, tmp_path):
    whole, first, second = (module() for _ in range(3))
    average = EMA(decay, ramp)
    fit(tmp_path / "whole", whole, [average], steps=12)
    fit(tmp_path / "broken", first, [Checkpoints(100, None), EMA(decay, ramp)], steps=7)
    resumed = EMA(decay, ramp)
    fit(
        tmp_path / "broken",
        second,
        [Checkpoints(100, None), resumed],
        steps=12,
        checkpoint=tmp_path / "broken/checkpoints/last.ckpt",
    )
    assert same(weights_of(whole.model.net), weights_of(second.model.net))
    assert same(weights_of(net_of(average)), weights_of(net_of(resumed)))


def test_further_averages_are_those_of_runs_of_their_own(tmp_path):
    together, alone = EMA(0.9, True, [0.5, 0.0]), EMA(0.5, True)
    both = module()
    fit(tmp_path / "together", both, [together, Checkpoints(100, None)], steps=9)
    fit(tmp_path / "alone", module(), [alone], steps=9)
    assert both.weights == "ema/0.9"
    assert list(both.averages) == ["ema/0.9", "ema/0.5", "ema/0.0"]
    assert same(weights_of(together.models[0.5].net), weights_of(net_of(alone)))
    checkpoint = read_checkpoint(tmp_path / "together" / "checkpoints" / "last.ckpt")
    for decay, model in together.models.items():
        assert same(list(checkpoint[f"ema/{decay}"].values()), weights_of(model.net))
    with pytest.raises(ValueError, match=r"also=\[0\.9\]"):
        EMA(0.9, True, [0.9])


def test_rate_rises_to_the_decay():
    ramped, constant = EMA(0.99, True), EMA(0.99, False)
    assert [ramped.rate(0.99, n) for n in (0, 8, 890, 891, 10**6)] == pytest.approx([0.1, 0.5, 0.99, 0.99, 0.99])
    assert ramped.rate(0.99, 889) < 0.99
    assert {constant.rate(0.99, n) for n in (0, 1, 10**6)} == {0.99}


class Steps(nn.Module):
    """A trainer that only counts."""

    global_step = 0


def test_average_of_constant_weights_stays_them_to_the_bit():
    """10,000 updates: no drift, as a buffer averaged in float32 would have."""
    for decay, ramp in ((0.9999, False), (0.9999, True), (0.3, False)):
        model, ema, trainer = module(), EMA(decay, ramp), Steps()
        before = weights_of(model.model.net)
        ema.setup(trainer, model, "fit")
        ema.on_fit_start(trainer, model)
        for trainer.global_step in range(1, 10_001):
            ema.on_train_batch_end(trainer)
        assert same(weights_of(net_of(ema)), before)
        assert same(weights_of(model.model.net), before)


def test_training_weights_do_not_notice_the_average(tmp_path):
    with_ema, without = module(), module()
    fit(tmp_path / "a", with_ema, [EMA(0.9, False)], validate_every=2)
    fit(tmp_path / "b", without, validate_every=2)
    assert same(weights_of(with_ema.model.net), weights_of(without.model.net))
    assert (with_ema.weights, without.weights) == ("ema/0.9", "raw")
    assert without.eval_model is without.model
    assert with_ema.eval_model is not with_ema.model


class Failing(Callback):
    """Fails while the average is being measured."""

    def on_validation_batch_end(self, *_) -> None:
        raise RuntimeError("in the middle of validation")


def test_an_exception_in_validation_leaves_the_training_weights_in_place(tmp_path):
    model, ema = module(), EMA(0.9, False)
    weights = Recorder(lambda trainer, module: weights_of(module.model.net))
    with pytest.raises(RuntimeError, match="in the middle of validation"):
        fit(tmp_path, model, [weights, Failing(), ema], validate_every=4)
    assert len(weights.seen) == 4
    assert same(weights_of(model.model.net), weights.seen[-1])
    assert not same(weights_of(model.model.net), weights_of(net_of(ema)))


def test_checkpoint_holds_raw_weights_and_the_average_apart(tmp_path):
    model, ema = module(), EMA(0.9, False)
    fit(tmp_path, model, [ema, Checkpoints(100, None)])
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert same(list(checkpoint["state_dict"].values()), weights_of(model.model.net))
    assert list(checkpoint["state_dict"]) == [f"net.{name}" for name, _ in model.model.net.named_parameters()]
    assert same(list(checkpoint["ema/0.9"].values()), weights_of(net_of(ema)))
    assert not same(list(checkpoint["ema/0.9"].values()), weights_of(model.model.net))


def test_average_is_no_parameter_of_the_module_and_drops_nothing(tmp_path):
    """Neither the optimiser nor state_dict sees it; it is in eval mode while the network trains on."""
    model, ema = module(net=Linear((1, 4, 4), dropout=0.5)), EMA(0.9, False)
    modes = Recorder(lambda trainer, module: (module.model.net.training, net_of(ema).training))
    fit(tmp_path, model, [modes, ema], validate_every=1)
    assert set(modes.seen) == {(True, False)}
    assert len(list(model.parameters())) == 2
    assert all(name.startswith("net.") for name in model.state_dict())
    assert not any(p.requires_grad for p in net_of(ema).parameters())


def test_average_starts_from_the_initial_weights(tmp_path):
    model = module(optim=adam(lr=1.0))
    start, ema = weights_of(model.model.net), EMA(0.999, False)
    fit(tmp_path, model, [ema], steps=1)
    for w0, w1, average in zip(start, weights_of(model.model.net), weights_of(net_of(ema)), strict=True):
        assert (w1 - w0).abs().max() > 0.5
        torch.testing.assert_close(average, w0 + 0.001 * (w1 - w0), rtol=0, atol=1e-6)


def test_buffers_are_copied(tmp_path):
    class Counting(Linear):
        def __init__(self):
            super().__init__((1, 4, 4))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x, t):
            self.calls += self.training
            return super().forward(x, t)

    model, ema = module(net=Counting()), EMA(0.5, also=(0.9,))
    fit(tmp_path, model, [ema], steps=3)
    assert [float(average.net.calls) for average in ema.models.values()] == [3.0, 3.0]


@pytest.mark.parametrize(("how", "mode"), [(True, None), ("reduce-overhead", "reduce-overhead")])
def test_an_average_is_compiled_as_the_network_is(how, mode, tmp_path, monkeypatch):
    """And so is its copy in bfloat16 that samples, which is made once and follows the weights."""
    compiled, modes = [], []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *, mode: (compiled.append(self), modes.append(mode)))
    model, ema = module(sampler=Ancestral(steps=2)), EMA(0.5, also=(0.9,))
    model.model.compile_net(how)
    fit(tmp_path, model, [ema], steps=2)
    averages = [average.net for average in ema.models.values()]
    assert compiled == [model.model.net, *averages]
    evaluated, seen = next(iter(ema.models.values())), []
    evaluated.sample_in_bf16 = True
    for scale in (1, 2):
        with torch.no_grad(), torch.inference_mode(scale == 1):
            for p in evaluated.net.parameters():
                p.data.mul_(scale)
            *_, last = evaluated.sample_states(0, 4)
        seen.append(last.x)
        copies = compiled[3:]
        assert len(copies) == 1
        assert copies[0] not in averages
        assert copies[0].map.weight.dtype == torch.bfloat16
        assert torch.equal(copies[0].map.weight, evaluated.net.map.weight.bfloat16())
    assert not torch.equal(*seen)
    assert modes == [mode] * 4
