"""Small files in the very formats in which data sets are published."""

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def random_images(n: int, channels: int, side: int, seed: int = 0) -> np.ndarray:
    """N C H W, uint8."""
    return np.random.default_rng(seed).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and its numpy wrote, CIFAR's batches among it: protocol 2, every string as bytes."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def string(self, text: str | bytes) -> None:
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = obj.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{name or obj.__name__}\n".encode())
        self.memoize(obj)

    dispatch[str] = dispatch[bytes] = string
    dispatch[type] = save_global
    dispatch[type(np.empty(0).__reduce__()[0])] = save_global
    dispatch[type(lambda: None)] = save_global


def python2_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def cifar_batches(images: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, bytes]:
    """The batches of an archive, as equal shares of `images`."""
    return {
        name: python2_pickle(
            {
                "batch_label": name,
                "labels": share.tolist(),
                "data": pixels.reshape(-1, 3072),
                "filenames": ["x.png"] * len(share),
            }
        )
        for name, pixels, share in zip(
            names, np.array_split(images, len(names)), np.array_split(labels, len(names)), strict=True
        )
    }


def tar_gz(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def idx(array: np.ndarray) -> bytes:
    """LeCun's format: two zeros, the type (8 is uint8), the number of axes, each length big-endian, the values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


class Payload:
    """What a malicious pickle would do when it is opened: make the file `trap`."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trap,)
