"""Images from a user's file: three layouts, and an answer to whatever else is in it."""

import io
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from formats import Payload
from messages import naming

from ddpm_lab.data.memory import seeded_split
from ddpm_lab.data.npz import Npz
from ddpm_lab.errors import UserError


def images(n: int = 12, channels: int = 3, side: int = 5, seed: int = 0) -> np.ndarray:
    """N C H W, uint8, both 0 and 255 among them."""
    array = np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), dtype=np.uint8)
    array[0, 0, 0, :2] = 0, 255
    return array


def save(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "my.npz"


LAYOUTS = {
    "NCHW colour": (3, lambda a: a),
    "NHWC colour": (3, lambda a: a.transpose(0, 2, 3, 1)),
    "NHW": (1, lambda a: a[:, 0]),
    "NCHW grey": (1, lambda a: a),
    "NHWC grey": (1, lambda a: a.transpose(0, 2, 3, 1)),
    "Fortran order": (3, lambda a: np.asfortranarray(a)),
}


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_pixels(layout, suffix, tmp_path):
    channels, arrange = LAYOUTS[layout]
    source, path = images(channels=channels), tmp_path / f"my.{suffix}"
    if suffix == "npz":
        np.savez_compressed(path, arrange(source))
    else:
        np.save(path, arrange(source))
    data = Npz(str(path), val_fraction=0.25)
    data.setup()
    train, held = seeded_split(12, 0.25, 0)
    assert torch.equal(data.train_images, torch.from_numpy(source)[train])
    assert torch.equal(data.val_images, torch.from_numpy(source)[held])
    assert data.shape == (channels, 5, 5)


def test_the_one_image_array_is_found_among_others(file):
    path = save(file, labels=np.arange(12), x=images(), weights=np.ones((12, 5, 5)), mask=np.ones(12, np.uint8))
    data = Npz(path)
    data.setup()
    assert len(data.train_images) + len(data.val_images) == 12


def test_key_and_val_key_choose_and_nothing_is_split(file):
    path = save(file, a=images(7, seed=1), b=images(9, seed=2), c=images(4, seed=3))
    data = Npz(path, key="b", val_key="c", val_fraction=0.9)
    data.setup()
    assert torch.equal(data.train_images, torch.from_numpy(images(9, seed=2)))
    assert torch.equal(data.val_images, torch.from_numpy(images(4, seed=3)))


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "my.npz", x=images())
    data = Npz("~/my.npz")
    data.setup()
    assert len(data.train_images) + len(data.val_images) == 12


def test_few_levels_are_scaled_to_both_ends(file):
    path = save(file, x=np.tile(np.array([[0, 1]], np.uint8), (6, 2)).reshape(6, 2, 2))
    data = Npz(path, levels=2, flip=False)
    data.setup()
    assert data.scaled("train").unique().tolist() == [-1, 1]


def refused(path: str | Path, *parts: str, **arguments) -> None:
    """UserError that names all the parts."""
    with pytest.raises(UserError, match=naming(*parts)):
        Npz(str(path), **arguments).setup()


def test_wrong_choices_are_answered(file):
    path = save(file, a=images(), b=images(), c=images(side=4), labels=np.arange(12))
    refused(path, "data.path=", "3 image arrays", "data.key", "a uint8[12, 3, 5, 5], b uint8")
    refused(path, "data.key=A", "my.npz", "a, b, c, labels", key="A")
    refused(path, "data.val_key=z", "my.npz", "a, b, c, labels", key="a", val_key="z")
    refused(path, "data.key: labels is int64", "uint8", "data.levels", key="labels")
    refused(path, "data.val_key: labels is int64", key="a", val_key="labels")
    refused(path, "data.val_key=c", "(3, 4, 4)", "(3, 5, 5)", key="a", val_key="c")
    refused(path, "data.levels=16: a", "255", key="a", levels=16)
    refused(path, "data.val_fraction=0.95", "12 data", key="a", val_fraction=0.95)


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (images().astype(np.float32), ["uint8", "x float32[12, 3, 5, 5]"]),
        (images()[:, :, :4], ["x ", "4×5", "square"]),
        (images(channels=4), ["x ", "[12, 4, 5, 5]", "N×C×H×W, N×H×W×C and N×H×W with C 1 or 3"]),
        (images(channels=2).transpose(0, 2, 3, 1), ["x ", "[12, 5, 5, 2]", "N×C×H×W"]),
        (images(1), ["x ", "1 images of 5×5", "at least 2"]),
        (images()[:0], ["x ", "0 images of 5×5", "at least 2"]),
        (images()[:, :, :0, :0], ["x ", "12 images of 0×0", "at least 2"]),
    ],
    ids=["float", "not square", "four channels", "two channels", "one image", "no image", "no pixels"],
)
def test_wrong_arrays_are_answered(array, parts, file):
    refused(save(file, x=array), *parts)


def test_an_npy_has_no_name_but_its_own(tmp_path):
    np.save(tmp_path / "my.npy", images().astype(np.int16))
    refused(tmp_path / "my.npy", "no uint8 images in it")
    np.save(tmp_path / "my.npy", images())
    refused(tmp_path / "my.npy", "data.levels=9: my.npy", "255", levels=9)
    refused(tmp_path / "my.npy", "data.key=x", "my.npy", key="x")


def flipped_bits(content: bytes, where: range) -> bytes:
    return bytes(byte ^ 0xFF if i in where else byte for i, byte in enumerate(content))


def compressed() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=images(40))
    return buffer.getvalue()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy_claiming(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


UNREADABLE = {
    "empty": b"",
    "text": b"hello, world\n" * 10,
    "cut short": compressed()[:1500],
    "npy cut short": npy_claiming("(10, 8, 8)") + b"0" * 30,
    "bad checksum": flipped_bits(compressed(), range(2900, 2901)),
    "pickled object": pickle.dumps({"x": images()}),
}
BROKEN = {
    "bad deflate stream": flipped_bits(compressed(), range(60, 80)),
    "of petabytes": npy_claiming("(10**14, 8, 8)".replace("10**14", "1" + "0" * 14)),
    "zip of text": zipped(**{"readme.txt": b"hello"}),
}


@pytest.mark.parametrize("case", [*UNREADABLE, *BROKEN])
def test_what_is_not_a_file_of_arrays_is_answered(case, file):
    file.write_bytes((UNREADABLE | BROKEN)[case])
    refused(file, f"data.path={file}: ", "not readable as .npz or .npy")


@pytest.mark.parametrize("name", ["none.npz", ""])
def test_no_file_or_a_folder_is_answered(tmp_path, name):
    with pytest.raises(ValueError, match=rf"^path={re.escape(str(tmp_path / name))}: .*file"):
        Npz(str(tmp_path / name))


def test_a_pickle_in_an_array_is_refused_and_not_run(tmp_path):
    trap = tmp_path / "trap"
    array = np.array([Payload(trap)] * 3, dtype=object)
    np.savez(tmp_path / "evil.npz", x=array, y=images())
    np.save(tmp_path / "evil.npy", array, allow_pickle=True)
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Payload(trap)))
    for name in ("evil.npz", "evil.npy", "plain.npy"):
        refused(tmp_path / name, "not readable as .npz or .npy")
    assert not trap.exists()
