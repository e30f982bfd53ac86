"""Data sets that were published as a training and a test part: their files are downloaded, checked, and converted once."""

import hashlib
import shutil
from dataclasses import dataclass
from http.client import HTTPException
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.request import urlopen

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ddpm_lab.data.memory import Split
from ddpm_lab.data.store import Store
from ddpm_lab.domains import Text
from ddpm_lab.errors import UserError
from ddpm_lab.files import replacing


class Published(NamedTuple):
    """A file as its authors published it; `checksum` is "md5:…" or "sha256:…"."""

    name: str
    checksum: str
    urls: tuple[str, ...]


def checksum_of(file: BufferedIOBase, like: str) -> str:
    """Of a file from its beginning, by the algorithm of the checksum `like`."""
    algorithm = like.partition(":")[0]
    digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{digest.hexdigest()}"


def check(source: str | Path, file: BufferedIOBase | bytes, checksum: str) -> None:
    """Raises UserError, naming `source`, for a content that is not the published one."""
    actual = checksum_of(BytesIO(file) if isinstance(file, bytes) else file, checksum)
    if actual != checksum:
        raise UserError(
            f"{source}: incomplete, damaged or another file: its checksum is {actual}, the published one {checksum}; "
            "delete it, and download it again or copy the published file there."
        )


def fetch(root: Path, file: Published, download: bool) -> Path:
    """The path of `file` under `root`, checked, or downloaded if it is absent. Raises UserError that names the file and its
    place."""
    path = root / file.name
    if path.is_file():
        with path.open("rb") as content:
            check(path, content, file.checksum)
        return path
    by_hand = f"get {file.urls[0]} by other means and put it at {path}"
    if not download:
        raise UserError(f"data.root={root}: {file.name} is not there, and data.download=false; allow it, or {by_hand}.")
    problems = []
    for url in file.urls:
        try:
            _download(url, path, file.checksum)
            return path
        except (OSError, HTTPException) as error:
            problems.append(f"{url}: {getattr(error, 'reason', None) or error}")
    raise UserError(f"data.root={root}: {file.name} is not there and cannot be downloaded ({'; '.join(problems)}): {by_hand}.")


def _download(url: str, path: Path, checksum: str) -> None:
    with replacing(path) as partial, urlopen(url, timeout=30) as answer, partial.open("wb+") as out:
        size = int(answer.headers.get("Content-Length") or 0) or None
        with tqdm.wrapattr(answer, "read", size, desc=f"Downloading {path.name}") as body:
            shutil.copyfileobj(body, out)
        out.seek(0)
        if checksum_of(out, checksum) != checksum:
            raise OSError(f"the download is not the published file, whose checksum is {checksum}")


@dataclass(eq=False)
class TrainAndTest(Split):
    """Reads the published files once and keeps them as .npy under `root`; later runs read those, checked by their SHA-256.

    With `validation="test"` the published test images are the validation data and every training image is trained on; with
    "split" a part of the training images is held out, chosen by `split_seed`, and the test images stay untouched.
    """

    prefix = ""
    classes = 10

    root: Text
    download: bool = True
    validation: Literal["test", "split"] = "test"

    @property
    def store(self) -> Store:
        return Store(Path(self.root).expanduser(), self.prefix)

    def convert(self) -> dict[str, np.ndarray]:
        """train_images and test_images, uint8 N C H W, train_labels and test_labels, uint8 N: from the published files."""
        raise UserError(f"data: {type(self).__name__} does not define convert().")

    def load(self) -> tuple[Tensor, Tensor]:
        if self.store.record() is None:
            self.store.write(self.convert())
        images, labels = self._stored("train")
        if self.validation == "split":
            return self.split(images, labels)
        val_images, self.val_labels = self._stored("test")
        self.train_labels = labels
        return images, val_images

    def _stored(self, part: str) -> tuple[Tensor, Tensor]:
        images, labels = (torch.from_numpy(self.store.read(f"{part}_{kind}")) for kind in ("images", "labels"))
        return images, labels.long()

    def fingerprint(self) -> str:
        split = [] if self.validation == "test" else [self.val_fraction, self.split_seed]
        return self.store.fingerprint(self.validation, split, self.shape)
