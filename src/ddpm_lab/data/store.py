"""A data set as plain .npy files with a record of their SHA-256 beside them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_lab.data.files import sum_of_file
from ddpm_lab.errors import UserError
from ddpm_lab.files import read_json, replacing, write_json


class Store:
    """`<name>_<key>.npy` for each array and `<name>.json`, the record, in the folder `root`. The record is written last and
    removed first, so what it describes is whole."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.record_path = root / f"{name}.json"

    def path(self, key: str) -> Path:
        return self.root / f"{self.name}_{key}.npy"

    def record(self) -> dict[str, Any] | None:
        """The facts and, under "arrays", the SHA-256 of each array; None where nothing was stored, or not to the end."""
        try:
            content = read_json(self.record_path)
            keys = [key for key, array in content["arrays"].items() if {"sha256", "bytes", "modified_ns"} <= array.keys()]
            if len(keys) != len(content["arrays"]):
                raise KeyError("sha256, bytes or modified_ns")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.record_path}: not a readable record of arrays ({error}); delete it to have them made anew."
            ) from error
        return content if all(self.path(key).is_file() for key in keys) else None

    def write(self, arrays: Mapping[str, np.ndarray], **facts: Any) -> None:
        """Store `arrays` and `facts`. Raises UserError where the folder cannot be written to."""
        self.clear()
        try:
            for key, array in arrays.items():
                with replacing(self.path(key)) as partial, partial.open("wb") as file:
                    np.save(file, array, allow_pickle=False)
        except OSError as error:
            raise self._unwritable(error) from error
        self.seal(list(arrays), **facts)

    def clear(self) -> None:
        """Remove the record, before arrays are replaced."""
        try:
            self.record_path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def seal(self, keys: Sequence[str], **facts: Any) -> None:
        """Write the record of the arrays that lie there."""
        try:
            arrays = {key: {"sha256": sum_of_file(self.path(key), "sha256"), **self._stamp(key)} for key in keys}
            write_json(self.record_path, {**facts, "arrays": arrays})
        except OSError as error:
            raise self._unwritable(error) from error

    def read(self, key: str, mapped: bool = False) -> np.ndarray:
        """One array, its SHA-256 compared with the record. A `mapped` one stays on the disk, and is hashed only when its size
        or its time of change is no longer what was recorded. Raises UserError for an array that was altered."""
        record = (self.record() or {"arrays": {}})["arrays"].get(key)
        path = self.path(key)
        unaltered = record is not None and (
            (mapped and self._stamp(key) == {name: record[name] for name in ("bytes", "modified_ns")})
            or sum_of_file(path, "sha256") == record["sha256"]
        )
        if not unaltered:
            raise UserError(
                f"{path}: altered or damaged since it was made (its SHA-256 is not the one in {self.record_path.name}); "
                f"delete {self.record_path} to have it made anew."
            )
        # "c" rather than "r": torch warns of memory it may not write to; what it writes would not reach the file.
        return np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)

    def fingerprint(self, *settings: object) -> str:
        """Of the stored arrays and of what is done with them, without reading them."""
        sums = {key: array["sha256"] for key, array in (self.record() or {"arrays": {}})["arrays"].items()}
        return hashlib.sha256(json.dumps([self.name, sums, settings], sort_keys=True).encode()).hexdigest()

    def _stamp(self, key: str) -> dict[str, int]:
        status = self.path(key).stat()
        return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.root}: the arrays of {self.name} cannot be written there ({error.strerror or error}).")
