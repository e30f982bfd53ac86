"""Heads on the network of a run: trained by train.py, used by evaluate.py and sample.py, and what is refused."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from evaluation.support import evaluate, refusal
from helpers import TINY_WITH_WHOLE_NET, command_here, digest
from omegaconf import OmegaConf
from torch import nn

from ddpm_lab import load
from ddpm_lab.cli.sample import main as sample
from ddpm_lab.config.build import build_model
from ddpm_lab.core.batch import Batch
from ddpm_lab.core.heads import NPR, OCM, SN, SNSquare
from ddpm_lab.models.checkpoint import read_checkpoint, weights_sha256, write_archive
from ddpm_lab.models.variance_head import Headed, VarianceHead
from ddpm_lab.nets.unet import UNet

QUICK = ["trainer.validate_every=4", "trainer.log_every=1", "callbacks.frechet_curve=null", "callbacks.samples=null"]
FEW = ["name=e", "quality.n=4", "nll.n=10", "nll.chain=full", "nll.train_stride=0"]
LAST = Path("checkpoints", "last.ckpt")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def with_head(run_of, tmp_path_factory):
    """A run with a head that was trained for four steps."""
    run = tmp_path_factory.mktemp("with_head") / "run"
    shutil.copytree(run_of(*TINY_WITH_WHOLE_NET), run)
    head(run)
    return run


@pytest.fixture
def run(with_head, tmp_path):
    return Path(shutil.copytree(with_head, tmp_path / "run", ignore=shutil.ignore_patterns("eval")))


def head(base: Path, *words: str, option: str = "ocm", steps: int = 4) -> Path:
    given = [f"head={option}", f"base={base}", *QUICK, f"trainer.max_steps={steps}", *words]
    done = command_here(*given, cwd=base.parent)
    assert done.returncode == 0, done.stderr
    return base / "heads" / option


def refused(run: Path, *words: str) -> str:
    done = command_here(*words, cwd=run.parent)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return done.stderr


def changed(checkpoint: Path) -> None:
    """One step of training further, as it were."""
    content = read_checkpoint(checkpoint)
    for key in content:
        if key.startswith("ema/"):
            content[key] = {name: value + 1e-3 for name, value in content[key].items()}
    write_archive(content, checkpoint)


def test_a_head_is_a_run_of_its_own_beside_its_base(with_head, run_of):
    folder, base = with_head / "heads" / "ocm", load(with_head)
    config, original = (OmegaConf.load(path / "config.yaml") for path in (folder, run_of(*TINY_WITH_WHOLE_NET)))
    for group in ("data", "schedule", "prediction", "timesteps", "sampler", "net"):
        assert config[group] == original[group]
    assert (config.base, config.model.weights, config.model.sha256) == (str(with_head), base.weights, weights_sha256(base.net))
    assert (config.variance._target_, config.run.root) == ("ddpm_lab.core.heads.OCM", str(with_head))
    assert "loss" not in config
    summary = json.loads((folder / "summary.json").read_text())
    assert {"bound_bpd", "pixels_fd"} <= summary["metrics"].keys()
    assert summary["metrics"]["bound_bpd"]["variance"] == "ocm"
    names = read_checkpoint(folder / LAST)["state_dict"].keys()
    assert all(name.startswith("net.layers.") for name in names)
    opened = load(folder).model
    assert isinstance(opened, VarianceHead)
    assert weights_sha256(opened.network.base) == weights_sha256(base.net)
    assert (with_head / LAST).read_bytes() == (run_of(*TINY_WITH_WHOLE_NET) / LAST).read_bytes()


def test_a_resumed_head_is_to_the_bit_the_head_that_was_not_stopped(run):
    whole = digest(run / "heads" / "ocm")
    shutil.rmtree(run / "heads")
    folder = head(run, steps=2)
    done = command_here(f"resume={folder}", "trainer.max_steps=4", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert digest(folder) == whole


def model_of(config: dict, variance: type, **changes) -> VarianceHead:
    """With a base that is not trained, but is no constant either."""
    parts = {"variance": {"_target_": f"ddpm_lab.core.heads.{variance.__name__}"}, **changes}

    def net(**given):
        torch.manual_seed(0)
        made = UNet(**given, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4, dropout=0.5)
        return made.apply(lambda layer: nn.init.normal_(layer.weight, 0, 0.1) if isinstance(layer, nn.Conv2d) else None)

    model = build_model({**config, **parts}, (1, 8, 8), 17, net)
    assert isinstance(model, VarianceHead)
    return model


@pytest.mark.parametrize("variance", [NPR, SN, SNSquare, OCM])
def test_losses_are_functions_of_the_row_and_reach_the_head_alone(variance, with_head):
    config = read_checkpoint(with_head / "heads" / "ocm" / LAST)["config"]
    model, x0 = model_of(config, variance), torch.rand(8, 1, 8, 8)
    nn.init.normal_(model.net.layers[-1].weight, 0, 0.1)
    whole = model.losses(Batch(x0, 3, 0, 8))
    halves = [model.losses(Batch(x0[i : i + 4], 3, i, 8)).per_example for i in (0, 4)]
    torch.testing.assert_close(torch.cat(halves), whole.per_example, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.losses(Batch(x0, 4, 0, 8)).per_example, whole.per_example)
    whole.per_example.mean().backward()
    assert all(p.grad is not None for p in model.net.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.network.base.parameters())
    assert {id(p) for p in model.parameters()} == {id(p) for p in model.net.parameters()}
    assert next(model.double().network.base.parameters()).dtype == torch.float64
    x, t = torch.rand(2, 1, 8, 8, dtype=torch.float64), torch.tensor([1, 5])
    torch.testing.assert_close(model.network(x, t)[:, :1], model.network.base(x, t)[:, :1])


def test_evaluation_finds_the_head_and_measures_a_new_one_anew(run, monkeypatch):
    folder = run / "heads" / "ocm"
    first = evaluate(run, "variance=ocm", start=FEW)
    record, own = first.record("bound"), evaluate(folder, start=FEW)
    assert record["head"] == str(folder)
    assert (record["head_step"], record["clip_cov"], record["variance"]) == (4, True, "ocm")
    assert record["head_sha256"] == hashlib.sha256((folder / LAST).read_bytes()).hexdigest()
    assert {key: first.value(key) for key in ("bound", "pixels_fd")} == {key: own.value(key) for key in ("bound", "pixels_fd")}
    with monkeypatch.context() as m:
        calls, forward = [], Headed.forward
        m.setattr(Headed, "forward", lambda *given: calls.append(1) or forward(*given))
        assert evaluate(run, "variance=ocm", start=FEW).value("bound") == first.value("bound")
        assert calls == []
        changed(folder / LAST)
        assert evaluate(run, "variance=ocm", start=FEW).value("bound") != first.value("bound")
        assert calls != []
    assert evaluate(run, "variance=beta", start=FEW).value("bound") != first.value("bound")


def test_samples_are_of_the_head(run, tmp_path):
    def drawn(*words: str) -> np.ndarray:
        out = tmp_path / words[0].replace("=", "-")
        with patch.object(sys, "argv", ["sample.py", f"ckpt={run}", "n=2", "files=[npz]", f"out={out}", *words]):
            sample()
        with np.load(out / "samples.npz") as file:
            return file["arr_0"]

    assert not np.array_equal(drawn("variance=ocm"), drawn("variance=beta_tilde"))
    changed(run / "heads" / "ocm" / LAST)
    with pytest.raises(SystemExit):
        drawn("variance=ocm")  # into the same folder


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("head=ocm", "head=ocm base="),
        ("base=RUN", "base=RUN head=ocm head=npr head=sn"),
        ("experiment=head", "experiment=head base="),
        ("model=variance_head", "model=variance_head base="),
        ("head=ocm base=nowhere", "base=nowhere"),
        ("head=ocm base=RUN/checkpoints/last.ckpt", "base=RUN/checkpoints/last.ckpt"),
        ("head=ocm base=RUN/heads/ocm", "base=RUN/heads/ocm"),
        ("head=ocm base=RUN", "run.name=ocm resume=RUN/heads/ocm"),
        ("head=npr base=RUN net.channels=16", "net.channels=16 RUN"),
        ("head=npr base=RUN schedule=cosine", "schedule=cosine RUN"),
        ("head=npr base=RUN loss=vlb", "loss=vlb RUN"),
        ("head=npr base=RUN variance=beta_tilde", "variance=beta_tilde RUN"),
        ("head=npr base=RUN data.batch_size=4", "data.batch_size=4 RUN"),
        ("head=npr base=RUN experiment=smoke", "experiment=smoke"),
        ("head=npr base=RUN guidance=classifier_free", "guidance=classifier_free guidance=none"),
        ("head=npr base=RUN model.weights=ema/0.5", "ema/0.5 ema/0.9999"),
        ("head=npr base=RUN model.sha256=0", "model.sha256=0"),
        ("resume=RUN/heads/ocm head=ocm", "resume= head="),
    ],
)
def test_wrong_uses_of_train(words, names, with_head):
    said = refused(with_head, *words.replace("RUN", str(with_head)).split())
    assert [name for name in names.replace("RUN", str(with_head)).split() if name not in said] == []
    assert not (with_head / "heads" / "npr").exists()


def test_wrong_uses_of_evaluation(run, with_head, run_of, capsys, tmp_path):
    own = run / "heads" / "ocm"
    none = refusal(capsys, f"ckpt={run}", "variance=npr")
    assert all(part in none for part in ("variance=npr", f"head=npr base={run}"))
    other = refusal(capsys, f"ckpt={run}", "variance=sn", f"variance.head={own}")
    assert all(part in other for part in (f"variance.head={own}", "variance=sn", "variance=ocm"))
    assert str(with_head) in refusal(capsys, f"ckpt={own}", "variance=sn")
    assert "raw" in refusal(capsys, f"ckpt={run}", "variance=ocm", "weights=raw")
    alone = Path(shutil.copytree(run_of(*TINY_WITH_WHOLE_NET), tmp_path / "alone"))
    changed(alone / LAST)
    assert str(own) in refusal(capsys, f"ckpt={alone}", "variance=ocm", f"variance.head={own}")
    checkpoint = own / LAST
    checkpoint.write_bytes(checkpoint.read_bytes()[:-500])
    damaged = refusal(capsys, f"ckpt={run}", "variance=ocm")
    assert all(part in damaged for part in (f"variance.head={own}", str(checkpoint)))


def test_a_base_that_was_trained_on_since_is_refused(run, capsys):
    folder, before = run / "heads" / "ocm", weights_sha256(load(run).net)
    config = OmegaConf.load(folder / "config.yaml")
    config.base = str(run)  # of this copy
    content = read_checkpoint(folder / LAST)
    content["config"] = OmegaConf.to_container(config)
    write_archive(content, folder / LAST)
    OmegaConf.save(config, folder / "config.yaml")
    changed(run / LAST)
    for said in (
        refused(run, f"resume={folder}", "trainer.max_steps=6"),
        refusal(capsys, f"ckpt={folder}"),
        refusal(capsys, f"ckpt={run}", "variance=ocm"),
    ):
        assert before[:12] in said


class Closed(nn.Module):
    """A network that gives no features."""

    def __init__(self, in_channels: int, out_channels: int, size: int | None) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_a_network_without_features_is_refused_by_name(with_head):
    config = read_checkpoint(with_head / "heads" / "ocm" / LAST)["config"]
    with pytest.raises(Exception, match=r"Closed.*features\(x, t\)"):
        build_model(config, (1, 8, 8), 17, Closed)


@pytest.mark.slow
def test_heads_of_conditional_vectors(run_of, tmp_path):
    """Labels reach the features; data without grey levels are not clipped."""
    base = Path(
        shutil.copytree(
            run_of(
                "experiment=gaussian_mixture", "data.conditional=true", "data.n_train=100", "data.n_val=50", "schedule.T=10",
                "trainer.max_steps=2", "trainer.validate_every=2", "data.batch_size=16", "callbacks.frechet.n=8",
                "callbacks.frechet_curve.n=8", "callbacks.samples.n=2", "callbacks.samples.rows=2",
                "callbacks.vlb_terms.stride=5", "callbacks.vlb_terms.final_stride=5", "sampler.steps=5",
            ),
            tmp_path / "run",
        )
    )  # fmt: skip
    options = ("npr", "sn", "sn_square")
    for option in options:
        folder = head(base, option=option)
        assert OmegaConf.load(folder / "config.yaml").variance.clip_cov is False
    found = [evaluate(base, f"variance={option}", "variance.clip_cov=false", start=FEW).value("bound") for option in options]
    assert np.isfinite(found).all()
    assert len(set(found)) == len(options)
