"""MNIST and Fashion-MNIST from IDX files, packed and not."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from formats import gzipped, idx, random_images
from messages import naming

from ddpm_lab.data import published
from ddpm_lab.data.memory import seeded_split
from ddpm_lab.data.mnist import FILES, MNIST, FashionMNIST, parse_idx
from ddpm_lab.errors import UserError

TRAIN, TEST = random_images(30, 1, 28, seed=1)[:, 0], random_images(12, 1, 28, seed=2)[:, 0]
TRAIN_LABELS, TEST_LABELS = (np.arange(30) % 10).astype(np.uint8), (np.arange(12)[::-1] % 10).astype(np.uint8)
ARRAYS = {"train_images": TRAIN, "train_labels": TRAIN_LABELS, "test_images": TEST, "test_labels": TEST_LABELS}


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def publish(monkeypatch, root: Path, packed: bool = True, mirrors: tuple[str, ...] = ("file:///nowhere/",)) -> None:
    """Write the four files and make their checksums the published ones."""
    root.mkdir(parents=True, exist_ok=True)
    sums = {}
    for key, name in FILES.items():
        content = idx(ARRAYS[key])
        sums[key] = (md5(gzipped(content)), md5(content))
        (root / (f"{name}.gz" if packed else name)).write_bytes(gzipped(content) if packed else content)
    for kind in (MNIST, FashionMNIST):
        monkeypatch.setattr(kind, "checksums", sums)
        monkeypatch.setattr(kind, "mirrors", mirrors)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    publish(monkeypatch, tmp_path / "mnist")
    return tmp_path / "mnist"


def loaded(root: Path, kind: type[MNIST] = MNIST, **arguments) -> MNIST:
    data = kind(str(root), **arguments)
    data.setup()
    return data


def refused(root: Path, *parts: str, **arguments) -> None:
    """UserError that names all the parts."""
    with pytest.raises(UserError, match=naming(*parts)):
        loaded(root, **arguments)


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
@pytest.mark.parametrize("packed", [True, False])
def test_pixels_and_labels_arrive_inside_a_border_of_zeros(packed, kind, tmp_path, monkeypatch):
    publish(monkeypatch, tmp_path, packed)
    data = loaded(tmp_path, kind)
    assert (data.shape, data.levels, data.classes, data.flip) == ((1, 32, 32), 256, 10, False)
    assert np.array_equal(data.train_images[:, 0, 2:-2, 2:-2], TRAIN)
    assert np.array_equal(data.val_images[:, 0, 2:-2, 2:-2], TEST)
    assert data.train_images.sum() == TRAIN.sum(dtype=np.int64)  # so the border is zeros
    assert np.array_equal(data.train_labels, TRAIN_LABELS)
    assert np.array_equal(data.val_labels, TEST_LABELS)
    assert (data.train_images.dtype, data.train_labels.dtype) == (torch.uint8, torch.int64)


def test_the_border_is_a_choice(root):
    plain = loaded(root, pad=28)
    assert np.array_equal(plain.train_images[:, 0], TRAIN)
    assert plain.state_dict() != loaded(root).state_dict()


def test_later_runs_need_only_what_was_made_of_the_files(root, monkeypatch):
    first = loaded(root)
    for path in root.glob("*ubyte*"):
        path.unlink()
    monkeypatch.setattr("ddpm_lab.data.mnist.parse_idx", None)
    again = loaded(root, download=False)
    assert torch.equal(again.train_images, first.train_images)
    assert again.state_dict() == first.state_dict()


def test_a_split_of_the_training_images(root):
    data = loaded(root, validation="split", val_fraction=0.2, pad=28)
    train, held = seeded_split(30, 0.2, 0)
    assert np.array_equal(data.train_images[:, 0], TRAIN[train])
    assert np.array_equal(data.val_images[:, 0], TRAIN[held])
    assert np.array_equal(data.val_labels, TRAIN_LABELS[held])


@pytest.mark.parametrize("packed", [True, False])
def test_damaged_files_are_named(packed, tmp_path, monkeypatch):
    publish(monkeypatch, tmp_path, packed)
    for key in ("train_images", "test_labels"):
        path = tmp_path / (FILES[key] + ".gz" * packed)
        whole = path.read_bytes()
        for content in (whole[:-1], b"", whole[:8] + b"\xff" + whole[9:]):
            path.write_bytes(content)
            refused(tmp_path, str(path), "checksum", "md5:")
        path.write_bytes(whole)
    loaded(tmp_path)


def test_fashion_is_not_taken_for_digits(root, monkeypatch):
    sums = {key: (md5(key.encode()), md5(key.encode())) for key in FILES}
    monkeypatch.setattr(FashionMNIST, "checksums", sums)
    refused(root, f"{root / FILES['train_images']}.gz", "checksum", kind=FashionMNIST)


def test_idx_of_any_shape():
    for shape in ((5,), (2, 3), (2, 3, 4), (0, 28, 28)):
        array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        assert np.array_equal(parse_idx(idx(array)), array)


def test_absent_files_are_downloaded_from_the_first_mirror_that_has_them(tmp_path, monkeypatch):
    publish(
        monkeypatch, tmp_path / "served", mirrors=((tmp_path / "gone").as_uri() + "/", (tmp_path / "served").as_uri() + "/")
    )
    assert np.array_equal(loaded(tmp_path / "new", pad=28).train_images[:, 0], TRAIN)
    assert len(list((tmp_path / "new").glob("*.gz"))) == 4


def test_without_network_it_says_what_to_put_where(root, monkeypatch):
    def no_network(url: str, timeout: float) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(published, "urlopen", no_network)
    path = root / "t10k-images-idx3-ubyte.gz"
    path.unlink()
    refused(root, f"data.root={root}: {path.name}", f"file:///nowhere/{path.name}: Name or")
    refused(root, f"file:///nowhere/{path.name}", str(path))
    refused(root, path.name, "data.download=false", download=False)
