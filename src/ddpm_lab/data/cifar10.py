"""CIFAR-10 from its official archive, without running anything that is in it."""

import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_lab.data.published import Published, TrainAndTest, check, fetch
from ddpm_lab.domains import Text, checked
from ddpm_lab.errors import UserError

FOLDER = "cifar-10-batches-py"
ARCHIVE = Published(
    "cifar-10-python.tar.gz",
    "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
)
BATCHES = {
    "train": {
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    },
    "test": {"test_batch": "md5:40351d587109b95175f43aff81a1287e"},
}


@checked
@dataclass(eq=False)
class CIFAR10(TrainAndTest):
    """50,000 training and 10,000 test photographs of 32×32 in 10 classes (Krizhevsky 2009).

    `root` holds the official archive or the folder that was extracted from it; else the archive is downloaded to it.
    """

    prefix = "cifar10"
    known_side = 32

    root: Text = "data/cifar10"
    _: KW_ONLY
    flip: bool = True

    def convert(self) -> dict[str, np.ndarray]:
        folder = self.store.root / FOLDER
        if folder.is_dir():
            return _arrays(folder, lambda name: (folder / name).read_bytes())
        path = fetch(self.store.root, ARCHIVE, self.download)
        with tarfile.open(path, "r:gz") as archive:
            return _arrays(path, lambda name: _member(archive, f"{FOLDER}/{name}"))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()


def _arrays(source: Path, content: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    arrays = {}
    for part, batches in BATCHES.items():
        read = [_batch(source, name, checksum, content) for name, checksum in batches.items()]
        arrays[f"{part}_images"] = np.concatenate([images for images, _ in read])
        arrays[f"{part}_labels"] = np.concatenate([labels for _, labels in read])
    return arrays


def _batch(source: Path, name: str, checksum: str, content: Callable[[str], bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Images N 3 32 32 and labels of one batch, whose bytes are checked before they are unpickled."""
    try:
        packed = content(name)
    except (FileNotFoundError, KeyError) as error:
        raise UserError(f"{source}: {name} is missing in it; delete it, and put the official one there.") from error
    check(f"{source}/{name}", packed, checksum)
    try:
        batch = unpickled(packed)
        pixels, labels = batch[b"data"], np.array(batch[b"labels"])
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072) or not set(np.unique(labels)) <= set(range(10)):
            raise ValueError("its arrays are not those of CIFAR-10")
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{source}/{name}: not a batch of CIFAR-10 ({error}).") from error
    return pixels.reshape(-1, 3, 32, 32), labels.astype(np.uint8)


class _Plain(pickle.Unpickler):
    """Makes numbers, strings, lists, dicts and numpy arrays; whatever else a pickle names is refused before it is made."""

    allowed = {  # noqa: RUF012
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in self.allowed:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not data")
        return self.allowed[module_name, global_name]


def unpickled(content: bytes) -> Any:
    """What Python 2 pickled, its strings as bytes."""
    return _Plain(io.BytesIO(content), encoding="bytes").load()
