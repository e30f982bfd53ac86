"""Images from an .npz or .npy file."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from ddpm_lab.data.memory import Split
from ddpm_lab.domains import File, checked
from ddpm_lab.errors import UserError


@checked
@dataclass(eq=False)
class Npz(Split):
    """Square uint8 images from an .npz or .npy file, N×C×H×W, N×H×W×C or N×H×W (C is 1 or 3), with values below `levels`.

    Raises UserError, with key and value, for a file, array, type, shape or value that does not fit.
    """

    path: File
    key: str | None = None
    val_key: str | None = None
    levels: Annotated[int, Ge(2), Le(256)] = 256
    _: KW_ONLY
    flip: bool = True

    @property
    def file(self) -> Path:
        return Path(self.path).expanduser()

    def load(self) -> tuple[Tensor, Tensor]:
        arrays = self._arrays()
        images = self._images(arrays, "key", self._only_image_array(arrays) if self.key is None else self.key)
        if self.val_key is not None:
            val = self._images(arrays, "val_key", self.val_key)
            if val.shape[1:] != images.shape[1:]:
                raise UserError(
                    f"data.val_key={self.val_key}: its images are {tuple(val.shape[1:])}, "
                    f"those to train on {tuple(images.shape[1:])}; both must be alike."
                )
            return images, val
        return self.split(images)

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

    def _images(self, arrays: dict[str, np.ndarray], option: str, name: str) -> Tensor:
        if name not in arrays:
            names = ", ".join(arrays) or "one, without a name"
            raise UserError(f"data.{option}={name}: no such array in {self.file.name}; it has {names}.")
        array, label = arrays[name], f"data.{option}: {name or self.file.name}"
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
