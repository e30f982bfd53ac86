"""MNIST and Fashion-MNIST from LeCun's IDX files, packed or not."""

import gzip
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, MultipleOf
from torch import Tensor
from torch.nn import functional as F

from ddpm_lab.data.published import Published, TrainAndTest, check, fetch
from ddpm_lab.domains import Text, checked

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
SIDE = 28
Pad = Annotated[int, Ge(SIDE), MultipleOf(2)]


@checked
@dataclass(eq=False)
class MNIST(TrainAndTest):
    """60,000 training and 10,000 test digits of 28×28 in grey (LeCun et al. 1998), with a border of zeros up to `pad` pixels.

    `root` holds the four IDX files, packed (.gz) or not; those that are absent are downloaded to it.
    """

    prefix = "mnist"
    known_side = "pad"
    mirrors = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
    checksums = {  # noqa: RUF012  (of the packed file, of its content)
        "train_images": ("md5:f68b3c2dcbeaaa9fbdd348bbdeb94873", "md5:6bbc9ace898e44ae57da46a324031adb"),
        "train_labels": ("md5:d53e105ee54ea40749a09fcbcd1e9432", "md5:a25bea736e30d166cdddb491f175f624"),
        "test_images": ("md5:9fb629c4189551a2d022fa330f9573f3", "md5:2646ac647ad5339dbf082846283269ea"),
        "test_labels": ("md5:ec29112dd5afa0611ce80d1b7f02629c", "md5:27ae3e4e09519cfbb04c329615203637"),
    }

    root: Text = "data/mnist"
    pad: Pad = 32

    def convert(self) -> dict[str, np.ndarray]:
        """As in the base. The checksums fix the contents, so these are not examined."""
        arrays = {key: parse_idx(self._content(key)) for key in FILES}
        return {key: array[:, None] if key.endswith("images") else array for key, array in arrays.items()}

    def load(self) -> tuple[Tensor, Tensor]:
        train, val = super().load()
        border = [(self.pad - SIDE) // 2] * 4
        return F.pad(train, border), F.pad(val, border)

    def _content(self, key: str) -> bytes:
        """An unpacked file, checked."""
        packed_sum, content_sum = self.checksums[key]
        path, name = self.store.root / FILES[key], f"{FILES[key]}.gz"
        if path.is_file():
            content = path.read_bytes()
            check(path, content, content_sum)
            return content
        urls = tuple(f"{mirror}{name}" for mirror in self.mirrors)
        return gzip.decompress(fetch(self.store.root, Published(name, packed_sum, urls), self.download).read_bytes())


@checked
@dataclass(eq=False)
class FashionMNIST(MNIST):
    """60,000 training and 10,000 test pictures of clothes, made to take MNIST's place (Xiao et al. 2017)."""

    prefix = "fashion_mnist"
    mirrors = (
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    )
    checksums = {  # noqa: RUF012
        "train_images": ("md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d", "md5:f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        "train_labels": ("md5:25c81989df183df01b3e8a0aad5dffbe", "md5:9018921c3c673c538a1fc5bad174d6f9"),
        "test_images": ("md5:bef4ecab320f06d8554ea6380940ec79", "md5:8181f5470baa50b63fa0f6fddb340f0a"),
        "test_labels": ("md5:bb300cfdad3c16e7a12a480ee83cd310", "md5:15d484375f8d13e6eb1aabb0c3f46965"),
    }

    root: Text = "data/fashion_mnist"


def parse_idx(content: bytes) -> np.ndarray:
    """uint8 of any number of axes: two zeros, 8, the number of axes, each length as 4 bytes, and the values."""
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
