"""A data set as plain .npy files with a record of their SHA-256 beside them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_lab.errors import UserError
from ddpm_lab.files import read_json, replacing, sha256, write_json

OF_AN_ARRAY = {"sha256", "bytes", "modified_ns"}


class Store:
    """`<name>_<key>.npy` for each array and `<name>.json`, the record, in the folder `root`, which the user named by `option`.
    The record is written last and removed before arrays are replaced, so what it describes is whole."""

    def __init__(self, root: Path, name: str, option: str = "data.root=") -> None:
        self.root, self.name, self.option = root, name, option
        self.record_path = root / f"{name}.json"

    def path(self, key: str) -> Path:
        return self.root / f"{self.name}_{key}.npy"

    def record(self) -> dict[str, Any] | None:
        """The facts and, under "arrays", the SHA-256 of each array; None where nothing was stored, or not to the end."""
        try:
            content = read_json(self.record_path)
            if not all(array.keys() >= OF_AN_ARRAY for array in content["arrays"].values()):
                raise KeyError(", ".join(sorted(OF_AN_ARRAY)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.record_path}: not a readable record of arrays ({error}); delete it to have them made anew."
            ) from error
        return content if all(self.path(key).is_file() for key in content["arrays"]) else None

    @contextmanager
    def replacing(self, keys: Iterable[str], **facts: Any) -> Iterator[dict[str, Path]]:
        """Yields by key the names to write arrays to. When the block ends, they take their places together, and the record says
        `facts`. If the block raises, what was stored before stays. Raises UserError where the folder cannot be written to."""
        try:
            with ExitStack() as written:
                paths = {key: written.enter_context(replacing(self.path(key))) for key in keys}
                yield paths
                self.record_path.unlink(missing_ok=True)
            arrays = {key: {"sha256": sha256(self.path(key)), **self._stamp(key)} for key in paths}
            write_json(self.record_path, {**facts, "arrays": arrays})
        except OSError as error:
            raise UserError(
                f"{self.option}{self.root}: the arrays of {self.name} cannot be written there ({error.strerror or error})."
            ) from error

    def write(self, arrays: Mapping[str, np.ndarray], **facts: Any) -> None:
        """Store `arrays` and `facts`. Raises UserError where the folder cannot be written to."""
        with self.replacing(arrays, **facts) as paths:
            for key, array in arrays.items():
                np.save(paths[key], array, allow_pickle=False)

    def read(self, key: str, mapped: bool = False) -> np.ndarray:
        """One array, its SHA-256 compared with the record. A `mapped` one stays on the disk, and is hashed only when its size
        or its time of change is no longer what was recorded. Raises UserError for an array that was altered."""
        path, recorded = self.path(key), self._recorded().get(key)
        if recorded is None or not (
            (mapped and self._stamp(key).items() <= recorded.items()) or sha256(path) == recorded["sha256"]
        ):
            raise UserError(
                f"{path}: altered or damaged since it was made (its SHA-256 is not the one in {self.record_path.name}); "
                f"delete {self.record_path} to have it made anew."
            )
        # "c" rather than "r": torch warns of memory it may not write to; what it writes would not reach the file.
        return np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)

    def fingerprint(self, *settings: object) -> str:
        """Hash of the stored arrays and of `settings`, without reading the arrays."""
        sums = {key: array["sha256"] for key, array in self._recorded().items()}
        return hashlib.sha256(json.dumps([self.name, sums, settings], sort_keys=True).encode()).hexdigest()

    def _recorded(self) -> dict[str, dict[str, Any]]:
        return (self.record() or {"arrays": {}})["arrays"]

    def _stamp(self, key: str) -> dict[str, int]:
        status = self.path(key).stat()
        return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
