"""A conditional model is told the classes of what it trains on and draws; what does not take classes is refused."""

import functools
import json
from collections import Counter

import pytest
import torch
from helpers import FEW_HELD_OUT, TINY, composed
from torch import nn

import ddpm_lab
from ddpm_lab.config.build import build_model, training_identity
from ddpm_lab.config.preflight import preflight
from ddpm_lab.core.batch import Batch, Classes
from ddpm_lab.core.guidance import ClassifierFree
from ddpm_lab.core.sampler import DDIM
from ddpm_lab.domains import Given
from ddpm_lab.errors import UserError
from ddpm_lab.files import is_as_written
from ddpm_lab.models.checkpoint import read_checkpoint, write_archive

CONDITIONAL = [*TINY, *FEW_HELD_OUT, "data.conditional=true"]
COUNTS = (10, 30, 60)


@pytest.fixture(scope="module")
def model():
    return build_model(composed(*CONDITIONAL, "guidance=classifier_free"), (1, 8, 8), 17, class_counts=COUNTS).eval()


def test_the_network_is_told_the_labels_of_the_batch(model, monkeypatch):
    told = []
    monkeypatch.setattr(type(model.net), "forward", lambda net, x, t, labels=None: told.append(labels) or torch.zeros_like(x))
    labels = torch.tensor([2, 3, 0, 1])
    model.losses(Batch(torch.zeros(4, 1, 8, 8), 5, 0, 4, labels))
    assert torch.equal(told[0], labels)


def test_classes_of_samples_are_drawn_by_frequency_whatever_the_batch(model):
    whole = model.sample_classes(0, 5000, seed=3)
    assert torch.equal(torch.cat([model.sample_classes(a, b, 3) for a, b in ((0, 7), (7, 130), (130, 5000))]), whole)
    assert not torch.equal(model.sample_classes(0, 5000, seed=4), whole)
    share = torch.bincount(whole, minlength=3) / 5000
    assert (share - torch.tensor(COUNTS) / 100).abs().max() < 4 * (0.25 / 5000) ** 0.5


def test_classes_may_be_asked_for(model):
    asked = model.sampling(classes=[2, 0])
    assert asked.sample_classes(3, 7).tolist() == [0, 2, 0, 2]
    assert asked.sample_record()["classes"] == "2, 0"
    assert model.sampling(steps=2).sample_classes(0, 9, 1).tolist() == model.sample_classes(0, 9, 1).tolist()
    assert torch.equal(asked.sampling(steps=2).sample_classes(0, 4), asked.sample_classes(0, 4))
    for wrong in ([3], [-1, 0], []):
        with pytest.raises(ValueError, match=r"classes=\[.*0 to 2"):
            model.sampling(classes=wrong)
    plain = build_model(composed(*TINY), (1, 8, 8), 17)
    assert (plain.sample_classes(0, 3), plain.sample_record().get("classes")) == (None, None)
    with pytest.raises(ValueError, match=r"classes=\[1\].*without classes"):
        plain.sampling(classes=[1])


def test_records_say_how_samples_are_guided_and_what_a_bound_is_given(model):
    guided = model.sampling(guidance=ClassifierFree(3.0, (-2.0, 5.0)))
    fields = ("classes", "guidance_scale", "guidance_interval")
    assert [guided.sample_record()[name] for name in fields] == ["by training frequency", 3.0, "[-2.0, 5.0]"]
    assert (model.sample_record()["guidance_scale"], guided.guided, guided.bound_record()["given"]) == (2.0, True, "class")
    assert not model.sampling(guidance=ClassifierFree(1.0)).guided


def randomised(model):
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.net.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g))
    return model


@pytest.mark.parametrize("loss", ["simple", "hybrid"])
def test_samples_depend_on_seed_and_index_alone_under_guidance(loss):
    cfg = composed(*CONDITIONAL, "guidance=classifier_free", f"loss={loss}", "net.dropout=0")
    model = randomised(build_model(cfg, (1, 8, 8), 17, class_counts=COUNTS).double())
    whole = model.sample(9, seed=2)
    torch.testing.assert_close(model.sample(9, seed=2, batch=4), whole, rtol=1e-9, atol=1e-9)
    classes = model.sample_classes(0, 9, 2).tolist()
    torch.testing.assert_close(model.sampling(classes=classes).sample(9, seed=2), whole, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(model.sampling(classes=[(c + 1) % 3 for c in classes]).sample(9, seed=2), whole)
    other = model.sampling(guidance=ClassifierFree(1.0), sampler=DDIM(steps=3)).sample(9, seed=2)
    assert not torch.allclose(other, model.sampling(sampler=DDIM(steps=3)).sample(9, seed=2))


def test_samples_in_bfloat16_are_near_those_in_full():
    model = randomised(build_model(composed(*CONDITIONAL, "guidance=classifier_free"), (1, 8, 8), 17, class_counts=COUNTS))
    full = model.sample(6, seed=1)
    model.sample_in_bf16 = True
    assert 0 < (model.sample(6, seed=1) - full).abs().mean() < 0.05


# --- whole runs ------------------------------------------------------------------------------------------------------------


def test_a_run_opens_with_its_classes(run_of):
    folder = run_of(*CONDITIONAL, "optim.warmup=0", "guidance=classifier_free", "guidance.scale=1000")  # as in test_options.py
    counts = read_checkpoint(folder / "checkpoints" / "last.ckpt")["class_counts"]
    run = ddpm_lab.load(folder)
    assert run.model.classes == Classes(tuple(counts), 0.1)
    assert sum(counts) == 1797 - 90
    assert Counter(run.model.sample_classes(0, 2000).tolist()).keys() == set(range(10))
    randomised(run.model)  # after two steps classes hardly differ
    images, labels = torch.randint(17, (3, 1, 8, 8), dtype=torch.uint8), torch.tensor([1, 2, 3])
    given, other = (run.bound(images, labels=chosen).total_bpd for chosen in (labels, labels.flip(0)))
    assert given != other
    for wrong in (None, labels[:2], labels.float(), labels + 7):
        with pytest.raises(UserError, match="labels"):
            run.bound(images, labels=wrong)
    with pytest.raises(UserError, match=r"classes=\[10\].*0 to 9"):
        run.sample(2, classes=[10])


def test_runs_of_versions_without_classes_open_with_the_same_bits(run_of, tmp_path):
    folder = run_of(*TINY)
    stored = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    now, earlier = stored["config"], json.loads(json.dumps(stored["config"]))
    earlier.pop("guidance")
    for key in ("conditional", "label_dropout"):
        earlier["data"].pop(key)
    write_archive(stored | {"config": earlier}, tmp_path / "old.ckpt")
    assert "class_counts" not in stored
    assert training_identity(earlier) == training_identity(now)
    assert torch.equal(ddpm_lab.load(tmp_path / "old.ckpt").sample(3), ddpm_lab.load(folder).sample(3))
    assert is_as_written(folder / "summary.json")
    assert "given" not in json.loads((folder / "summary.json").read_text())["metrics"]["bound_bpd"]


# --- refusals --------------------------------------------------------------------------------------------------------------

REFUSED = {
    "guidance=classifier_free": ("guidance=classifier_free", "data=digits", "scale=2.0", "conditional=true", "guidance=none"),
    "data.conditional=true guidance=classifier_free data.label_dropout=0": ("scale=2.0", "label_dropout=0", "scale=1"),
    "data.label_dropout=0.3": ("data.label_dropout=0.3", "data.conditional=true"),
    "data=celeba data.conditional=true": ("data.conditional=true", "data=celeba"),
    "data.conditional=true data.label_dropout=1.0": ("data.label_dropout=1.0", "[0, 1)"),
    "data.conditional=true guidance=classifier_free guidance.scale=-1": ("guidance.scale=-1", ">= 0"),
    "data.conditional=true guidance=classifier_free guidance.interval=[2,1]": ("guidance", "interval=[2, 1]", "lower first"),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_guided_is_refused_in_one_line(line):
    with pytest.raises(UserError) as refusal:
        preflight(line.split())
    assert "\n" not in str(refusal.value)
    for word in REFUSED[line]:
        assert word in str(refusal.value), refusal.value


def test_a_model_without_guidance_at_scale_one_needs_no_hidden_labels():
    assert preflight(["data.conditional=true", "data.label_dropout=0", "guidance=classifier_free", "guidance.scale=1"])
    assert preflight(
        ["experiment=gaussian_mixture", "data.conditional=true", "guidance=classifier_free", "guidance.interval=[-1,4]"]
    )


class Plain(nn.Module):
    """A user's own network, which knows nothing of classes."""

    def __init__(self, in_channels: Given[int], out_channels: Given[int], size: Given[int | None]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, out_channels, 1)


def test_an_own_network_without_classes_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setenv("DDPM_LAB_TARGETS", __name__)
    cfg = composed(*CONDITIONAL)
    cfg.net = {"_target_": f"{__name__}.Plain"}
    build = functools.partial(build_model, cfg, (1, 8, 8), 17)
    with pytest.raises(UserError, match=r"data\.conditional=true: Plain takes no classes.*forward.*data\.conditional=false"):
        build(class_counts=COUNTS)
    assert isinstance(build().net, Plain)
