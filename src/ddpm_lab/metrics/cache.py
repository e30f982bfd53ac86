"""Statistics of real data on disk, where computing them is slow: <folder>/stats/<hash of what they depend on>.npz, .json."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ddpm_lab.metrics.frechet import FeatureStats

log = logging.getLogger("ddpm_lab")


def folder() -> Path:
    """DDPM_LAB_CACHE, or ~/.cache/ddpm-lab."""
    return Path(os.environ.get("DDPM_LAB_CACHE") or "~/.cache/ddpm-lab").expanduser() / "stats"


def cached(about: dict[str, Any], compute: Callable[[], FeatureStats]) -> FeatureStats:
    """The statistics that belong to `about`, which says all they depend on; computed where they are not there or not whole."""
    record = json.dumps(about, indent=2, sort_keys=True)
    path = folder() / f"{hashlib.sha256(record.encode()).hexdigest()[:32]}.npz"
    stats = _read(path)
    if stats is None:
        stats = compute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path.with_suffix(".json"), lambda file: file.write(record.encode()))
            _write(path, lambda file: np.savez(file, **stats.state()))
        except OSError as error:
            log.warning("%s could not be written (%s), so the next run computes it again", path, error.strerror)
    return stats


def _read(path: Path) -> FeatureStats | None:
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            return FeatureStats.from_state(dict(np.load(file, allow_pickle=False)))
    except Exception:  # a damaged file can raise anything from zlib.error to MemoryError
        return None


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Beside the target, then renamed: a reader finds a whole file or none."""
    partial = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
