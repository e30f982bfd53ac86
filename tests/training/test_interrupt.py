"""A signal stops training at a whole step, and what was there before answers signals again afterwards."""

import os
import signal

import pytest
from lightning import Callback

from ddpm_lab.models.checkpoint import read_checkpoint
from ddpm_lab.training.checkpoint import Checkpoints
from ddpm_lab.training.ema import EMA
from ddpm_lab.training.interrupt import Interrupted

from .support import Recorder, fit, module, quiet, same, weights_of

pytestmark = quiet
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers():
    """As they were, whatever a test leaves."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


class Send(Callback):
    """Sends a signal to this very process in the middle of step number `at` (or of the first validation)."""

    def __init__(self, number: int, at: int | None, times: int = 1) -> None:
        self.number, self.at, self.times, self.validations = number, at, times, 0

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step + 1 == self.at:
            self.send()

    def on_validation_start(self, *_) -> None:
        if self.at is None and not self.validations:
            self.send()

    def on_validation_end(self, *_) -> None:
        self.validations += 1

    def send(self) -> None:
        for _ in range(self.times):
            os.kill(os.getpid(), self.number)


def stopped_fit(*args, **kwargs) -> int:
    """The number of the signal that stopped the fit."""
    with pytest.raises(Interrupted) as stop:
        fit(*args, **kwargs)
    return stop.value.number


@pytest.mark.parametrize("number", SIGNALS)
def test_training_stops_after_the_step_in_progress_and_saves_it(number, tmp_path, capsys):
    model, average = module(), EMA(0.9, False)
    weights = Recorder(lambda trainer, module: weights_of(module.model.net))
    callbacks = [weights, Send(number, 4), Checkpoints(100, None), average]
    assert stopped_fit(tmp_path, model, callbacks, steps=50) == number
    assert len(weights.seen) == 4
    assert "stopping after this step; once more to stop at once" in capsys.readouterr().out
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 4
    assert same(list(checkpoint["state_dict"].values()), weights.seen[3])
    assert same(list(checkpoint["ema/0.9"].values()), weights_of(average.models[0.9].net))
    assert checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"position": 4}]


def test_stopped_and_resumed_is_unbroken(tmp_path):
    whole, stopped, resumed = module(), module(), module()
    fit(tmp_path / "whole", whole, steps=9)
    stopped_fit(tmp_path / "broken", stopped, [Send(signal.SIGINT, 4), Checkpoints(100, None)], steps=9)
    path = tmp_path / "broken" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "broken", resumed, [Checkpoints(100, None)], steps=9, checkpoint=path)
    assert same(weights_of(whole.model.net), weights_of(resumed.model.net))
    assert not same(weights_of(whole.model.net), weights_of(stopped.model.net))


@pytest.mark.parametrize("steps", [50, 5])
def test_a_signal_during_validation_stops_after_it(steps, tmp_path):
    """After the last one, too: nobody waits for the final measurement."""
    stopped_fit(tmp_path, module(), [Send(signal.SIGINT, None), Checkpoints(100, None)], steps=steps, validate_every=5)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 5


def test_the_wait_after_a_signal_is_one_step_and_no_validation(tmp_path):
    send = Send(signal.SIGINT, 4)
    stopped_fit(tmp_path, module(), [send, Checkpoints(100, None)], steps=50, validate_every=20)
    assert send.validations == 0


def test_the_second_signal_stops_at_once(tmp_path):
    """Lightning turns KeyboardInterrupt into an exit; the last whole checkpoint stays."""
    with pytest.raises(SystemExit):
        fit(tmp_path, module(), [Send(signal.SIGINT, 4, times=2), Checkpoints(2, None)], steps=50)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_sigterm_twice_in_a_moment_is_one(tmp_path):
    """As SLURM sends it to a job that it preempts."""
    stopped_fit(tmp_path, module(), [Send(signal.SIGTERM, 4, times=2), Checkpoints(100, None)], steps=50)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4


def test_sigterm_twice_is_at_once_later(tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_lab.signals.SAME", 0.0)
    with pytest.raises(SystemExit):
        fit(tmp_path, module(), [Send(signal.SIGTERM, 4, times=2), Checkpoints(2, None)], steps=50)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2


@pytest.mark.parametrize("number", SIGNALS)
def test_handlers_are_restored_after_training(number, handlers, tmp_path):
    fit(tmp_path, module(), [Checkpoints(100, None)], steps=2)
    assert signal.getsignal(number) == handlers[number]


class Fails(Callback):
    def on_train_batch_end(self, *_) -> None:
        raise RuntimeError("in the middle of training")


def test_handlers_are_restored_after_a_failure(handlers, tmp_path):
    with pytest.raises(RuntimeError, match="in the middle of training"):
        fit(tmp_path, module(), [Fails(), Checkpoints(100, None)], steps=2)
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers
