"""Images from an .npz or .npy file."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from ddpm_lab.data.labels import checked_labels
from ddpm_lab.data.memory import Split
from ddpm_lab.domains import File, checked, shown
from ddpm_lab.errors import UserError


@checked
@dataclass(eq=False)
class Npz(Split):
    """Square uint8 images from an .npz or .npy file, N×C×H×W, N×H×W×C or N×H×W (C is 1 or 3), with values below `levels`; and
    their classes, N integers from 0, where `label_key` names them.

    Raises ValueError for keys that need another, UserError, with key and value, for a file, array, type, shape or value that
    does not fit.
    """

    path: File
    key: str | None = None
    val_key: str | None = None
    levels: Annotated[int, Ge(2), Le(256)] = 256
    label_key: str | None = None
    val_label_key: str | None = None
    _: KW_ONLY
    flip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conditional and self.label_key is None:
            raise ValueError("conditional=true needs label_key, the array in the .npz with the class of each image")
        if (self.val_label_key is None) != (self.label_key is None or self.val_key is None):
            raise ValueError(
                f"val_label_key={shown(self.val_label_key)}: it goes with label_key={shown(self.label_key)} and "
                f"val_key={shown(self.val_key)}: the labels of validation images that have an array of their own"
            )

    @property
    def labelled(self) -> bool:
        return self.label_key is not None

    @property
    def file(self) -> Path:
        return Path(self.path).expanduser()

    def load(self) -> tuple[Tensor, Tensor]:
        """Sets the labels too."""
        arrays = self._arrays()
        images = self._images(arrays, "key", self._only_image_array(arrays) if self.key is None else self.key)
        if self.val_key is not None:
            val = self._images(arrays, "val_key", self.val_key)
            if val.shape[1:] != images.shape[1:]:
                raise UserError(
                    f"data.val_key={self.val_key}: its images are {tuple(val.shape[1:])}, "
                    f"those to train on {tuple(images.shape[1:])}; both must be alike."
                )
            self.train_labels = self._labels(arrays, "label_key", self.label_key, len(images))
            self.val_labels = self._labels(arrays, "val_label_key", self.val_label_key, len(val))
            return images, val
        return self.split(images, self._labels(arrays, "label_key", self.label_key, len(images)))

    def _labels(self, arrays: dict[str, np.ndarray], option: str, name: str | None, n: int) -> Tensor | None:
        """Of n images. Those to train on say how many classes there are; no others may be among those to validate on."""
        if name is None:
            return None
        labels = checked_labels(self._array(arrays, option, name), n, f"data.{option}={name}")
        highest = int(labels.max())
        if option == "label_key":
            self.classes = highest + 1
        elif highest >= (self.classes or 0):
            raise UserError(f"data.{option}={name} has a label of {highest}; allowed are those of label_key={self.label_key}.")
        return labels

    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            with self.file.open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
                content = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
            arrays = {name: array for name, array in content.items() if isinstance(array, np.ndarray)}
            if not arrays:
                raise ValueError("there are none in it")
            return arrays
        except Exception as error:  # a damaged file can raise anything from zlib.error to MemoryError
            raise UserError(f"data.path={self.file}: not readable as .npz or .npy of plain arrays ({error}).") from error

    def _only_image_array(self, arrays: dict[str, np.ndarray]) -> str:
        names = [name for name, array in arrays.items() if array.dtype == np.uint8 and array.ndim in (3, 4)]
        if len(names) != 1:
            problem = f"choose one of {len(names)} image arrays by data.key" if names else "no uint8 images in it"
            found = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
            raise UserError(f"data.path={self.file}: {problem}; its arrays are {found}.")
        return names[0]

    def _array(self, arrays: dict[str, np.ndarray], option: str, name: str) -> np.ndarray:
        if name not in arrays:
            names = ", ".join(arrays) or "one, without a name"
            raise UserError(f"data.{option}={name}: no such array in {self.file.name}; it has {names}.")
        return arrays[name]

    def _images(self, arrays: dict[str, np.ndarray], option: str, name: str) -> Tensor:
        array, label = self._array(arrays, option, name), f"data.{option}: {name or self.file.name}"
        if array.dtype != np.uint8:
            raise UserError(f"{label} is {array.dtype}; allowed is uint8 with values below data.levels.")
        array = channels_first(array, label)
        side = array.shape[-1]
        if len(array) < 2 or array.size == 0:
            raise UserError(f"{label} holds {len(array)} images of {side}×{side}; at least 2 with pixels are needed.")
        if (highest := int(array.max())) >= self.levels:
            raise UserError(f"data.levels={self.levels}: {name or self.file.name} has a pixel of {highest}.")
        return torch.from_numpy(np.ascontiguousarray(array))


def channels_first(array: np.ndarray, label: str) -> np.ndarray:
    """N×C×H×W from any of the three layouts."""
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise UserError(f"{label} has shape {list(array.shape)}; allowed are N×C×H×W, N×H×W×C and N×H×W with C 1 or 3.")
    if array.shape[2] != array.shape[3]:
        raise UserError(f"{label} has images of {array.shape[2]}×{array.shape[3]}; allowed are square ones: crop them first.")
    return array
