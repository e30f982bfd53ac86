"""Images from a folder. Each step from file to pixels is an argument; images that none of them covers are refused by name."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from ddpm_lab.data.labels import classes_of_folders
from ddpm_lab.data.memory import Split
from ddpm_lab.domains import PositiveInt, Text, checked
from ddpm_lab.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
PROBLEMS = {
    "crop": ("not square", "type data.crop=center to cut the largest square from the middle"),
    "resize": ("not of data.size", "choose how to resize: data.resize=bicubic, bilinear, box or lanczos"),
    "alpha": ("transparent in places", "choose what is behind them: data.alpha=white or data.alpha=black"),
    "unreadable": ("unreadable", "repair or remove them, or type data.unreadable=skip to leave them out"),
}
SHOWN = 10


class _Refused(Exception):
    """An image that the arguments do not cover: (the key, the problem)."""


@checked
@dataclass(eq=False)
class ImageFolder(Split):
    """Every PNG, JPEG, WebP, BMP and first frame of a GIF under `path`, decoded into memory as N×channels×size×size.

    In this order: turned as EXIF says, 16 bits to the upper 8, put on `alpha`, grey or RGB, cropped, resized. Files and folders
    whose names begin with a dot are left out. `val_fraction` of the images, chosen by `split_seed` in the order of their paths,
    are held out. If they are `conditional`, the class of an image is the folder below `path` that it lies in.
    """

    known_side = "size"

    path: Text
    size: PositiveInt = 64
    channels: Literal[1, 3] = 3
    crop: Literal["center", "none"] = "center"
    resize: Literal["bicubic", "bilinear", "box", "lanczos", "none"] = "bicubic"
    alpha: Literal["refuse", "white", "black"] = "refuse"
    unreadable: Literal["refuse", "skip"] = "refuse"
    _: KW_ONLY
    flip: bool = True

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser()

    def load(self) -> tuple[Tensor, Tensor]:
        pixels, names = self._decoded(self._files())
        if not self.conditional:
            return self.split(torch.from_numpy(pixels))
        labels, classes = classes_of_folders(names, f"data.path={self.folder}")
        self.classes = len(classes)
        self.notes.append(f"classes: {_few([f'{number} {name}' for number, name in enumerate(classes)])}")
        return self.split(torch.from_numpy(pixels), labels)

    @property
    def labelled(self) -> bool:
        return self.conditional

    def _files(self) -> list[str]:
        """Paths of the images below `path`, in an order that is the same everywhere."""
        if not self.folder.is_dir():
            raise UserError(f"data.path={self.folder}: there is no such folder.")
        found = [path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir()]
        inside = [path.relative_to(self.folder) for path in found]
        names = [path.as_posix() for path in inside if not any(part.startswith(".") for part in path.parts)]
        if len(names) < 2:
            named, n = ", ".join(f"*{suffix}" for suffix in SUFFIXES), len(names) or "no"
            raise UserError(f"data.path={self.folder}: {n} images in it or below it; at least 2 are needed, named {named}.")
        return sorted(names)

    def _decoded(self, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """The pixels of those that can be read, and their names."""
        pixels = np.empty((len(names), self.channels, self.size, self.size), np.uint8)
        kept, refused = [], {key: [] for key in PROBLEMS}
        for name in tqdm(names, desc="Reading images", leave=False):
            try:
                pixels[len(kept)] = self._pixels(self.folder / name)
                kept.append(name)
            except _Refused as refusal:
                key, problem = refusal.args
                refused[key].append(f"{name} ({problem})")
            except Exception as error:  # a damaged file can raise anything from OSError to SyntaxError
                refused["unreadable"].append(f"{name} ({' '.join(str(error).split()) or type(error).__name__})")
        if self.unreadable == "skip" and (left_out := refused.pop("unreadable")):
            self.notes.append(f"data.unreadable=skip: left out {_list('unreadable', left_out)}")
        if key := next((key for key in refused if refused[key]), None):
            problem, advice = PROBLEMS[key]
            raise UserError(f"data.{key}={getattr(self, key)}: {_list(problem, refused[key])}; {advice}.")
        if len(kept) < 2:
            raise UserError(f"data.path={self.folder}: {len(kept)} of {len(names)} images can be read; at least 2 are needed.")
        return pixels[: len(kept)], kept

    def _pixels(self, path: Path) -> np.ndarray:
        """C×size×size."""
        with Image.open(path, formats=FORMATS) as file:
            file.load()
            image = ImageOps.exif_transpose(file)
        image = self._resized(self._cropped(self._coloured(image)))
        return np.asarray(image).reshape(self.size, self.size, self.channels).transpose(2, 0, 1)

    def _coloured(self, image: Image.Image) -> Image.Image:
        if image.mode == "I" or image.mode.startswith("I;16"):
            image = _upper_8_bits(image)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = self._on_background(image.convert("RGBA"))
        return image.convert("L" if self.channels == 1 else "RGB")

    def _on_background(self, image: Image.Image) -> Image.Image:
        lowest, _ = image.getchannel("A").getextrema()
        if lowest == 255:  # opaque all over
            return image
        if self.alpha == "refuse":
            raise _Refused("alpha", f"alpha down to {lowest}")
        return Image.alpha_composite(Image.new("RGBA", image.size, self.alpha), image)

    def _cropped(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if self.crop == "none":
            if width != height:
                raise _Refused("crop", f"{width}×{height}")
            return image
        side = min(width, height) if self.resize != "none" else self.size
        if side > min(width, height):
            raise _Refused("resize", f"{width}×{height}")
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))

    def _resized(self, image: Image.Image) -> Image.Image:
        if image.size == (self.size, self.size):
            return image
        if self.resize == "none":
            raise _Refused("resize", f"{image.width}×{image.height}")
        return image.resize((self.size, self.size), Image.Resampling[self.resize.upper()])


def _upper_8_bits(image: Image.Image) -> Image.Image:
    """Of 16-bit grey, as Pillow itself does with 16-bit colour. One grey may stand for transparent."""
    values = np.asarray(image)
    upper = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in image.info:
        upper.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return upper


def _list(problem: str, which: Sequence[str]) -> str:
    """How many files have the problem, and the first of them."""
    return f"{len(which)} {problem}: {_few(which)}"


def _few(which: Sequence[str]) -> str:
    return ", ".join(which[:SHOWN]) + (f" and {len(which) - SHOWN} more" if len(which) > SHOWN else "")
