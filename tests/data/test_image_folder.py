"""Image files of every kind: the pixels that arrive, and one answer that names whatever fits no choice."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from messages import naming
from PIL import Image

from ddpm_lab.data.image_folder import ImageFolder
from ddpm_lab.data.memory import seeded_split
from ddpm_lab.errors import UserError

SIDE = 6


def colours(seed: int = 0, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """H W 3."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two images that are always good, before (0.png) and after (z.png) whatever a test adds."""
    save(tmp_path / "0.png", colours(100))
    save(tmp_path / "z.png", colours(101))
    return tmp_path


def images(path: Path, **arguments) -> np.ndarray:
    """All of a folder, in the order of their names: N C H W."""
    data = ImageFolder(str(path), **{"size": SIDE, "val_fraction": 0.5, **arguments})
    data.setup()
    n = len(data.train_images) + len(data.val_images)
    train, held = seeded_split(n, data.val_fraction, data.split_seed)
    array = np.empty((n, *data.shape), np.uint8)
    array[train], array[held] = data.train_images.numpy(), data.val_images.numpy()
    return array


def middle(path: Path, **arguments) -> np.ndarray:
    """The one image that a test added, H W C."""
    array = images(path, **arguments)
    assert len(array) == 3
    return array[1].transpose(1, 2, 0)


def refused(path: Path, *parts: str, **arguments) -> None:
    """UserError that names all the parts."""
    with pytest.raises(UserError, match=naming(*parts)):
        images(path, **arguments)


@pytest.mark.parametrize("suffix", ["png", "bmp", "PNG", "webp"])
def test_lossless_pixels_arrive_as_they_are(suffix, folder):
    save(folder / f"a.{suffix}", colours(), **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(middle(folder), colours())


@pytest.mark.parametrize("suffix", ["jpg", "JPEG"])
def test_jpeg_arrives_nearly(suffix, folder):
    smooth = np.full((SIDE, SIDE, 3), (200, 100, 50), np.uint8)
    save(folder / f"a.{suffix}", smooth, quality=95)
    assert np.abs(middle(folder).astype(int) - smooth).max() <= 3


def test_folders_below_in_one_order_and_others_left_out(tmp_path):
    names = ["b/2.png", "a.png", "b/1.png", "b/c/d.png", "A.png"]
    for i, name in enumerate(names):
        save(tmp_path / name, colours(i))
    for name in (".hidden.png", "b/._1.png", ".cache/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "readme.txt").write_text("hello")
    expected = np.stack([colours(names.index(name)) for name in ("A.png", "a.png", "b/1.png", "b/2.png", "b/c/d.png")])
    assert np.array_equal(images(tmp_path), expected.transpose(0, 3, 1, 2))


def test_the_split_and_the_fingerprint_are_fixed_by_the_seed(tmp_path):
    for i in range(10):
        save(tmp_path / f"{i}.png", colours(i))

    def loaded(seed: int) -> ImageFolder:
        data = ImageFolder(str(tmp_path), SIDE, val_fraction=0.3, split_seed=seed)
        data.setup()
        return data

    assert loaded(0).state_dict() == loaded(0).state_dict() != loaded(1).state_dict()
    assert len(loaded(0).val_images) == 3


def test_grey_and_colour_either_way(folder):
    grey = colours()[:, :, 0]
    save(folder / "a.png", grey)
    assert np.array_equal(middle(folder), np.repeat(grey[:, :, None], 3, 2))
    assert np.array_equal(middle(folder, channels=1)[:, :, 0], grey)
    save(folder / "a.png", colours())
    luma = colours() @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    assert np.abs(middle(folder, channels=1)[:, :, 0] - luma).max() <= 0.51


def test_one_bit(folder):
    bits = colours()[:, :, 0] > 127
    Image.fromarray(bits).save(folder / "a.png")
    assert np.array_equal(middle(folder, channels=1)[:, :, 0], bits * 255)


def test_palettes_are_looked_up(folder):
    palette = np.array([[255, 0, 0], [0, 200, 0], [7, 8, 9]], np.uint8)
    which = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3
    image = Image.fromarray(which.astype(np.uint8))
    image.putpalette(palette.tobytes())
    for name in ("a.png", "a.gif"):
        image.save(folder / name)
        assert np.array_equal(middle(folder), palette[which])
        (folder / name).unlink()


def test_the_first_frame_of_a_gif(folder):
    frames = [Image.new("L", (SIDE, SIDE), value) for value in (10, 200)]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    assert (middle(folder) == 10).all()


def test_transparency_is_refused_by_name_or_put_on_a_background(folder):
    alpha = np.full((SIDE, SIDE, 1), 255, np.uint8)
    alpha[0, 0], alpha[0, 1] = 0, 51
    save(folder / "a.png", np.concatenate([colours(), alpha], axis=2))
    refused(folder, "data.alpha=refuse", "a.png (alpha down to 0)", "data.alpha=white", "data.alpha=black")
    for background, value in (("white", 255), ("black", 0)):
        share = alpha / 255
        expected = colours() * share + value * (1 - share)
        assert np.abs(middle(folder, alpha=background) - expected).max() <= 1
    save(folder / "a.png", np.concatenate([colours(), np.full_like(alpha, 255)], axis=2))
    assert np.array_equal(middle(folder), colours())  # nothing is seen through


def test_transparency_of_palettes_greys_and_16_bits(folder):
    which = np.tile(np.array([0, 1], np.uint8), (SIDE, SIDE // 2))
    image = Image.fromarray(which)
    image.putpalette([9, 9, 9, 100, 110, 120])
    sixteen = Image.fromarray(np.where(which == 0, 0x1234, 0x6EFF).astype(np.uint16))
    for kind in (image, Image.fromarray(which * 100), sixteen):
        kind.save(folder / "a.png", transparency=0x1234 if kind is sixteen else 0)
        refused(folder, "a.png (alpha down to 0)")
        seen = middle(folder, alpha="white")
        assert (seen[:, ::2] == 255).all()
        assert set(np.unique(seen[:, 1::2])) <= {100, 110, 120}


def test_sixteen_bits_keep_the_upper_eight(folder):
    grey = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
    Image.fromarray(grey).save(folder / "a.png")
    assert np.array_equal(middle(folder, channels=1)[:, :, 0], grey >> 8)
    assert np.array_equal(middle(folder)[:, :, 2], grey >> 8)
    colour = np.random.default_rng(1).integers(0, 65536, (SIDE, SIDE, 3)).astype(np.uint16)
    (folder / "a.png").write_bytes(png_of_16_bit_colour(colour))
    assert np.array_equal(middle(folder), colour >> 8)


def png_of_16_bit_colour(array: np.ndarray) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_crop_center_takes_the_largest_square_from_the_middle(folder):
    wide = colours(width=10)
    save(folder / "a.png", wide)
    assert np.array_equal(middle(folder), wide[:, 2:8])
    save(folder / "a.png", wide.transpose(1, 0, 2))
    assert np.array_equal(middle(folder), wide.transpose(1, 0, 2)[2:8])


def test_what_is_not_square_is_refused_by_name(folder):
    for i in range(12):
        save(folder / f"a{i:02}.png", colours(width=10))
    shown = ", ".join(f"a{i:02}.png (10×6)" for i in range(10))
    refused(folder, f"data.crop=none: 12 not square: {shown} and 2 more", "data.crop=center", crop="none")


def test_resize_none_cuts_or_refuses(folder):
    save(folder / "a.png", colours(width=10, height=9))
    assert np.array_equal(middle(folder, resize="none"), colours(width=10, height=9)[1:7, 2:8])
    save(folder / "a.png", colours(width=10, height=10))
    refused(folder, "data.resize=none", "a.png (10×10)", "data.resize=bicubic", resize="none", crop="none")
    save(folder / "a.png", colours(width=10, height=5))
    refused(folder, "data.resize=none", "a.png (10×5)", "data.resize=bicubic", resize="none")


def test_box_is_the_mean_and_every_filter_differs(folder):
    big = colours(width=2 * SIDE, height=2 * SIDE)
    save(folder / "a.png", big)
    mean = big.reshape(SIDE, 2, SIDE, 2, 3).mean((1, 3))
    assert np.abs(middle(folder, resize="box") - mean).max() <= 1
    seen = [middle(folder, resize=name).tobytes() for name in ("bicubic", "bilinear", "box", "lanczos")]
    assert len(set(seen)) == 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image(orientation, folder):
    """Of each orientation, by what the standard says is the top row and the left column of what is seen."""
    stored = colours()
    seen = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(folder / "a.png", stored, exif=exif)
    assert np.array_equal(middle(folder), seen)


def test_files_that_cannot_be_read_are_all_named_or_left_out(folder):
    good = (folder / "0.png").read_bytes()
    damage = [b"", b"hello", good[:60], good[:-30], good[:41] + b"\xff\xff" + good[43:]]
    for i, content in enumerate(damage):
        (folder / f"a{i}.png").write_bytes(content)
    with pytest.raises(UserError) as error:
        images(folder)
    assert str(error.value).startswith("data.unreadable=refuse: 5 unreadable: a0.png (cannot identify image file")
    assert all(f"a{i}.png (" in str(error.value) for i in range(5))
    assert "data.unreadable=skip" in str(error.value)
    data = ImageFolder(str(folder), SIDE, unreadable="skip", val_fraction=0.5)
    data.setup()
    assert len(data.train_images) == len(data.val_images) == 1
    assert {image.numpy().tobytes() for image in (data.train_images[0], data.val_images[0])} == {
        colours(seed).transpose(2, 0, 1).tobytes() for seed in (100, 101)
    }
    assert data.notes[0].startswith("data.unreadable=skip: left out 5 unreadable: a0.png (")
    (folder / "0.png").write_bytes(b"")
    refused(folder, f"data.path={folder}: 1 of 7 images", "at least 2", unreadable="skip")


def test_a_wrong_suffix_is_no_obstacle(folder):
    save(folder / "a.png", colours())
    os.rename(folder / "a.png", folder / "a.jpg")
    assert np.array_equal(middle(folder), colours())


def test_no_folder_and_none_in_it(tmp_path):
    refused(tmp_path / "none", f"data.path={tmp_path / 'none'}", "no such folder")
    refused(tmp_path, f"data.path={tmp_path}: no images", "at least 2", "*.png, *.jpg,")
    save(tmp_path / "a.png", colours())
    refused(tmp_path, "1 images in it or below it")
