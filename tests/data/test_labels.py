"""Labels follow their data into batches; a share is hidden, the same on every machine; those that do not fit are refused."""

import math
import re

import numpy as np
import pytest
import torch
from formats import random_images
from PIL import Image

from ddpm_lab.core import rng
from ddpm_lab.data.digits import Digits
from ddpm_lab.data.gaussian_mixture import GaussianMixture
from ddpm_lab.data.image_folder import ImageFolder
from ddpm_lab.data.labels import Labels
from ddpm_lab.data.memory import OrderedBatches, Slice, TrainStream
from ddpm_lab.data.npz import Npz
from ddpm_lab.errors import UserError

N, CLASSES = 40, 4
RAW = torch.arange(N, dtype=torch.uint8).reshape(N, 1, 1, 1).expand(N, 1, 2, 2)
OF_DATA = torch.arange(N) % CLASSES


def stream(dropout: float, part: Slice = Slice(), flip: bool = True) -> TrainStream:  # noqa: B008
    return TrainStream(RAW, N, 24, 10, 3, flip, part, Labels(OF_DATA, CLASSES, dropout))


def which(batch) -> torch.Tensor:
    """The data of a batch, which their grey levels number."""
    return ((batch.x0[:, 0, 0, 0] + 1) * (N - 1) / 2).round().long()


def test_labels_are_those_of_the_rows_and_change_no_datum():
    for plain, labelled in zip(TrainStream(RAW, N, 24, 10, 3, True), stream(0.0), strict=True):
        assert torch.equal(plain.x0, labelled.x0)
        assert plain.condition == ()
        assert torch.equal(labelled.condition[0], OF_DATA[which(labelled)])


def test_a_share_is_hidden_by_seed_batch_and_row_alone():
    hidden = torch.cat([batch.labels == CLASSES for batch in stream(0.3)])
    drawn = torch.cat([rng.uniform(3, "labels", counter, 0, 24) for counter in range(10)])
    assert torch.equal(hidden, drawn < 0.3)
    others = torch.cat([batch.labels for batch in stream(0.3)])[~hidden]
    assert torch.equal(others, torch.cat([batch.labels for batch in stream(0.0)])[~hidden])
    for rank in range(2):
        for piece in range(3):
            batch = stream(0.3, Slice(rank, 2, 3)).batch(7, piece)
            assert torch.equal(batch.labels, stream(0.3).batch(7).labels[batch.first : batch.first + len(batch.x0)])


def test_every_validation_datum_has_its_label_on_every_process():
    parts = [list(OrderedBatches(RAW, N, 15, Slice(rank, 2), OF_DATA)) for rank in range(2)]
    batches = [batch for pair in zip(*parts, strict=True) for batch in pair]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), OF_DATA)
    assert all(torch.equal(batch.labels, OF_DATA[which(batch)]) for batch in batches)


def test_digits_are_conditional_only_when_asked():
    plain, data = Digits(), Digits(conditional=True, label_dropout=0.25)
    for one in (plain, data):
        one.setup()
    counts = [int((data.train_labels == c).sum()) for c in range(10)]
    assert (plain.of_classes(), plain.condition("val", 0, 5)) == (None, ())
    assert data.of_classes() == (tuple(counts), 0.25)
    assert data.of_classes().null == 10
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.x0, next(iter(plain.train_dataloader())).x0)
    assert 0 < (batch.labels == 10).sum() < 64
    assert torch.equal(torch.cat([b.labels for b in data.val_dataloader()]), data.labels("val"))


def test_a_checkpoint_refuses_other_labels_and_scores_know_the_same_images():
    plain, data = Digits(), Digits(conditional=True)
    for one in (plain, data):
        one.setup()
    before = data.state_dict()
    assert data.fingerprint() == plain.fingerprint() == before["sha256"] == plain.state_dict()["sha256"]
    data.load_state_dict(before)
    with pytest.raises(UserError):
        data.load_state_dict(plain.state_dict())
    other = Digits(conditional=True)
    other.setup()
    other.val_labels = other.val_labels.flip(0)
    with pytest.raises(UserError):
        other.load_state_dict(before)


def test_a_class_without_training_data_is_refused():
    data = Digits(conditional=True)
    load = data.load

    def without_sixes():
        both = load()
        data.train_labels = torch.where(data.train_labels == 6, 5, data.train_labels)
        return both

    data.load = without_sixes
    with pytest.raises(UserError, match=r"data\.conditional=true.* 6 of 0 to 9"):
        data.setup()


def test_a_mixture_knows_the_density_of_each_point_in_its_own_component():
    data = GaussianMixture(components=3, std=0.2, n_train=500, n_val=300, conditional=True)
    data.setup()
    x, labels = data.val_images.double(), data.labels("val")
    squared = ((x - data.means[labels]) ** 2).sum(1)
    nats = (squared / (2 * 0.2**2) + math.log(2 * math.pi * 0.2**2)).mean()
    assert data.known_bpd() == pytest.approx(float(nats) / (2 * math.log(2)))
    plain = GaussianMixture(components=3, std=0.2, n_train=500, n_val=300)
    plain.setup()
    assert torch.equal(plain.val_images, data.val_images)
    assert plain.known_bpd() > data.known_bpd() + 0.5  # log2(3)/2 if they did not overlap


# --- a user's own ----------------------------------------------------------------------------------------------------------

IMAGES = random_images(30, 1, 8)
GOOD = np.arange(30) % 3


@pytest.fixture
def file(tmp_path):
    def write(**arrays) -> str:
        np.savez(tmp_path / "x.npz", images=IMAGES, **arrays)
        return str(tmp_path / "x.npz")

    return write


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16])
def test_labels_of_an_npz_stay_with_their_images(file, dtype):
    data = Npz(file(y=GOOD.astype(dtype)), label_key="y", conditional=True)
    data.setup()
    assert (data.classes, data.labels("train").dtype) == (3, torch.int64)
    label_of = {image.tobytes(): label for image, label in zip(IMAGES, GOOD, strict=True)}
    for split in ("train", "val"):
        assert [label_of[image.numpy().tobytes()] for image in data.raw(split)] == data.labels(split).tolist()


WRONG = {
    "of another length": (GOOD[:-1], r"data\.label_key=y .*\[29\].*30"),
    "two to an image": (np.stack([GOOD, GOOD], 1), r"data\.label_key=y .*\[30, 2\]"),
    "fractions": (GOOD / 2, r"data\.label_key=y .*float64"),
    "negative": (GOOD - 1, r"data\.label_key=y .*-1"),
    "huge": (np.where(GOOD == 2, 10**12, GOOD), rf"data\.label_key=y .*{10**12}"),
    "with a gap": (GOOD * 2, r"data\.conditional=true.* 1 of 0 to 4"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_do_not_fit_are_refused(file, name):
    labels, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        Npz(file(y=labels), label_key="y", conditional=True).setup()


def test_labels_of_validation_images_have_their_own_array(file):
    path = file(y=GOOD, val=IMAGES[:6], val_y=GOOD[:6], worse=np.arange(6))
    keys = {"key": "images", "label_key": "y", "val_key": "val", "conditional": True}
    data = Npz(path, val_label_key="val_y", **keys)
    data.setup()
    assert data.labels("val").tolist() == GOOD[:6].tolist()
    with pytest.raises(UserError, match=r"data\.val_label_key=worse.* 5;.*label_key=y"):
        Npz(path, val_label_key="worse", **keys).setup()
    with pytest.raises(UserError, match=r"data\.val_label_key=none: no such array"):
        Npz(path, val_label_key="none", **keys).setup()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"conditional": True}, "conditional=true.*label_key"),
        ({"label_key": "y", "val_key": "v"}, "val_label_key=null.*label_key=y.*val_key=v"),
        ({"val_label_key": "y"}, "val_label_key=y"),
        ({"val_label_key": "y", "label_key": "y"}, "val_label_key=y.*val_key=null"),
    ],
)
def test_keys_that_need_another_are_refused_before_the_file_is_read(file, keys, message):
    with pytest.raises(ValueError, match=message):
        Npz(file(y=GOOD), **keys)


def test_the_class_of_an_image_is_its_folder(tmp_path):
    for i, name in enumerate(["cat/a", "cat/deep/b", "ant/a", "ant/b", "bee/a", "bee/b"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 10 * i, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "ant" / "broken.png").write_text("no image")
    chosen = {"size": 4, "channels": 1, "unreadable": "skip", "val_fraction": 0.1, "split_seed": 1}
    data = ImageFolder(str(tmp_path), conditional=True, **chosen)
    data.setup()
    assert data.classes == 3
    assert re.search("0 ant, 1 bee, 2 cat", "\n".join(data.notes))
    images, labels = (torch.cat([of(split) for split in ("train", "val")]) for of in (data.raw, data.labels))
    both = zip((images[:, 0, 0, 0] // 20).tolist(), labels.tolist(), strict=True)
    assert {label: folder for folder, label in both} == {2: 0, 0: 1, 1: 2}
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "loose.png")
    with pytest.raises(UserError, match=r"data\.conditional=true: loose\.png"):
        ImageFolder(str(tmp_path), conditional=True, **chosen).setup()
    ImageFolder(str(tmp_path), **chosen).setup()
