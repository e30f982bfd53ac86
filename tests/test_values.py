"""Values of options make a difference to what a run gives; loggers, and what is measured on the way, make none."""

import json

import pytest
import torch
from helpers import CONF, TINY, UNMEASURED, digest, trained
from trackers import databases, places  # noqa: F401

from ddpm_lab.config.options import options
from ddpm_lab.models.checkpoint import read_checkpoint


@pytest.mark.parametrize("option", [option for option in options("logger", [CONF]) if option != "csv"])
@pytest.mark.usefixtures("places")
def test_a_logger_only_watches(option, results):
    offline = ["logger.mode=offline"] if option in ("all", "wandb") else []
    assert results(*TINY, f"logger={option}", *offline) == results(*TINY)


def test_the_same_options_give_the_same_result(run_of, tmp_path):
    assert digest(run_of(*TINY)) == digest(trained(tmp_path / "again", *TINY))


CHANGES = [
    "seed=1", "schedule.beta_start=0.001", "schedule.beta_end=0.3", "schedule.T=11",
    "sampler.steps=5", "sampler.clip=false", "net.channels=16", "net.multipliers=[1,1]", "net.blocks=2", "net.attention=[8]",
    "net.groups=2", "net.scale_shift=true", "data.val_fraction=0.3", "data.split_seed=1", "data.flip=true", "data.batch_size=8",
    "optim.lr=0.1", "optim.betas=[0.5,0.999]", "optim.eps=0.1", "optim.weight_decay=0.1", "optim.warmup=0",
    "optim.clip=0.000001", "ema.decay=0.05", "ema.ramp=false", "callbacks.frechet.n=9", "callbacks.frechet.seed=3",
    "callbacks.vlb_terms.seed=1", "callbacks.vlb_terms.final_stride=2", "trainer.max_steps=3",
    "trainer.precision=bf16-mixed", "trainer.precision=64-true",
    ("optim.lr=0.1 trainer.max_steps=4 callbacks.frechet.n=256", "trainer.sample_precision=bf16-mixed"),
    ("schedule.beta_end=0.001", "schedule.rescale=true"),
    ("trainer.max_steps=4 trainer.validate_every=4", "net.dropout=0.5"),
    ("trainer.max_steps=4 trainer.validate_every=4 net.attention=[8]", "net.heads=2"),
    ("schedule=cosine", "schedule.offset=0.1"), ("schedule=cosine", "schedule.max_beta=0.5"), ("loss=vlb", "loss.scale=50"),
    ("loss=hybrid variance=learned_range", "loss.weight=1"), ("loss=min_snr", "loss.gamma=0.1"), ("loss=p2", "loss.k=3"),
    ("prediction=edm", "prediction.sigma_data=2"), ("loss=edm prediction=v", "loss.sigma_data=2"),
    ("loss=likelihood", "loss.scale=50"), ("uncertainty=learned optim.warmup=0", "uncertainty.features=3"),
    ("timesteps=lognormal", "timesteps.mean=-3"), ("timesteps=lognormal", "timesteps.std=5"),
    ("timesteps=lognormal", "timesteps.unbiased=true"), ("timesteps=laplace timesteps.b=2", "timesteps.mu=4"),
    ("timesteps=laplace timesteps.b=2", "timesteps.b=1"), ("timesteps=laplace timesteps.b=2", "timesteps.unbiased=true"),
    ("loss=p2", "loss.gamma=0.5"), ("loss=truncated_snr prediction=v", "loss.floor=1000"),
    ("schedule=quadratic", "schedule.beta_start=0.001"), ("schedule=quadratic", "schedule.beta_end=0.3"),
    ("schedule=constant", "schedule.beta=0.1"), ("schedule=warmup10", "schedule.fraction=0.7"),
    ("schedule=warmup50", "schedule.beta_start=0.001"), ("schedule=warmup50", "schedule.beta_end=0.3"),
    ("schedule=sigmoid_beta", "schedule.width=3"), ("schedule=sigmoid_beta", "schedule.beta_start=0.001"),
    ("schedule=sigmoid_beta", "schedule.beta_end=0.3"), ("schedule=sigmoid_alpha_bar", "schedule.start=0"),
    ("schedule=sigmoid_alpha_bar", "schedule.end=1"), ("schedule=sigmoid_alpha_bar", "schedule.tau=0.5"),
    ("schedule=sigmoid_alpha_bar", "schedule.max_beta=0.5"),
    ("schedule=zero_terminal_snr prediction=v", "schedule.base=quadratic"),
    ("schedule=zero_terminal_snr prediction=v", "schedule.beta_start=0.001"),
    ("schedule=zero_terminal_snr prediction=v", "schedule.beta_end=0.3"), ("variance=interpolated", "variance.fraction=1"),
    ("timesteps=importance timesteps.history=1 schedule.T=2 sampler.steps=null trainer.max_steps=4", "timesteps.floor=0.9"),
    ("timesteps=importance timesteps.history=1 schedule.T=2 sampler.steps=null trainer.max_steps=4", "timesteps.history=99"),
    ("optim=adamw optim.warmup=0", "optim.weight_decay=0.5"), ("optim=muon optim.warmup=0", "optim.momentum=0.5"),
    ("optim=muon optim.warmup=0", "optim.betas=[0.5,0.999]"), ("optim=muon optim.warmup=0", "optim.eps=0.1"),
    ("optim=muon optim.warmup=0", "optim.weight_decay=0.5"), ("optim.warmup=0", "optim.decay=cosine"),
    ("optim.warmup=0 optim.decay=linear", "optim.decay_final=0.9"),
    ("optim.warmup=0 optim.decay=linear trainer.max_steps=4 trainer.validate_every=4", "optim.decay_start=3"),
    ("optim.warmup=1 trainer.max_steps=4 trainer.validate_every=4", "optim.decay=inverse_sqrt"),
    ("sampler=ddim sampler.steps=5", "sampler.eta=1"),
    ("sampler=ddim sampler.steps=5", "sampler.spacing=leading"), ("sampler=ddim sampler.steps=5", "sampler.clip=false"),
]  # fmt: skip


ONLY_MEASURED = "sampler.", "callbacks.", "variance.", "trainer.sample_precision"
"""These change no weight. Of a run under other values nothing is measured, which is most of its time."""


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_changing_a_value_changes_the_result(change, results):
    context, value = change if isinstance(change, tuple) else ("", change)
    words = [*TINY, *([] if value.startswith(ONLY_MEASURED) else UNMEASURED), *context.split()]
    assert results(*words) != results(*words, value)


def test_sampling_and_validation_leave_training_alone(tmp_path):
    """The weights do not depend on what is measured on the way."""
    rare = [*TINY, "trainer.max_steps=4", "trainer.validate_every=4"]
    often = [*rare, "trainer.validate_every=1", "callbacks.samples.n=7", "callbacks.frechet.n=3", "trainer.log_every=3"]
    a, b = (read_checkpoint(trained(tmp_path / str(i), *o) / "checkpoints/last.ckpt") for i, o in enumerate((rare, often)))
    assert all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items())


@pytest.mark.soak
def test_a_compiled_network_trains_the_same_up_to_rounding(tmp_path):
    """And its checkpoints have the same keys, and its bound is the same. Every batch has 16, or it would be compiled again."""
    words = [*TINY, "trainer.max_steps=4", "trainer.validate_every=4", "data.val_fraction=0.0534"]
    words += ["net.dropout=0", "net.multipliers=[1]", "net.attention=[]"]
    words += [f"callbacks.{name}=null" for name in ("samples", "frechet", "frechet_curve")]
    runs = [trained(tmp_path / str(on), *words, f"trainer.compile={on}") for on in (False, True)]
    bounds = [json.loads((run / "summary.json").read_text())["metrics"]["bound_bpd"] for run in runs]
    assert bounds[1]["value"] == pytest.approx(bounds[0]["value"], abs=1e-3)
    assert bounds[0]["n"] == 96
    plain, compiled = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in runs)
    assert plain["state_dict"].keys() == compiled["state_dict"].keys()
    for name, value in plain["state_dict"].items():
        torch.testing.assert_close(compiled["state_dict"][name], value, rtol=0, atol=1e-4)
