"""The classifier that is trained on the data's labels: repeatable, kept, right about real images and deaf to garbage."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from formats import random_images
from torch import Tensor

from ddpm_lab.data.cifar10 import CIFAR10
from ddpm_lab.data.digits import Digits
from ddpm_lab.data.image_folder import ImageFolder
from ddpm_lab.data.memory import InMemory
from ddpm_lab.data.store import Store
from ddpm_lab.domains import Incompatible
from ddpm_lab.errors import UserError
from ddpm_lab.metrics import classifier as module
from ddpm_lab.metrics.classifier import Classifier, class_shares
from ddpm_lab.metrics.classifier_training import convnet, default_epochs, train
from ddpm_lab.metrics.extractors import Classifying, extract
from ddpm_lab.metrics.non_images import FAMILIES, halves


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "extractors"


def digits(**arguments) -> Digits:
    data = Digits(**arguments)
    data.setup()
    return data


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def classifier(data, tmp_path_factory) -> Classifier:
    """As a user gets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDPM_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Classifier(epochs=None, batch=100, data=data)


def share(recognised: Tensor) -> float:
    return float(recognised.double().mean())


# --- what it knows ---------------------------------------------------------------------------------------------------------


def test_held_out_digits_are_named_and_recognised(classifier, data):
    judged = classifier.judged(data.scaled("val"))
    right = share(judged.logits.argmax(1) == data.labels("val"))
    assert classifier.record["held_out_accuracy"] == pytest.approx(right, abs=0.003)  # in batches of another size
    assert right > 0.97
    assert share(judged.recognised) > 0.93


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_no_family_of_non_images_passes_in_fresh_draws(classifier, data, family):
    x, g = (data.scaled("val") + 1) / 2, torch.Generator().manual_seed(1_000_003)
    made = family(x, data.labels("val"), g).clamp(0, 1) * 2 - 1
    assert share(classifier.judged(made).recognised) <= (
        0.25 if family is halves else 0.05
    )  # some pairs of halves do make a digit


def test_garbage_never_trained_on_fails(classifier, data):
    x = data.scaled("val")
    for made in (x.roll((4, 4), dims=(2, 3)), -x):
        assert share(classifier.judged(made).recognised) <= 0.05


def test_features_logits_and_judgement_are_of_one_pass(classifier, data):
    x = data.scaled("val")[:230]
    judged, (features, logits) = classifier.judged(x), extract(classifier, x)
    assert isinstance(classifier, Classifying)
    assert (features.shape, logits.shape, judged.recognised.shape) == ((230, 128), (230, 10), (230,))
    assert torch.equal(features, judged.features)
    assert torch.equal(classifier(x), judged.features)
    with torch.no_grad():
        whole = classifier._net((x + 1) / 2)  # reject too, in float32
    torch.testing.assert_close(judged.logits.float(), whole[:, :10], rtol=1e-3, atol=1e-3)
    sure = whole.softmax(1)[:, :10].amax(1)
    clear = (sure - 0.8).abs() > 1e-3
    assert torch.equal(judged.recognised[clear], (sure > 0.8)[clear])
    torch.testing.assert_close(classifier.judged(x[:7]).features, judged.features[:7], rtol=1e-4, atol=1e-4)
    assert features.min() == 0


def test_it_sees_grey_levels(classifier, data):
    x = data.scaled("val")[:20]
    assert torch.equal(classifier(x + 0.4 / 8), classifier(x))  # a level is 1/8


def test_shares_of_classes():
    shares = class_shares(torch.eye(5)[[0, 0, 3, 4]])
    assert shares.tolist() == [0.5, 0, 0, 0.25, 0.25]


def test_names(classifier):
    assert re.fullmatch("classifier@[0-9a-f]{8}", classifier.name)
    assert classifier.record["weights_sha256"].startswith(classifier.name.removeprefix("classifier@"))
    assert [classifier.key(n) for n in (256, 50_000)] == ["classifier_fd@256", "classifier_fd"]
    assert classifier.key(8, "is") == "classifier_is@8"
    assert classifier.label(8, "kid") == f"{classifier.name} kernel distance @8"


# --- the same weights for the same data ------------------------------------------------------------------------------------


def small(seed: int = 0, epochs: int = 1, **arguments) -> Classifier:
    return Classifier(seed, epochs, 64, data=digits(val_fraction=0.8, **arguments))


def test_it_is_a_function_of_data_seed_and_epochs(place):
    state = torch.get_rng_state()
    first = small()
    assert torch.equal(torch.get_rng_state(), state)
    for path in place.iterdir():
        path.unlink()
    torch.rand(3)
    assert small().sha256 == first.sha256
    others = [small(seed=1), small(epochs=2), small(split_seed=1), small(flip=True)]
    assert len({made.sha256 for made in (first, *others)}) == 5
    assert len(list(place.glob("*.pt"))) == 5


def test_training_does_not_depend_on_threads():
    data = digits(val_fraction=0.8)
    arguments = (data.train_images, data.labels("train"), 10, 17, False, 0, 1)
    alone = train(*arguments).state_dict()
    torch.set_num_threads(2)
    try:
        again = train(*arguments).state_dict()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(again[name], value) for name, value in alone.items())


def test_it_is_trained_once_and_says_so(place, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    first = small()
    assert all(named in caplog.messages[0] for named in ("metrics=classifier", "359", "1 epochs"))
    monkeypatch.setattr(module, "train", None)
    state = torch.get_rng_state()
    again = small()
    assert torch.equal(torch.get_rng_state(), state)
    assert (again.name, again.record) == (first.name, first.record)
    assert torch.equal(again(torch.zeros(2, 1, 8, 8)), first(torch.zeros(2, 1, 8, 8)))
    assert len(caplog.messages) == 2
    (about,) = place.glob("*.json")
    assert json.loads(about.read_text())["training_recipe"] == 1


def test_other_labels_of_the_same_images_are_trained_anew(place):
    data = digits(val_fraction=0.8)
    data.train_labels = 9 - data.train_labels
    assert Classifier(0, 1, 64, data=data).sha256 != small().sha256
    assert len(list(place.glob("*.pt"))) == 2


def test_another_recipe_is_trained_anew(place, monkeypatch):
    small()
    monkeypatch.setattr(module, "RECIPE", 2)
    small()
    assert len(list(place.glob("*.pt"))) == 2


def test_a_damaged_file_is_made_anew(place):
    whole = small()
    (path,) = place.glob("*.pt")
    content = path.read_bytes()
    torch.save({"state": {"0.0.weight": torch.zeros(3)}, "accuracy": 1.0}, place / "other")
    torch.save({"accuracy": 1.0}, place / "less")
    for damaged in (b"", content[: len(content) // 2], *((place / name).read_bytes() for name in ("other", "less"))):
        path.write_bytes(damaged)
        assert small().sha256 == whole.sha256
        assert len(path.read_bytes()) == len(content)


def test_a_cache_that_cannot_be_written_is_one_line_and_no_harm(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DDPM_LAB_CACHE", str(tmp_path / "file"))
    small()
    (line,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "could not be written (Not a directory)" in line


# --- other data ------------------------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_colour_images_of_cifars_format(tmp_path):
    """Ten classes, 32×32: a bar at one of five heights, red or blue. Few images are enough."""
    n, labels = 400, torch.arange(400) % 10
    images = torch.from_numpy(random_images(n, 3, 32)) // 8
    for image, label in zip(images, labels.tolist(), strict=True):
        image[label // 5 * 2, 6 * (label % 5) + 1 : 6 * (label % 5) + 6] += 200
    content = {"images": images.numpy(), "labels": labels.to(torch.uint8).numpy()}
    parts = {"train": slice(0, 320), "test": slice(320, None)}
    arrays = {f"{part}_{what}": array[rows] for part, rows in parts.items() for what, array in content.items()}
    Store(tmp_path, "cifar10").write(arrays)
    data = CIFAR10(str(tmp_path))
    data.setup()
    found = Classifier(seed=0, epochs=6, batch=32, data=data)
    assert found.record["held_out_accuracy"] > 0.9
    assert found(data.scaled("val")).shape == (80, 128)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 48, 48)])
def test_networks_of_all_sizes(shape):
    net = convnet(shape, 7).eval()
    assert net(torch.rand(2, *shape)).shape == (2, 8)
    assert sum(p.numel() for p in net.parameters()) < 2_000_000


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (3, 32, 32)])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_families_keep_the_shape_and_depend_on_their_generator_alone(family, shape):
    x, labels = torch.rand(12, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    a, b, c = (family(x.clone(), labels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert a.shape == x.shape
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert family(x[:1], labels[:1], torch.Generator().manual_seed(0)).isfinite().all()  # one image, one class


def test_colours_are_shuffled_and_collected_as_pixels():
    """A pixel keeps the three values it had."""
    x = torch.rand(8, 1, 6, 6).repeat(1, 3, 1, 1) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    for family in FAMILIES[3:5]:
        made = family(x, torch.arange(8), torch.Generator().manual_seed(0))
        torch.testing.assert_close(made[:, 0], 2 * made[:, 1])
        torch.testing.assert_close(made[:, 0], 4 * made[:, 2])


def test_passes_over_the_data():
    assert [default_epochs(n) for n in (100, 1437, 12_500, 10**7)] == [20, 20, 20, 1]


class Unlabelled(InMemory):
    classes = 10  # so it says


def test_data_without_labels_are_answered(tmp_path):
    with pytest.raises(Incompatible, match="labels") as caught:
        Classifier(0, None, 64, data=ImageFolder(str(tmp_path)))
    assert caught.value.arguments == ("metrics", "data")
    wrong = Unlabelled(8)
    wrong.train_images = wrong.val_images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match="data: Unlabelled has no labels"):
        Classifier(0, 1, 64, data=wrong)
