"""Makes arrays to train on from data that are not downloaded by this program: `python -m ddpm_lab.data.prepare celeba …`."""

import argparse
import io
import shlex
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from ddpm_lab.data.store import Store
from ddpm_lab.errors import UserError

WIDTH, HEIGHT = 178, 218  # of CelebA's aligned images
Crop = Literal["center140", "ddim128", "tqch148", "center178"]
CROPS: dict[str, tuple[int, int, int]] = {  # left, top, side
    "center140": (19, 39, 140),  # score_sde: the central 140 × 140
    "ddim128": (25, 57, 128),  # DDIM: 128 × 128 around x = 89, y = 121
    "tqch148": (15, 40, 148),  # tqch/ddpm-torch: 148 × 148 from the 40th row and 15th column
    "center178": (0, 20, 178),  # the largest square
}
PARTS = {"0": "train", "1": "val", "2": "test"}  # by their numbers in list_eval_partition.txt
Reader = Callable[[], bytes]

STEPS = """\
CelebA may be had for research from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html and is not downloaded by this program:
  1. follow "Align&Cropped Images" there to Img/img_align_celeba.zip (1.4 GB), and to Eval/list_eval_partition.txt
  2. type: {command}"""


def command(out: str | Path, crop: str, size: int) -> str:
    """The command that prepares CelebA."""
    files = "--images img_align_celeba.zip --partition list_eval_partition.txt"
    return f"python -m ddpm_lab.data.prepare celeba {files} --out {shlex.quote(str(out))} --crop {crop} --size {size}"


def celeba(images: Path, partition: Path, out: Path, crop: str, size: int) -> None:
    """Cut and shrink CelebA's images to uint8 N×3×size×size, one .npy per part under `out`, with the crop in the record.

    Shrinks by Pillow's bilinear filter, whose support grows with the factor, as the codes that these crops are from do.
    Raises UserError for files that are absent or not CelebA's, and leaves what was prepared before.
    """
    for option, path in (("images", images), ("partition", partition)):
        if not path.exists():
            steps = STEPS.format(command=command(out, crop, size))
            raise UserError(f"--{option} {path}: there is no such file.\n{steps}")
    parts = read_partition(partition)
    with ExitStack() as opened:
        readers = openers(images, opened)
        missing = [name for names in parts.values() for name in names if name not in readers]
        if missing:
            raise UserError(
                f"--images {images}: {len(missing):,} of the images that {partition.name} names are not in it, "
                f"{missing[0]} the first of them; is it the whole of img_align_celeba?"
            )
        bar = opened.enter_context(tqdm(total=sum(map(len, parts.values())), unit="images", desc="Preparing CelebA"))
        with Store(out, "celeba", "--out ").replacing(parts, crop=crop, size=size, filter="bilinear") as paths:
            for part, names in parts.items():
                _write(paths[part], names, readers, crop, size, bar)
    sizes = ", ".join(f"{len(names):,} {part}" for part, names in parts.items())
    print(f"{out}: CelebA in {size}×{size}, crop {crop}: {sizes}")


def read_partition(path: Path) -> dict[str, list[str]]:
    """Names of the images of each part, in the order of the file, whose lines read `000001.jpg 0`."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS.values()}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--partition {path}: not readable ({error}).") from error
    for number, line in enumerate(lines, 1):
        match line.split():
            case []:
                pass
            case [name, part] if part in PARTS:
                parts[PARTS[part]].append(name)
            case _:
                raise UserError(
                    f'--partition {path}: line {number} is "{line[:60]}", and not the name of an image and 0, 1 or 2.'
                )
    if not all(parts.values()):
        found = ", ".join(str(len(names)) for names in parts.values())
        raise UserError(f"--partition {path}: names {found} images of 0, 1 and 2; each needs some.")
    return parts


def openers(images: Path, stack: ExitStack) -> dict[str, Reader]:
    """For each .jpg of a folder or a .zip, by its bare name, a function that reads it."""
    if images.is_dir():
        return {path.name: path.read_bytes for path in images.rglob("*.jpg")}
    try:
        archive = stack.enter_context(zipfile.ZipFile(images))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"--images {images}: neither a folder nor a readable .zip ({error}); cut short while fetched?"
        ) from error
    return {PurePosixPath(name).name: partial(archive.read, name) for name in archive.namelist() if name.endswith(".jpg")}


def _write(path: Path, names: Sequence[str], readers: Mapping[str, Reader], crop: str, size: int, bar: tqdm) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(names), 3, size, size)}
    with path.open("wb") as file:  # row by row, so that it need not fit in memory
        np.lib.format.write_array_header_1_0(file, header)
        for name in names:
            file.write(_face(name, readers[name], crop, size).tobytes())
            bar.update()


def _face(name: str, read: Reader, crop: str, size: int) -> np.ndarray:
    """One image, 3×size×size."""
    left, top, side = CROPS[crop]
    try:
        image = Image.open(io.BytesIO(read()), formats=["JPEG"]).convert("RGB")
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{name}: not readable as JPEG ({error}).") from error
    if image.size != (WIDTH, HEIGHT):
        raise UserError(
            f"{name} is {image.width}×{image.height}; the aligned images of CelebA, which the crops are meant for, "
            f"are {WIDTH}×{HEIGHT}."
        )
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ddpm_lab.data.prepare", description="Make arrays to train on.")
    sets = parser.add_subparsers(dest="set", required=True)
    faces = sets.add_parser(
        "celeba",
        help="CelebA, cut and shrunk",
        epilog=STEPS.format(command="python -m ddpm_lab.data.prepare celeba …"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    faces.add_argument("--images", type=Path, default=Path("img_align_celeba.zip"), help="img_align_celeba, folder or .zip")
    faces.add_argument("--partition", type=Path, default=Path("list_eval_partition.txt"), help="list_eval_partition.txt")
    faces.add_argument("--out", type=Path, default=Path("data/celeba"), help="folder for the arrays")
    faces.add_argument("--crop", choices=CROPS, default="center140", help="part of the image; scores compare within one crop")
    faces.add_argument("--size", type=int, default=64, help="width and height after shrinking")
    given = parser.parse_args(arguments)
    if not 1 <= given.size <= CROPS[given.crop][2]:
        faces.error(f"--size {given.size}: allowed is 1 to {CROPS[given.crop][2]}, the width of {given.crop}")
    try:
        celeba(given.images.expanduser(), given.partition.expanduser(), given.out.expanduser(), given.crop, given.size)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
