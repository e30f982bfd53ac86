"""Results that are slow to compute, on disk: statistics of real data under <root>/stats, trained extractors under
<root>/extractors. A file is named by the hash of its key, which lies beside it as .json."""

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm_lab.files import cache_root, write_bytes
from ddpm_lab.metrics.frechet import FeatureStats

log = logging.getLogger("ddpm_lab")


def read(key: dict[str, Any]) -> FeatureStats | None:
    """The statistics of `key`, which names all they depend on; None where they are missing or damaged."""
    try:
        with _path("stats", key, ".npz").open("rb") as file:
            return FeatureStats.from_state(dict(np.load(file, allow_pickle=False)))
    except Exception:  # a damaged file can raise anything from zlib.error to MemoryError
        return None


def write(key: dict[str, Any], stats: FeatureStats) -> None:
    """Keeps statistics for later runs. Logs a warning where the folder cannot be written."""
    content = io.BytesIO()
    np.savez(content, **stats.state())
    _keep(_path("stats", key, ".npz"), key, content)


def read_extractor(key: dict[str, Any]) -> dict[str, Any] | None:
    """The content that `write_extractor` kept under `key`; None where it is missing or damaged."""
    try:
        content = torch.load(_path("extractors", key, ".pt"), map_location="cpu", weights_only=True)
    except Exception:  # as above
        return None
    return content if isinstance(content, dict) else None


def write_extractor(key: dict[str, Any], state: dict[str, Any]) -> None:
    """Keeps tensors and plain containers for later runs. Logs a warning where the folder cannot be written."""
    content = io.BytesIO()
    torch.save(state, content)
    _keep(_path("extractors", key, ".pt"), key, content)


def _record(key: dict[str, Any]) -> bytes:
    return json.dumps(key, indent=2, sort_keys=True).encode()


def _path(folder: str, key: dict[str, Any], suffix: str) -> Path:
    return cache_root() / folder / f"{hashlib.sha256(_record(key)).hexdigest()[:32]}{suffix}"


def _keep(path: Path, key: dict[str, Any], content: io.BytesIO) -> None:
    try:
        write_bytes(path.with_suffix(".json"), _record(key))
        write_bytes(path, content.getvalue())
    except OSError as error:
        log.warning("%s could not be written (%s), so the next run computes it again", path, error.strerror)
