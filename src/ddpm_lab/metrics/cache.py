"""Results that are slow to compute, on disk: statistics of real data under <root>/stats, trained extractors under
<root>/extractors. A file is named by the hash of its key, which lies beside it as .json."""

import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from ddpm_lab.files import cache_root, write_bytes
from ddpm_lab.metrics.frechet import FeatureStats

log = logging.getLogger("ddpm_lab")


def folder() -> Path:
    """The folder of statistics."""
    return cache_root() / "stats"


def read(key: dict[str, Any]) -> FeatureStats | None:
    """The statistics of `key`, which names all they depend on; None where they are missing or damaged."""
    path = _path(key)
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            return FeatureStats.from_state(dict(np.load(file, allow_pickle=False)))
    except Exception:  # a damaged file can raise anything from zlib.error to MemoryError
        return None


def write(key: dict[str, Any], stats: FeatureStats) -> None:
    """Keeps statistics for later runs. Logs a warning where the folder cannot be written."""
    _keep(_path(key), key, lambda file: np.savez(file, **stats.state()))


def read_extractor(key: dict[str, Any]) -> dict[str, Any] | None:
    """The content that `write_extractor` kept under `key`; None where it is missing or damaged."""
    path = _extractor_path(key)
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # as above
        return None
    return content if isinstance(content, dict) else None


def write_extractor(key: dict[str, Any], content: dict[str, Any]) -> None:
    """Keeps tensors and plain containers for later runs. Logs a warning where the folder cannot be written."""
    _keep(_extractor_path(key), key, lambda file: torch.save(content, file))


def _record(key: dict[str, Any]) -> bytes:
    return json.dumps(key, indent=2, sort_keys=True).encode()


def _name(key: dict[str, Any]) -> str:
    return hashlib.sha256(_record(key)).hexdigest()[:32]


def _path(key: dict[str, Any]) -> Path:
    return folder() / f"{_name(key)}.npz"


def _extractor_path(key: dict[str, Any]) -> Path:
    return cache_root() / "extractors" / f"{_name(key)}.pt"


def _keep(path: Path, key: dict[str, Any], write: Callable[[BinaryIO], object]) -> None:
    buffer = io.BytesIO()
    write(buffer)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path.with_suffix(".json"), _record(key))
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        log.warning("%s could not be written (%s), so the next run computes it again", path, error.strerror)
