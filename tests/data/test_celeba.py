"""CelebA from a .zip or folder of JPEGs and the official partition: which pixels are cut, what is mapped, what is refused."""

import io
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import naming
from PIL import Image

from ddpm_lab.data import prepare
from ddpm_lab.data.celeba import CelebA
from ddpm_lab.data.memory import TrainStream
from ddpm_lab.data.prepare import CROPS, HEIGHT, WIDTH, main
from ddpm_lab.errors import UserError

PARTITION = {0: 7, 1: 3, 2: 2}
NAMES = [f"{i:06}.jpg" for i in range(1, 13)]


def face(number: int) -> Image.Image:
    """Red counts columns, green counts rows, blue says which image it is."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 20 * number)], axis=2).astype(np.uint8))


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    face(number).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The .zip, its folder, and the partition, as they are published."""
    folder = tmp_path_factory.mktemp("celeba")
    (folder / "img_align_celeba").mkdir()
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/", "")
        for number, name in enumerate(NAMES):
            archive.writestr(f"img_align_celeba/{name}", jpeg(number))
            (folder / "img_align_celeba" / name).write_bytes(jpeg(number))
    parts = [part for part, n in PARTITION.items() for _ in range(n)]
    text = "".join(f"{name} {part}\n" for name, part in zip(NAMES, parts, strict=True))
    (folder / "list_eval_partition.txt").write_text(text)
    return folder


def arguments(published: Path, out: Path, images: str = "img_align_celeba.zip", **options: object) -> list[str]:
    given = {"images": published / images, "partition": published / "list_eval_partition.txt", "out": out, **options}
    return ["celeba", *(f"--{key}={value}" for key, value in given.items())]


@pytest.fixture(scope="module")
def prepared(published, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "celeba"
    assert main(arguments(published, out, crop="ddim128", size=32)) == 0
    return out


@pytest.fixture
def root(prepared, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(prepared, tmp_path / "celeba"))


def loaded(root: Path, **options) -> CelebA:
    data = CelebA(str(root), **{"crop": "ddim128", "size": 32, **options})
    data.setup()
    return data


def refused(root: Path, *parts: str, **options) -> None:
    """UserError that names all the parts."""
    with pytest.raises(UserError, match=naming(*parts)):
        loaded(root, **options)


BOXES = {  # first and last column, first and last row, as each code has it
    "center140": ((178 - 140) // 2, (178 - 140) // 2 + 139, (218 - 140) // 2, (218 - 140) // 2 + 139),
    "ddim128": (89 - 64, 89 + 63, 121 - 64, 121 + 63),
    "tqch148": (15, 15 + 147, 40, 40 + 147),
    "center178": (0, 177, 20, 197),
}


@pytest.mark.parametrize("crop", CROPS)
def test_each_crop_takes_its_pixels(crop, published, tmp_path):
    """Unshrunk, the corners say which columns and rows they were; shrunk, a linear ramp stays one."""
    side = CROPS[crop][2]
    assert main(arguments(published, tmp_path / "whole", crop=crop, size=side)) == 0
    image = loaded(tmp_path / "whole", crop=crop, size=side).train_images[0].int()
    left, right, top, _ = BOXES[crop]
    seen = [image[0, side // 2, 0], image[0, side // 2, -1], image[1, 0, side // 2], image[1, -1, side // 2]]
    assert max(abs(int(a) - b) for a, b in zip(seen, BOXES[crop], strict=True)) <= 1
    assert main(arguments(published, tmp_path / "small", crop=crop, size=16)) == 0
    small = loaded(tmp_path / "small", crop=crop, size=16).train_images[0]
    centres = left - 0.5 + (np.arange(16) + 0.5) * (right - left + 1) / 16
    assert np.abs(small[0, 8, 1:-1].numpy() - centres[1:-1]).max() <= 1.5
    assert np.abs(small[1, 1:-1, 8].numpy() - (centres + top - left)[1:-1]).max() <= 1.5


@pytest.mark.parametrize("images", ["img_align_celeba.zip", "img_align_celeba", "."])
def test_parts_come_in_order_from_a_zip_and_from_a_folder(images, published, tmp_path, capsys):
    assert main(arguments(published, tmp_path, images, size=8)) == 0
    assert f"{tmp_path}: CelebA in 8×8, crop center140: 7 train, 3 val, 2 test" in capsys.readouterr().out
    data, test = (loaded(tmp_path, crop="center140", size=8, validation=part) for part in ("val", "test"))
    numbers = [(part[:, 2].float().mean((1, 2)) / 20).round().int().tolist() for part in (data.train_images, data.val_images)]
    assert numbers == [list(range(7)), [7, 8, 9]]
    assert (test.val_images[:, 2].float().mean((1, 2)) / 20).round().int().tolist() == [10, 11]
    assert (data.shape, data.levels, data.gives, data.flip) == ((3, 8, 8), 256, "images", True)
    assert data.notes == ["CelebA: crop center140, 8×8, bilinear filter"]
    assert data.state_dict() != test.state_dict()


def test_batches_are_gathered_from_the_disk_and_the_file_stays_as_it_is(prepared):
    before = (prepared / "celeba_train.npy").read_bytes()
    data = loaded(prepared)
    in_memory = torch.from_numpy(np.load(prepared / "celeba_train.npy"))
    mapped = [stream.batch(3).x0 for stream in (data.train_dataloader(), TrainStream(in_memory, 256, 128, 1, 0, True))]
    assert torch.equal(*mapped)
    data.train_images[0] = 0  # a copy in memory
    assert (prepared / "celeba_train.npy").read_bytes() == before
    assert isinstance(data.store.read("train", mapped=True), np.memmap)


def test_neither_start_nor_fingerprint_reads_the_images(prepared, monkeypatch):
    monkeypatch.setattr("ddpm_lab.data.store.sha256", None)
    monkeypatch.setattr(torch.Tensor, "numpy", None)
    state = loaded(prepared).state_dict()
    loaded(prepared).load_state_dict(state)


def test_altered_arrays_are_refused_and_copied_ones_are_not(root):
    for path in root.glob("*.npy"):
        path.touch()  # another time, the same content
    first = loaded(root).state_dict()
    path = root / "celeba_val.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(root, str(path), "SHA-256", "celeba.json")
    path.write_bytes(content[:-9])
    refused(root, str(path), "SHA-256", "celeba.json")
    assert loaded(root, validation="test").state_dict() != first


def test_another_crop_or_size_than_prepared_is_refused(prepared):
    refused(prepared, "data.crop=tqch148", str(prepared), "data.crop=ddim128", crop="tqch148")
    refused(prepared, "data.size=64", str(prepared), "data.size=32", size=64)
    refused(prepared, f"{prepare.command(prepared, 'tqch148', 32)}", crop="tqch148")


def test_nothing_prepared(tmp_path):
    refused(tmp_path, f"data.root={tmp_path}", "https://", prepare.command(tmp_path, "ddim128", 32))


def failed(capsys, given: list[str], *parts: str) -> None:
    """Exit code 2 and a message that names all the parts."""
    assert main(given) == 2
    error = capsys.readouterr().err
    assert re.match(naming("error: ", *parts), error), error


def test_absent_files_are_answered_with_the_steps(published, tmp_path, capsys):
    given = arguments(published, tmp_path, images="none.zip")
    failed(capsys, given, f"--images {published / 'none.zip'}", "https://", "python -m ddpm_lab.data.prepare")
    failed(capsys, arguments(published, tmp_path, partition="partition.txt"), "--partition partition.txt", "https://")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("000001.jpg 0\n000002.jpg\n", ["--partition", 'line 2 is "000002.jpg"', "0, 1 or 2"]),
        ("000001.jpg 3\n", ["--partition", 'line 1 is "000001.jpg 3"', "0, 1 or 2"]),
        ("000001.jpg 0\n000002.jpg 1\n", ["--partition", "1, 1, 0"]),
        ("", ["--partition", "0, 0, 0"]),
        ("000001.jpg 0\n000098.jpg 1\n000099.jpg 2\n", ["--images", "2 of the images", "p.txt", "000098.jpg"]),
    ],
)
def test_wrong_partitions(text, parts, published, tmp_path, capsys):
    (tmp_path / "p.txt").write_text(text)
    failed(capsys, arguments(published, tmp_path / "out", partition=tmp_path / "p.txt"), *parts)
    assert not (tmp_path / "out").exists()


def test_damaged_images_leave_nothing_behind(published, tmp_path, capsys):
    zipped = (published / "img_align_celeba.zip").read_bytes()
    (tmp_path / "short.zip").write_bytes(zipped[:-300])
    given = arguments(tmp_path, tmp_path, "short.zip", partition=published / "list_eval_partition.txt")
    failed(capsys, given, f"--images {tmp_path / 'short.zip'}", ".zip (")
    folder = Path(shutil.copytree(published, tmp_path / "copy"))
    out = tmp_path / "out"
    for content in (jpeg(8)[:1000], b""):
        (folder / "img_align_celeba" / NAMES[8]).write_bytes(content)
        failed(capsys, arguments(folder, out, "img_align_celeba"), "000009.jpg", "JPEG (")
    Image.new("RGB", (178, 178)).save(folder / "img_align_celeba" / NAMES[8])
    failed(capsys, arguments(folder, out, "img_align_celeba"), "000009.jpg is 178×178", "178×218")
    assert not out.exists()
    refused(out, f"data.root={out}")


def test_a_preparation_that_fails_leaves_the_one_before(published, root, tmp_path, capsys):
    folder = Path(shutil.copytree(published, tmp_path / "copy"))
    (folder / "img_align_celeba" / NAMES[11]).write_bytes(b"")
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    failed(capsys, arguments(folder, root, "img_align_celeba", crop="tqch148", size=32), "000012.jpg")
    assert {path.name: path.read_bytes() for path in root.iterdir()} == before
    assert main(arguments(published, root, crop="tqch148", size=32)) == 0
    assert loaded(root, crop="tqch148").notes == ["CelebA: crop tqch148, 32×32, bilinear filter"]


def test_size_is_at_most_the_crop(published, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(arguments(published, tmp_path, crop="ddim128", size=129))
    assert re.search(naming("--size 129", "1 to 128", "ddim128"), capsys.readouterr().err)


def test_it_runs_as_a_command_without_torch(published, tmp_path):
    code = "import sys; from ddpm_lab.data.prepare import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments(published, tmp_path, size=8)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert "Preparing CelebA: 100%" in done.stderr
