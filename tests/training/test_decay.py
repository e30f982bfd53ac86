"""The learning rate over a run: against torch's own schedulers, and the formulas written out."""

import copy
import math

import pytest
import torch
from helpers import TINY, composed
from torch import nn
from torch.optim import lr_scheduler

from ddpm_lab.compare.choices import flat_config
from ddpm_lab.config.build import training_identity
from ddpm_lab.config.nested import plain
from ddpm_lab.training.decay import Rate
from ddpm_lab.training.optim import Adam, AdamW

STEPS, WARMUP = 24, 6


def used(choice: Adam | AdamW, steps: int) -> list[float]:
    """The learning rate of each update, and of one more."""
    made = choice.configure(nn.ParameterList([torch.zeros(1)]))
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    seen = []
    for _ in range(steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def torchs(make, steps: int) -> list[float]:
    """The same of a scheduler of torch, at a largest rate of 0.5."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, seen = make(optimizer), []
    for _ in range(steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def after_rise(fall):
    """torch's chain of a linear rise and a decay. Its rise may not begin at 0."""

    def make(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, 1e-12, 1.0, WARMUP)
        return lr_scheduler.SequentialLR(optimizer, [rise, fall(optimizer)], [WARMUP])

    return make


@pytest.mark.parametrize("final", [None, 0.0, 0.1, 0.9])
@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_warm_up_and_decay_are_those_of_torch(decay, kind, final):
    falls = {
        "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS - WARMUP, eta_min=0.5 * (final or 0.0)),
        "linear": lambda o: lr_scheduler.LinearLR(o, 1.0, final or 0.0, STEPS - WARMUP),
    }
    ours = used(kind(lr=0.5, warmup=WARMUP, decay=decay, decay_final=final, steps=STEPS), STEPS)
    assert ours == pytest.approx(torchs(after_rise(falls[decay]), STEPS), rel=1e-9, abs=1e-9)
    assert ours[WARMUP] == 0.5
    assert ours[STEPS] == pytest.approx(0.5 * (final or 0.0), abs=1e-12)
    assert ours[STEPS - 1] > ours[STEPS]


@pytest.mark.parametrize(("decay", "final", "at_half"), [("cosine", 0.2, 0.6), ("linear", 0.2, 0.6), ("cosine", None, 0.5)])
def test_a_decay_waits_for_its_start_and_stays_at_its_end(decay, final, at_half):
    rate = Rate(2, decay, final, 10, 30)
    assert [rate(t) for t in (0, 1, 2, 9, 10)] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert rate(20) == pytest.approx(at_half)
    assert rate(11) < 1
    assert [rate(t) for t in (30, 31, 1000)] == pytest.approx(3 * [final or 0.0], abs=1e-15)


def test_a_quarter_of_the_cosine():
    assert Rate(0, "cosine", 0.1, None, 400)(100) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)


def test_the_inverse_root_is_that_of_edm2():
    """α_ref / √max(t / t_ref, 1), times the rise: whatever the length of the run."""
    for steps in (101, 10**6, None):
        rate = Rate(4, "inverse_sqrt", None, 100, steps)
        assert [rate(t) for t in (0, 1, 4, 99, 100)] == [0.0, 0.25, 1.0, 1.0, 1.0]
        assert [rate(t) for t in (400, 900, 10000)] == pytest.approx([1 / 2, 1 / 3, 1 / 10])
        assert not rate.of_length


def test_the_inverse_root_from_the_end_of_the_warm_up_is_that_of_the_transformer():
    """Vaswani et al. 2017, Eq. 3: d^−0.5 min(t^−0.5, t warmup^−1.5), as a share of its largest."""
    rate = Rate(WARMUP, "inverse_sqrt", None, None, None)
    for t in range(1, 100):
        assert rate(t) == pytest.approx(min(t**-0.5, t * WARMUP**-1.5) * WARMUP**0.5)


def test_without_a_decay_the_share_is_as_before_to_the_bit():
    for warmup in (0, 1, 7, 5000):
        rate = Rate(warmup, "none", None, None, 10)
        assert [rate(t) for t in range(20)] == [min(t / warmup, 1.0) if warmup else 1.0 for t in range(20)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"decay": "cosine", "warmup": 20, "steps": 20}, ("warmup=20", "decay=cosine", "trainer.max_steps=20")),
        ({"decay": "linear", "decay_start": 21, "steps": 20}, ("decay_start=21", "decay=linear", "trainer.max_steps=20")),
        ({"decay": "inverse_sqrt", "decay_start": 20, "steps": 20}, ("decay_start=20", "trainer.max_steps=20")),
        ({"decay": "inverse_sqrt", "steps": 20}, ("decay_start=null", "inverse_sqrt")),
        ({"decay": "inverse_sqrt", "decay_final": 0.1, "decay_start": 1, "steps": 20}, ("decay_final=0.1", "inverse_sqrt")),
        ({"decay_final": 0.1, "steps": 20}, ("decay_final=0.1", "decay=none")),
        ({"decay_start": 5, "steps": 20}, ("decay_start=5", "decay=none")),
        ({"decay": "cosine", "warmup": 6, "decay_start": 5, "steps": 20}, ("decay_start=5", "warmup=6")),
        ({"decay": "cosine"}, ("steps=None", "decay=cosine")),
    ],
)
def test_settings_that_reach_nothing_are_refused(settings, words):
    with pytest.raises(ValueError, match="=") as caught:
        Adam(**{"warmup": 0, **settings})
    assert [word for word in words if word not in str(caught.value)] == []
    assert str(caught.value).startswith(words[0])


def test_configurations_of_before_are_those_without_a_decay():
    now = composed(*TINY)
    earlier = copy.deepcopy(now)
    for key in ("decay", "decay_final", "decay_start"):
        del earlier.optim[key]
    falling = composed(*TINY, "optim.decay=inverse_sqrt")
    assert training_identity(earlier) == training_identity(now) != training_identity(falling)
    assert flat_config(plain(earlier)) == flat_config(plain(now)) != flat_config(plain(falling))
