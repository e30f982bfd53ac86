"""Samples in bfloat16 are other samples: they are kept apart from those in float32, and records tell them apart."""

import copy

import pytest
from helpers import composed
from training.support import module

from ddpm_lab.config.build_evaluation import subject_of
from ddpm_lab.config.evaluated import check_evaluated
from ddpm_lab.errors import UserError
from ddpm_lab.evaluation.subject import Choice


def test_samples_of_another_precision_are_others():
    plain = module().model
    rounded = copy.copy(plain)
    rounded.sample_in_bf16 = True
    assert Choice(rounded).of_samples != Choice(plain).of_samples
    assert Choice(rounded).record_of_samples["precision"] == "bf16-mixed"
    assert "precision" not in Choice(plain).of_samples | Choice(plain).record_of_samples  # what was kept before is found again


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_evaluation_samples_in_the_precision_that_is_asked(precision, run):
    subject = subject_of(str(run), str(run / "checkpoints" / "last.ckpt"), None, "cpu", 0, 8, precision, False)
    assert subject.run.model.sample_in_bf16 == (precision == "bf16-mixed")


def test_a_float64_network_is_not_evaluated_in_bfloat16():
    trained, asked = composed("trainer.precision=64-true"), composed("variance=beta")
    asked.nll, asked.quality, asked.sample_precision = {}, {"n": 8}, "bf16-mixed"
    with pytest.raises(UserError, match=r"sample_precision=bf16-mixed.*64-true.*32-true"):
        check_evaluated(asked, trained, [])
