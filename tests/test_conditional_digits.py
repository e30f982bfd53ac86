"""A conditional model of digits, trained for a minute, draws those that it is asked for, under guidance nearly all of them."""

import pytest
import torch
from helpers import trained

import ddpm_lab
from ddpm_lab.core.grey import quantise
from ddpm_lab.core.guidance import ClassifierFree, Guidance
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.data.digits import Digits
from ddpm_lab.metrics.classifier import Classifier

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
RUN = [
    "experiment=digits",
    "data.conditional=true",
    "trainer.max_steps=200",
    "trainer.validate_every=200",
    "callbacks.checkpoints.monitor=train/loss",
    *(f"callbacks.{name}=null" for name in ("samples", "vlb_terms", "frechet", "frechet_curve")),
]
N = 200


def test_samples_are_of_the_class_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    run, data = ddpm_lab.load(trained(tmp_path / "run", *RUN)), Digits()
    data.setup()
    judge, asked = Classifier(epochs=20, data=data), torch.arange(N) % 10

    def share(guidance: Guidance) -> float:
        x = run.sample(N, DDIM(steps=25), classes=list(range(10)), guidance=guidance)
        return float((judge.judged(quantise(x, 17)).logits.argmax(1) == asked).double().mean())

    ignored, plain, guided = (share(ClassifierFree(scale)) for scale in (0.0, 1.0, 2.0))
    assert ignored < 0.25  # by chance a tenth
    assert plain > 0.75
    assert guided > 0.95
    assert guided > plain
